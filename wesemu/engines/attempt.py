"""One attempt of a task: its files, its processes, what they used.

Parts: `Usage` (measured by the kernel), `Attempt` (its folder, logs and lease), `TaskProcess` (a
command in its own process group).
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from resource import RUSAGE_SELF, getrusage, struct_rusage
from typing import Any

from wesemu.engines import event_log as events
from wesemu.engines.event_log import log_warning
from wesemu.engines.lease_queue import devices_environment
from wesemu.engines.leases import Lease
from wesemu.engines.processes import exit_code_of, send_group
from wesemu.runs.model import TaskLog, TaskState
from wesemu.runs.run_directory import Workspace

_STDERR_BYTES = 4096
_BLOCK_BYTES = 512
"""The unit of ru_inblock and ru_oublock."""

_PEAK_UNIT = 1024 if os.uname().sysname == "Linux" else 1
"""ru_maxrss is in KiB on Linux, in bytes elsewhere."""


@dataclass(frozen=True, slots=True)
class Usage:
    """User plus system time in seconds; peak memory, and bytes read from and written to disks.

    `peak_memory` is None unless it exceeds that of this process: the kernel counts from fork(2) on,
    and until exec(2) a child has the memory of its parent.
    """

    cpu_seconds: float | None
    peak_memory: int | None
    read_bytes: int | None = None
    written_bytes: int | None = None


def measure(usage: struct_rusage) -> Usage:
    own = getrusage(RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss * _PEAK_UNIT if usage.ru_maxrss > own else None
    return Usage(
        usage.ru_utime + usage.ru_stime,
        peak,
        usage.ru_inblock * _BLOCK_BYTES,
        usage.ru_oublock * _BLOCK_BYTES,
    )


class Attempt:
    """One execution of a task: cmd, stdout, stderr, usage.json in `tasks/<id>-<attempt>/`.

    The processes of an attempt run one after another. `now` returns the time.
    """

    def __init__(
        self,
        workspace: Workspace,
        task: TaskLog,
        now: Callable[[], datetime],
        lease: Lease | None = None,
    ) -> None:
        self._lease = lease
        self._now = now
        self.folder = workspace.tasks / f"{task.id}-{task.attempt}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.error = ""
        """The engine's message about the failure of the attempt."""
        self.reason = ""
        """Why the engine ended the attempt; shown instead of the message of its tool."""
        self.note = ""
        """A fact that may explain the failure, such as an image that is not available."""
        self.evidence: str | None = None
        """The path, below the run directory, of a log that says more than the task's stderr."""
        self.node = dict[str, str]()
        """Node and Slurm job, if the attempt ran on a cluster."""
        self.signaled = False
        """Whether the engine ended the attempt because another task failed."""
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
        # A command may have names that are not UTF-8.
        with (self.folder / "cmd").open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(command.rstrip("\n") + "\n")

    def begin(self, timestamp: datetime) -> None:
        """Set the start time, measured on another machine whose clock may differ."""
        if self.task.started is not None:
            self.task = replace(
                self.task, started=min(max(timestamp, self.task.started), self._now())
            )

    def process_ended(self, exit_code: int, usage: Usage) -> None:
        """Add the usage of a process that has ended."""
        self._ended = self._now()
        details = self.task.details
        self.task = replace(
            self.task,
            exit_code=exit_code,
            cpu_seconds=_sum(self.task.cpu_seconds, usage.cpu_seconds),
            peak_memory=max(self.task.peak_memory or 0, usage.peak_memory or 0) or None,
            details=replace(
                details,
                read_bytes=_add(details.read_bytes, usage.read_bytes),
                written_bytes=_add(details.written_bytes, usage.written_bytes),
            ),
        )

    @property
    def ended_at(self) -> datetime:
        """End of the last process, or now."""
        return self._ended or self._now()

    def end(self, state: TaskState) -> None:
        """End the attempt; write usage.json."""
        task = self.task = replace(self.task, state=state, ended=self.ended_at)
        wall = task.ended - task.started if task.started and task.ended else timedelta()
        wall = max(wall, timedelta())  # the wall clock may have been set back
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


def _add(first: int | None, second: int | None) -> int | None:
    return first if second is None else (first or 0) + second


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
