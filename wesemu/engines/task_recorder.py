"""Tasks and attempts of a run: numbers, files, processes and results.

Parts: `TaskHistory` (numbers over several launches), `Attempt` and `TaskProcess` (one execution),
`LibraryTasks` (the tasks of a library engine).
"""

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from resource import RUSAGE_SELF, getrusage, struct_rusage
from typing import Any

from wesemu.engines import event_log as events
from wesemu.engines.event_log import EventLog, log_warning, now
from wesemu.engines.failures import LINE_LIMIT, hint, log_tail, shorten
from wesemu.engines.lease_queue import devices_environment
from wesemu.engines.leases import Lease, LeaseClient, LeasesClosed
from wesemu.engines.processes import exit_code_of, identify, send_group, terminate_group
from wesemu.runs.model import JsonObject, Resources, RunFailure, TaskLog, TaskState
from wesemu.runs.run_directory import Workspace
from wesemu.util.text import failure_reason

# Task numbers: a job keeps its number when the run is resumed.


def job_key(rule: str, wildcards: Mapping[str, str], outputs: Iterable[str]) -> str:
    """Return a key that identifies the job in every launch."""
    text = json.dumps([rule, sorted(wildcards.items()), list(outputs)])
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


@dataclass(slots=True)
class _Entry:
    number: int
    earlier_attempts: int = 0
    done: bool = False


class TaskHistory:
    """Assigns task ids (numbers); counts tasks, and attempts of all launches. Not thread-safe."""

    def __init__(self, earlier: Iterable[JsonObject]) -> None:
        """`earlier`: the records of earlier launches."""
        self._keys = dict[str, _Entry]()
        self._numbers = dict[int, _Entry]()
        self._jobs = dict[int, _Entry]()
        self._highest = 0
        for record in earlier:
            self._remember(record)
        self.done = sum(entry.done for entry in self._keys.values())
        self.total = self.done
        """Tasks of this launch and tasks that earlier launches completed."""

    def _remember(self, record: JsonObject) -> None:
        """Read one record. Only the record that plans a task has the key."""
        match record:
            case {
                "event": "task",
                "task": {"id": str(id), "attempt": int(attempt), "state": str(state)},
            }:
                number = int(id) if id.isdecimal() else 0
                if isinstance(key := record.get("key"), str) and key not in self._keys:
                    self._enter(key, number)
                entry = self._numbers.get(number)
                if entry is None:  # the record with its key was lost
                    return
                entry.done = state == TaskState.COMPLETE
                if state != TaskState.QUEUED:
                    entry.earlier_attempts = max(entry.earlier_attempts, attempt)

    def _enter(self, key: str, number: int) -> _Entry:
        entry = self._keys[key] = self._numbers[number] = _Entry(number)
        self._highest = max(self._highest, number)
        return entry

    def add(self, jobid: int, key: str) -> bool:
        """Assign a number, `jobid` if that is free. Return False if the job has one."""
        if jobid in self._jobs:
            return False
        entry = self._keys.get(key)
        if entry is None:
            free = jobid not in self._numbers
            entry = self._enter(key, jobid if free else self._highest + 1)
        if entry.done:
            entry.done = False
            self.done -= 1
        else:
            self.total += 1
        self._jobs[jobid] = entry
        return True

    def id(self, jobid: int) -> str:
        return str(self._jobs[jobid].number)

    def attempt(self, jobid: int, attempt: int) -> int:
        """Return the number over all launches; `attempt` counts within this launch."""
        return self._jobs[jobid].earlier_attempts + attempt

    def complete(self, jobid: int) -> None:
        entry = self._jobs[jobid]
        self.done += not entry.done
        entry.done = True


_STDERR_BYTES = 4096
_PEAK_UNIT = 1024 if os.uname().sysname == "Linux" else 1
"""ru_maxrss is in KiB on Linux, in bytes elsewhere."""


@dataclass(frozen=True, slots=True)
class Usage:
    """User plus system time in seconds, and peak memory in bytes.

    `peak_memory` is None if it is below that of this process: the kernel counts from before
    exec(2), when the child still has the memory of its parent.
    """

    cpu_seconds: float | None
    peak_memory: int | None


def measure(usage: struct_rusage) -> Usage:
    own = getrusage(RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss * _PEAK_UNIT if usage.ru_maxrss > own else None
    return Usage(usage.ru_utime + usage.ru_stime, peak)


class Attempt:
    """One execution of a task: cmd, stdout, stderr, usage.json in `tasks/<id>-<attempt>/`.

    The processes of an attempt run one after another.
    """

    def __init__(self, workspace: Workspace, task: TaskLog, lease: Lease | None = None) -> None:
        self._lease = lease
        self.folder = workspace.tasks / f"{task.id}-{task.attempt}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.error = ""
        self.evidence: str | None = None
        """A log below the run directory with more information than stderr of the task."""
        self.node = dict[str, str]()
        """Node and Slurm job, if the attempt ran on a cluster."""
        self.signaled = False
        """The engine ended it because another task failed."""
        self._ended: datetime | None = None
        below = self.folder.relative_to(workspace.root)
        self.task = replace(task, started=now(), stdout=f"{below}/stdout", stderr=f"{below}/stderr")
        os.close(self.open("stdout"))
        with self._open_stderr() as stderr:
            events.preallocate(stderr, _STDERR_BYTES)

    def open(self, stream: str) -> int:
        """Open a file of the attempt for appending."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        return os.open(self.folder / stream, flags, 0o644)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that select the GPUs of the lease."""
        return devices_environment(self._lease.devices) if self._lease is not None else {}

    def share_lease(self, options: dict[str, Any]) -> None:
        """Extend Popen options: the process sees its GPUs and inherits the lease."""
        if self._lease is not None:
            options["env"] = {**(options.get("env") or os.environ), **self.environment}
            options["pass_fds"] = (*options.get("pass_fds", ()), self._lease.fileno())

    @contextmanager
    def _open_stderr(self) -> Iterator[int]:
        """Open stderr, which has preallocated blocks for error messages on a full disk."""
        descriptor = self.open("stderr")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def release_lease(self) -> None:
        """Release the lease of this attempt, if it still has one."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def note_command(self, command: str) -> None:
        with (self.folder / "cmd").open("a") as file:
            file.write(command.rstrip("\n") + "\n")

    def begin(self, timestamp: datetime) -> None:
        """Set the start time, measured on another machine whose clock may differ."""
        if self.task.started is not None:
            self.task = replace(self.task, started=min(max(timestamp, self.task.started), now()))

    def process_ended(self, exit_code: int, usage: Usage) -> None:
        """Add the usage of a process that has ended."""
        self._ended = now()
        self.task = replace(
            self.task,
            exit_code=exit_code,
            cpu_seconds=_sum(self.task.cpu_seconds, usage.cpu_seconds),
            peak_memory=max(self.task.peak_memory or 0, usage.peak_memory or 0) or None,
        )

    @property
    def ended_at(self) -> datetime:
        """End of the last process, or now."""
        return self._ended or now()

    def end(self) -> TaskLog:
        """End the attempt; write usage.json."""
        self.task = replace(self.task, ended=self.ended_at)
        task = self.task
        wall = task.ended - task.started if task.started and task.ended else timedelta()
        usage = {
            "exit_code": task.exit_code,
            "wall_seconds": round(wall.total_seconds(), 6),
            "cpu_seconds": task.cpu_seconds,
            "peak_memory": task.peak_memory,
            **self.node,
        }
        try:
            with self._open_stderr() as stderr:
                events.release_preallocated(stderr)
            (self.folder / "usage.json").write_text(json.dumps(usage) + "\n")
        except OSError as error:  # the event log has these values
            log_warning(f"{self.folder.name}/usage.json: writing failed: {error}")
        return task


def _sum(first: float | None, second: float | None) -> float | None:
    known = [seconds for seconds in (first, second) if seconds is not None]
    return round(sum(known), 6) if known else None


class TaskProcess(subprocess.Popen[Any]):
    """A command in its own process group, with its resource usage.

    The first thread that waits for it calls `ended`, once.
    """

    def __init__(
        self, command: str | list[str], ended: Callable[[int, Usage], None], **options: Any
    ) -> None:
        self.signaled = False
        self._once = threading.Lock()
        self._ended = ended
        super().__init__(command, process_group=0, **options)

    def wait(self, timeout: float | None = None) -> int:
        # wait4 reaps the process, so only one thread may call it
        with self._once:
            if self.returncode is None:
                _, status, usage = os.wait4(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
                self._ended(exit_code_of(self.returncode), measure(usage))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the signal to the process group."""
        if self.returncode is None:
            self.signaled = True
            send_group(self.pid, signal.Signals(number))


# Tasks of a library engine (CWL, WDL), in the worker.


class RunCanceled(RuntimeError):
    """The run was canceled; no more tasks start."""


class LibraryTasks:
    """Records tasks by name; another `begin` of a name is another attempt. Thread-safe.

    With `leases` every attempt takes one lease before it starts and releases it when its process
    has ended. A waiting task holds no lease, so tasks cannot deadlock.
    """

    def __init__(
        self,
        workspace: Workspace,
        event_log: EventLog,
        engine: str,
        leases: LeaseClient | None = None,
    ) -> None:
        self.event_log = event_log
        self._leases = leases
        self._workspace = workspace
        self._engine = engine
        self._history = TaskHistory(events.history(workspace))
        self._changed = threading.Condition()
        self._numbers = dict[str, int]()
        self._attempts = dict[str, int]()
        self._running = dict[str, Attempt]()
        self._failed = dict[str, tuple[TaskLog, str]]()
        self._reasons = dict[str, str]()
        self._groups = set[int]()
        self._waiting = 0
        self._planned = 0
        self._canceled = False

    def plan(self, total: int) -> None:
        """Record the minimum number of tasks."""
        with self._changed:
            self._planned = total
            self.event_log.write("planned", total=max(total, self._history.total))
            self._progress()

    def _progress(self) -> None:
        total = max(self._planned, self._history.total)
        self.event_log.write("progress", done=self._history.done, total=total)

    def begin(
        self,
        name: str,
        command: str,
        wanted: Resources,
        needed: Callable[[], bool] = lambda: True,
    ) -> Attempt:
        """Start an attempt; blocks for its lease. Raises RunCanceled, LeaseAbandoned."""
        task, key = self._queue(name, command, wanted.cores)
        lease = self._take(wanted, needed)
        with self._changed:
            try:
                self._raise_if_canceled()
                attempt = Attempt(self._workspace, replace(task, state=TaskState.RUNNING), lease)
                attempt.note_command(command)
            except BaseException:
                if lease is not None:
                    lease.release()
                raise
            self._running[name] = attempt
            self.event_log.task(attempt.task, key=key)
            return attempt

    def _queue(self, name: str, command: str, threads: int) -> tuple[TaskLog, str]:
        """Return the new attempt and the key of the task."""
        with self._changed:
            self._raise_if_canceled()
            number = self._numbers.setdefault(name, len(self._numbers) + 1)
            count = self._attempts[name] = self._attempts.get(name, 0) + 1
            key = job_key(name, {}, [])
            self._history.add(number, key)
            task = TaskLog(
                id=self._history.id(number),
                name=name,
                state=TaskState.QUEUED,
                attempt=self._history.attempt(number, count),
                command=command,
                threads=threads,
            )
            if self._leases is not None:
                self.event_log.task(task, key=key)
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
        """Start the process of an attempt in its own process group.

        Without `stdout` and `stderr` options, writes to the logs of the task. Raises RunCanceled
        and OSError.
        """
        attempt.share_lease(options)
        opened = {name: attempt.open(name) for name in ("stdout", "stderr") if name not in options}
        try:
            with self._changed:
                self._raise_if_canceled()
                process = TaskProcess(
                    command,
                    lambda code, usage: self._process_ended(process, attempt, code, usage),
                    **opened,
                    **options,
                )
                self._groups.add(process.pid)
                self.event_log.write(
                    "process",
                    task=attempt.task.id,
                    group=process.pid,
                    identity=identify(process.pid),
                )
            return process
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def _raise_if_canceled(self) -> None:
        if self._canceled:
            raise RunCanceled("the run was canceled")

    def _process_ended(
        self, process: TaskProcess, attempt: Attempt, code: int, usage: Usage
    ) -> None:
        with self._changed:
            attempt.process_ended(code, usage)
            attempt.signaled |= process.signaled
            attempt.release_lease()
            self._groups.discard(process.pid)
            self._changed.notify_all()

    def add_error(self, name: str, error: str) -> None:
        """Keep the error of the library about a running task. The first one counts."""
        with self._changed:
            if name in self._running:
                self._running[name].error = self._running[name].error or error

    def set_reason(self, name: str, reason: str) -> None:
        """Set why a task is being ended; this precedes the message of its tool."""
        with self._changed:
            if name in self._running:
                self._reasons[name] = reason

    def end(self, name: str, *, succeeded: bool) -> None:
        """End the running attempt of a task, if there is one."""
        with self._changed:
            if (attempt := self._running.pop(name, None)) is None:
                return
            state = TaskState.COMPLETE
            if not succeeded:
                canceled = self._canceled or attempt.signaled
                state = TaskState.CANCELED if canceled else TaskState.EXECUTOR_ERROR
            attempt.release_lease()
            attempt.end()
            attempt.task = replace(attempt.task, state=state)
            self.event_log.task(attempt.task)
            self._failed.pop(name, None)
            if state is TaskState.COMPLETE:
                self._history.complete(self._numbers[name])
                self._progress()
            elif state is TaskState.EXECUTOR_ERROR:
                self._failed[name] = (attempt.task, attempt.error)

    def report_failures(self) -> bool:
        """Record the failure of each task that stayed failed. Return False for none."""
        with self._changed:
            for task, error in self._failed.values():
                self.event_log.error(self._failure(task, error))
            return bool(self._failed)

    def _failure(self, task: TaskLog, error: str) -> RunFailure:
        root = self._workspace.root
        if (reason := self._reasons.get(task.name)) is not None:
            return RunFailure(
                message=f"task {task.name} failed: {reason}",
                task=task.name,
                exit_code=task.exit_code,
                stderr=task.stderr,
            )
        words = log_tail(root / task.stderr) if task.stderr else ""
        if task.exit_code:
            reason = shorten(failure_reason(words), root)[:LINE_LIMIT]
            message = f"task {task.name} ended with exit status {task.exit_code}"
        else:
            reason = shorten(error, root) or "see its standard error"
            message = f"task {task.name} failed"
        return RunFailure(
            message=f"{message}: {reason}" if reason else message,
            hint=hint(task.exit_code, words),
            task=task.name,
            exit_code=task.exit_code,
            stderr=task.stderr,
        )

    def cancel(self) -> None:
        """End the tools; start no more tasks."""
        with self._changed:
            self._canceled = True
            for group in self._groups:
                terminate_group(group)
        if self._leases is not None:
            self._leases.close()

    def wait_for_groups(self) -> None:
        """Wait until all tools have ended (the run process kills them) and no task waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._groups and not self._waiting)
