"""Tasks and attempts of a run: numbers, files, processes and results.

Parts: `TaskHistory` (numbers over several launches) and `TaskRecorder` (all tasks of one launch).
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from wesemu.engines.attempt import Attempt, TaskProcess, Usage
from wesemu.engines.event_log import EventLog
from wesemu.engines.leases import Lease, LeaseClient, LeasesClosed
from wesemu.engines.processes import identify, terminate_group
from wesemu.runs.model import DETAIL_PATHS, JsonObject, Resources, TaskDetails, TaskLog, TaskState
from wesemu.runs.run_directory import Workspace

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
        self._jobs = dict[int | str, _Entry]()
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

    def add(self, jobid: int | str, key: str) -> bool:
        """Assign a number, `jobid` if it is a free one. Return False if the job has one."""
        if jobid in self._jobs:
            return False
        entry = self._keys.get(key)
        if entry is None:
            free = isinstance(jobid, int) and jobid not in self._numbers
            entry = self._enter(key, int(jobid) if free else self._highest + 1)
        if entry.done:
            entry.done = False
            self.done -= 1
        else:
            self.total += 1
        self._jobs[jobid] = entry
        return True

    def __contains__(self, jobid: int | str) -> bool:
        return jobid in self._jobs

    def id(self, jobid: int | str) -> str:
        return str(self._jobs[jobid].number)

    def attempt(self, jobid: int | str, attempt: int) -> int:
        """Return the number over all launches; `attempt` counts within this launch."""
        return self._jobs[jobid].earlier_attempts + attempt

    def complete(self, jobid: int | str) -> None:
        entry = self._jobs[jobid]
        self.done += not entry.done
        entry.done = True


# The tasks of one launch.


class RunCanceled(RuntimeError):
    """The run was canceled; no more tasks start."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """A task as its engine describes it.

    `id` is unique in this launch: Snakemake's job number, or a name. `key` is the same in every
    launch. `attempt` counts within this launch; None lets the recorder count. `after` has the ids
    of tasks whose outputs it needs; `inputs` and `outputs` are paths below `work/`.
    """

    id: int | str
    name: str
    key: str
    wildcards: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    threads: int | None = None
    attempt: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[int | str, ...] = ()


Ended = Callable[[int, Usage], None]
"""Callback with exit status and usage; called once."""

StartProcess = Callable[..., TaskProcess]
"""Starts a process: takes an `Ended` and Popen options."""


def _with_lease(details: TaskDetails, lease: Lease) -> TaskDetails:
    return replace(
        details, cores=lease.cores, memory_mb=lease.memory_mb or None, devices=lease.devices
    )


class TaskRecorder:
    """Records the tasks of one launch, and controls their processes. Thread-safe.

    Methods take the `id` of `TaskFacts`. An engine that keeps more about its tasks changes it
    while it holds `lock`.

    With `leases` every attempt of `begin_with_lease` takes one lease before it starts and releases
    it when its process has ended. A waiting task holds no lease, so tasks cannot deadlock.
    """

    def __init__(
        self,
        workspace: Workspace,
        event_log: EventLog,
        earlier: Iterable[JsonObject],
        leases: LeaseClient | None = None,
    ) -> None:
        """`earlier`: the records of earlier launches."""
        self.event_log = event_log
        self.lock = threading.Condition(threading.RLock())
        self.canceled = False
        self._workspace = workspace
        self._leases = leases
        self._history = TaskHistory(earlier)
        self._counts = dict[int | str, int]()
        self._ready = dict[int | str, datetime]()
        self._running = dict[int | str, Attempt]()
        self._failed = dict[int | str, Attempt]()
        self._groups = set[int]()
        self._waiting = 0
        self._planned = 0

    # Counts.

    @property
    def total(self) -> int:
        """The tasks known so far, at least the number given to `plan`."""
        return max(self._planned, self._history.total)

    def plan(self, least: int = 0) -> None:
        """Record the number of tasks: those known, but at least `least`."""
        with self.lock:
            self._planned = least
            self.event_log.write("planned", total=self.total)
            self.progress()

    def progress(self) -> None:
        """Record how many tasks are complete."""
        with self.lock:
            self.event_log.write("progress", done=self._history.done, total=self.total)

    # Tasks and their attempts.

    def add(self, facts: TaskFacts) -> bool:
        """Give a task its id over all launches. Return False if it has one."""
        with self.lock:
            return self._history.add(facts.id, facts.key)

    def next_attempt(self, facts: TaskFacts, state: TaskState) -> TaskLog:
        """Return the attempt that follows those that have begun."""
        with self.lock:
            self._history.add(facts.id, facts.key)
            count = facts.attempt or self._counts.get(facts.id, 0) + 1
            if state is TaskState.RUNNING:
                self._counts[facts.id] = count
            return TaskLog(
                id=self._history.id(facts.id),
                name=facts.name,
                state=state,
                attempt=self._history.attempt(facts.id, count),
                wildcards=facts.wildcards,
                command=facts.command,
                threads=facts.threads,
                details=TaskDetails(
                    ready=self._ready.get(facts.id),
                    inputs=facts.inputs[:DETAIL_PATHS],
                    outputs=facts.outputs[:DETAIL_PATHS],
                    after=self._ids(facts.after)[:DETAIL_PATHS],
                ),
            )

    def _ids(self, needed: Iterable[int | str]) -> tuple[str, ...]:
        """Return the ids over all launches of those tasks that this launch knows."""
        return tuple(self._history.id(one) for one in needed if one in self._history)

    def ready(self, task_id: int | str) -> None:
        """Note that a task could start now, apart from its lease."""
        with self.lock:
            self._ready[task_id] = self.event_log.now()

    def queue(self, facts: TaskFacts) -> None:
        """Record that the next attempt of a task waits."""
        with self.lock:
            self.event_log.task(self.next_attempt(facts, TaskState.QUEUED), key=facts.key)

    def begin(self, facts: TaskFacts, lease: Lease | None = None) -> Attempt:
        """Start an attempt, with its files. Raises RunCanceled."""
        with self.lock:
            self.raise_if_canceled()
            task = self.next_attempt(facts, TaskState.RUNNING)
            if lease is not None:
                task = replace(task, details=_with_lease(task.details, lease))
            attempt = self._running[facts.id] = Attempt(
                self._workspace, task, self.event_log.now, lease
            )
            self.event_log.task(attempt.task, key=facts.key)
            return attempt

    def begin_with_lease(
        self, facts: TaskFacts, wanted: Resources, needed: Callable[[], bool] = lambda: True
    ) -> Attempt:
        """Call `begin` once the task has its lease. Blocks. Raises RunCanceled, LeaseAbandoned."""
        if self._leases is None:
            return self.begin(facts)
        with self.lock:
            self.raise_if_canceled()
            self.ready(facts.id)
            self.queue(facts)
            self._waiting += 1
        try:
            lease = self._leases.take(wanted, needed)
        except LeasesClosed as closed:
            raise RunCanceled(str(closed)) from None
        finally:
            with self.lock:
                self._waiting -= 1
                self.lock.notify_all()
        try:
            return self.begin(facts, lease)
        except BaseException:
            lease.release()
            raise

    def raise_if_canceled(self) -> None:
        if self.canceled:
            raise RunCanceled("the run was canceled")

    def running(self, task_id: int | str) -> Attempt | None:
        """Return the attempt of a task that has begun and not ended."""
        return self._running.get(task_id)

    def end(self, task_id: int | str, *, succeeded: bool) -> Attempt | None:
        """End the running attempt of a task. Return it, or None if there is none."""
        with self.lock:
            if (attempt := self._running.pop(task_id, None)) is None:
                return None
            state = TaskState.COMPLETE
            if not succeeded:
                canceled = self.canceled or attempt.signaled
                state = TaskState.CANCELED if canceled else TaskState.EXECUTOR_ERROR
            if self._leases is not None:
                attempt.release_lease()
            attempt.end(state)
            self.event_log.task(attempt.task, **attempt.node)
            self._failed.pop(task_id, None)
            if state is TaskState.COMPLETE:
                self._history.complete(task_id)
                self.progress()
            elif state is TaskState.EXECUTOR_ERROR:
                self._failed[task_id] = attempt
            return attempt

    def failed(self) -> list[Attempt]:
        """Return the last attempt of each task that stayed failed."""
        with self.lock:
            return list(self._failed.values())

    # Processes.

    def spawn(self, attempt: Attempt, start: StartProcess, options: dict[str, Any]) -> TaskProcess:
        """Start a process of an attempt in its own process group.

        Without `stdout` and `stderr` in the Popen `options`, it writes to the logs of the task.
        Raises RunCanceled and the errors of `start`.
        """
        attempt.share_lease(options)
        opened = {name: attempt.open(name) for name in ("stdout", "stderr") if name not in options}
        try:
            with self.lock:
                self.raise_if_canceled()
                process: TaskProcess = start(
                    lambda code, usage: self._process_ended(process, attempt, code, usage),
                    **opened,
                    **options,
                )
                self.register(attempt, process.pid)
            return process
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def register(self, attempt: Attempt, group: int) -> None:
        """Record a process group of an attempt; `cancel` and a recovery end it."""
        with self.lock:
            self._groups.add(group)
            self.event_log.write(
                "process", task=attempt.task.id, group=group, identity=identify(group)
            )

    def unregister(self, group: int) -> None:
        with self.lock:
            self._groups.discard(group)
            self.lock.notify_all()

    def _process_ended(
        self, process: TaskProcess, attempt: Attempt, code: int, usage: Usage
    ) -> None:
        with self.lock:
            attempt.process_ended(code, usage)
            attempt.signaled |= process.signaled
            if self._leases is not None:
                attempt.release_lease()
            self.unregister(process.pid)

    def cancel(self) -> None:
        """End the tools; start no more tasks."""
        with self.lock:
            self.canceled = True
            for group in self._groups:
                terminate_group(group)
        if self._leases is not None:
            self._leases.close()

    def wait_for_groups(self) -> None:
        """Wait until all tools have ended (the run process kills them) and no task waits."""
        with self.lock:
            self.lock.wait_for(lambda: not self._groups and not self._waiting)
