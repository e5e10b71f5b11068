"""One attempt of a task on disk, and the processes that it consists of."""

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

from wesemu.engines import ahead
from wesemu.engines.journal import complain, now
from wesemu.engines.leases import Lease
from wesemu.engines.processes import send_group
from wesemu.engines.tickets import devices_environment
from wesemu.runs.model import TaskLog
from wesemu.runs.workspace import Workspace

_LAST_WORDS = 4096
_PEAK_UNIT = 1024 if os.uname().sysname == "Linux" else 1
"""ru_maxrss is in KiB on Linux, in bytes elsewhere."""


def exit_code_of(returncode: int) -> int:
    """As a shell tells it: 128 + n for signal n."""
    return returncode if returncode >= 0 else 128 - returncode


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu_seconds` is user and system time, `peak_memory` in bytes. That is unknown where it is
    less than this program's own, because the kernel counts a process from before its exec on."""

    cpu_seconds: float | None
    peak_memory: int | None


def measure(usage: struct_rusage) -> Usage:
    own = getrusage(RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss * _PEAK_UNIT if usage.ru_maxrss > own else None
    return Usage(usage.ru_utime + usage.ru_stime, peak)


class Attempt:
    """The files cmd, stdout, stderr, usage.json in `tasks/<id>-<attempt>/`.

    Its processes run one after another.
    """

    def __init__(self, workspace: Workspace, task: TaskLog, lease: Lease | None = None) -> None:
        self._lease = lease
        self.folder = workspace.tasks / f"{task.id}-{task.attempt}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complaint = ""
        self.evidence: str | None = None
        """A log below the run directory that tells more than the task's own."""
        self.place = dict[str, str]()
        """Where it ran, if not on this machine."""
        self.signaled = False
        """Snakemake has ended it itself, because of another task."""
        self._ended: datetime | None = None
        below = self.folder.relative_to(workspace.root)
        self.task = replace(task, started=now(), stdout=f"{below}/stdout", stderr=f"{below}/stderr")
        os.close(self.open("stdout"))
        with self._last_words() as stderr:
            ahead.allocate(stderr, _LAST_WORDS)

    def open(self, stream: str) -> int:
        """A descriptor that appends to one of the attempt's files."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        return os.open(self.folder / stream, flags, 0o644)

    @property
    def environment(self) -> dict[str, str]:
        """Added to what its processes see: the GPUs of its lease."""
        return devices_environment(self._lease.devices) if self._lease is not None else {}

    def share_lease(self, options: dict[str, Any]) -> None:
        """Let a process, by Popen's options, see its GPUs and keep the lease while it lives."""
        if self._lease is not None:
            options["env"] = {**(options.get("env") or os.environ), **self.environment}
            options["pass_fds"] = (*options.get("pass_fds", ()), self._lease.fileno())

    @contextmanager
    def _last_words(self) -> Iterator[int]:
        """stderr, which owns room for what a tool says that fills the disk."""
        descriptor = self.open("stderr")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def give_back(self) -> None:
        """The lease, if it has one still: for whoever has made it for this attempt alone."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def note_command(self, command: str) -> None:
        with (self.folder / "cmd").open("a") as file:
            file.write(command.rstrip("\n") + "\n")

    def begin(self, moment: datetime) -> None:
        """It began later than it was started here; the clock may be another machine's."""
        if self.task.started is not None:
            self.task = replace(self.task, started=min(max(moment, self.task.started), now()))

    def process_ended(self, exit_code: int, usage: Usage) -> None:
        """Add one process's usage to the attempt's."""
        self._ended = now()
        self.task = replace(
            self.task,
            exit_code=exit_code,
            cpu_seconds=_sum(self.task.cpu_seconds, usage.cpu_seconds),
            peak_memory=max(self.task.peak_memory or 0, usage.peak_memory or 0) or None,
        )

    @property
    def ended_at(self) -> datetime:
        """When its last process so far has ended, else now."""
        return self._ended or now()

    def end(self) -> TaskLog:
        """The attempt is over; writes usage.json."""
        self.task = replace(self.task, ended=self.ended_at)
        task = self.task
        wall = task.ended - task.started if task.started and task.ended else timedelta()
        usage = {
            "exit_code": task.exit_code,
            "wall_seconds": round(wall.total_seconds(), 6),
            "cpu_seconds": task.cpu_seconds,
            "peak_memory": task.peak_memory,
            **self.place,
        }
        try:
            with self._last_words() as stderr:
                ahead.release(stderr)
            (self.folder / "usage.json").write_text(json.dumps(usage) + "\n")
        except OSError as error:  # the history has all of it
            complain(f"{self.folder.name}/usage.json is not written: {error}")
        return task


def _sum(first: float | None, second: float | None) -> float | None:
    known = [seconds for seconds in (first, second) if seconds is not None]
    return round(sum(known), 6) if known else None


class TaskProcess(subprocess.Popen[Any]):
    """A shell command (or words) in a process group of its own, whose usage is measured.

    `ended` is called once, by whichever thread waits.
    """

    def __init__(
        self, command: str | list[str], ended: Callable[[int, Usage], None], **options: Any
    ) -> None:
        self.signaled = False
        self._once = threading.Lock()
        self._ended = ended
        super().__init__(command, process_group=0, **options)

    def wait(self, timeout: float | None = None) -> int:
        with self._once:
            if self.returncode is None:
                _, status, usage = os.wait4(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
                self._ended(exit_code_of(self.returncode), measure(usage))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the whole group."""
        if self.returncode is None:
            self.signaled = True
            send_group(self.pid, signal.Signals(number))
