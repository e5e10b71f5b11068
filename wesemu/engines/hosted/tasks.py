"""The tasks of a run as its worker sees them: their files, their process groups, their ends."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from wesemu.engines import journal as events
from wesemu.engines.failures import LINE_LIMIT, hint, last_words, shorten
from wesemu.engines.journal import Journal
from wesemu.engines.leases import Lease, LeaseDesk, LeasesClosed
from wesemu.engines.processes import identify, send_group
from wesemu.engines.task_book import TaskBook, job_key
from wesemu.engines.task_process import Attempt, TaskProcess, Usage
from wesemu.runs.model import Resources, RunFailure, TaskLog, TaskState
from wesemu.runs.workspace import Workspace
from wesemu.tool_messages import failure_reason


class RunCanceled(RuntimeError):
    """No task is started any more."""


class Tasks:
    """Records tasks by name; a name begun again is another attempt. Thread-safe.

    With `leases` every attempt takes one before it begins, and gives it back when its process
    has ended. It holds no other meanwhile, so no two tasks can wait for each other.
    """

    def __init__(
        self, workspace: Workspace, journal: Journal, engine: str, leases: LeaseDesk | None = None
    ) -> None:
        self.journal = journal
        self._leases = leases
        self._workspace = workspace
        self._engine = engine
        self._book = TaskBook(events.history(workspace))
        self._changed = threading.Condition()
        self._numbers = dict[str, int]()
        self._attempts = dict[str, int]()
        self._running = dict[str, Attempt]()
        self._failed = dict[str, tuple[TaskLog, str]]()
        self._verdicts = dict[str, str]()
        self._groups = set[int]()
        self._waiting = 0
        self._planned = 0
        self._canceled = False

    def plan(self, total: int) -> None:
        """How many tasks there will be at least."""
        with self._changed:
            self._planned = total
            self.journal.write("planned", total=max(total, self._book.total))
            self._progress()

    def _progress(self) -> None:
        total = max(self._planned, self._book.total)
        self.journal.write("progress", done=self._book.done, total=total)

    def begin(
        self,
        name: str,
        command: str,
        wanted: Resources,
        needed: Callable[[], bool] = lambda: True,
    ) -> Attempt:
        """Blocks until the node has what the task wants. Raises RunCanceled; LeaseForgone once
        the task is not `needed` any more."""
        task, key = self._queue(name, command, wanted.cores)
        lease = self._take(wanted, needed)
        with self._changed:
            try:
                self._refuse_canceled()
                attempt = Attempt(self._workspace, replace(task, state=TaskState.RUNNING), lease)
                attempt.note_command(command)
            except BaseException:
                if lease is not None:
                    lease.release()
                raise
            self._running[name] = attempt
            self.journal.task(attempt.task, key=key)
            return attempt

    def _queue(self, name: str, command: str, threads: int) -> tuple[TaskLog, str]:
        """The new attempt, and the task's key."""
        with self._changed:
            self._refuse_canceled()
            number = self._numbers.setdefault(name, len(self._numbers) + 1)
            count = self._attempts[name] = self._attempts.get(name, 0) + 1
            key = job_key(name, {}, [])
            self._book.add(number, key)
            task = TaskLog(
                id=self._book.id(number),
                name=name,
                state=TaskState.QUEUED,
                attempt=self._book.attempt(number, count),
                command=command,
                threads=threads,
            )
            if self._leases is not None:
                self.journal.task(task, key=key)
            return task, key

    def _take(self, wanted: Resources, needed: Callable[[], bool]) -> Lease | None:
        if self._leases is None:
            return None
        with self._changed:
            self._waiting += 1
        try:
            return self._leases.take(wanted, needed)
        except LeasesClosed as closed:
            raise RunCanceled(str(closed)) from None
        finally:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()

    def spawn(self, attempt: Attempt, command: list[str], **options: Any) -> TaskProcess:
        """Start the one process of an attempt, in a group of its own; where the options name no
        `stdout` and `stderr` they are the task's. Raises RunCanceled and OSError."""
        attempt.share_lease(options)
        opened = {name: attempt.open(name) for name in ("stdout", "stderr") if name not in options}
        try:
            with self._changed:
                self._refuse_canceled()
                process = TaskProcess(
                    command,
                    lambda code, usage: self._process_ended(process, attempt, code, usage),
                    **opened,
                    **options,
                )
                self._groups.add(process.pid)
                self.journal.write(
                    "process",
                    task=attempt.task.id,
                    group=process.pid,
                    identity=identify(process.pid),
                )
            return process
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def _refuse_canceled(self) -> None:
        if self._canceled:
            raise RunCanceled("the run was canceled")

    def _process_ended(
        self, process: TaskProcess, attempt: Attempt, code: int, usage: Usage
    ) -> None:
        with self._changed:
            attempt.process_ended(code, usage)
            attempt.signaled |= process.signaled
            attempt.give_back()
            self._groups.discard(process.pid)
            self._changed.notify_all()

    def complain(self, name: str, complaint: str) -> None:
        """What the library says about a task that runs; the first word counts."""
        with self._changed:
            if name in self._running:
                self._running[name].complaint = self._running[name].complaint or complaint

    def judge(self, name: str, verdict: str) -> None:
        """Why a task is being ended; this counts more than what its tool says."""
        with self._changed:
            if name in self._running:
                self._verdicts[name] = verdict

    def end(self, name: str, *, succeeded: bool) -> None:
        """Harmless for a task that does not run."""
        with self._changed:
            if (attempt := self._running.pop(name, None)) is None:
                return
            state = TaskState.COMPLETE
            if not succeeded:
                canceled = self._canceled or attempt.signaled
                state = TaskState.CANCELED if canceled else TaskState.EXECUTOR_ERROR
            attempt.give_back()
            attempt.end()
            attempt.task = replace(attempt.task, state=state)
            self.journal.task(attempt.task)
            self._failed.pop(name, None)
            if state is TaskState.COMPLETE:
                self._book.complete(self._numbers[name])
                self._progress()
            elif state is TaskState.EXECUTOR_ERROR:
                self._failed[name] = (attempt.task, attempt.complaint)

    def blame(self) -> bool:
        """Tell of each task that stayed failed, in the order of their ends; False for none."""
        with self._changed:
            for task, complaint in self._failed.values():
                self.journal.error(self._failure(task, complaint))
            return bool(self._failed)

    def _failure(self, task: TaskLog, complaint: str) -> RunFailure:
        root = self._workspace.root
        if (verdict := self._verdicts.get(task.name)) is not None:
            return RunFailure(
                message=f"task {task.name} failed: {verdict}",
                task=task.name,
                exit_code=task.exit_code,
                stderr=task.stderr,
            )
        words = last_words(root / task.stderr) if task.stderr else ""
        if task.exit_code:
            reason = shorten(failure_reason(words), root)[:LINE_LIMIT]
            message = f"task {task.name} ended with exit status {task.exit_code}"
        else:
            reason = shorten(complaint, root) or "see its standard error"
            message = f"task {task.name} failed"
        return RunFailure(
            message=f"{message}: {reason}" if reason else message,
            hint=hint(task.exit_code, words),
            task=task.name,
            exit_code=task.exit_code,
            stderr=task.stderr,
        )

    def cancel(self) -> None:
        """End the tools; no task is started any more."""
        with self._changed:
            self._canceled = True
            for group in self._groups:
                send_group(group, signal.SIGTERM)
                send_group(group, signal.SIGCONT)
        if self._leases is not None:
            self._leases.close()

    def wait_for_groups(self) -> None:
        """Until the tools have ended, to which the run's process sees, and those that waited for
        a lease have left the queue."""
        with self._changed:
            self._changed.wait_for(lambda: not self._groups and not self._waiting)
