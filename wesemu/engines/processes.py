"""Finds, identifies and ends processes of this machine, such as all tools of a run."""

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

MARK = "WESEMU_RUN_DIRECTORY"
"""The environment variable that every tool of a run has."""

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STEP_SECONDS = 0.005
_OOM_SCORE = 500
"""Counts like half of the memory of the machine on top of the process's own (proc(5))."""

PROCESS_LIMIT_ADVICE = "the limit of processes is reached; raise it (ulimit -u, TasksMax=)"

_FORK_SECONDS = 20.0
_FORK_PAUSE_SECONDS = 0.2


def start_when_possible(start: Callable[[], T]) -> T:
    """Return the result of `start`, which forks.

    While the limit of processes is reached, wait for the end of others, up to 20 s. Raises
    BlockingIOError then, with advice.
    """
    deadline = time.monotonic() + _FORK_SECONDS
    while True:
        try:
            return start()
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise BlockingIOError(errno.EAGAIN, PROCESS_LIMIT_ADVICE) from error
        time.sleep(_FORK_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class ProcessHandle:
    """One process. `identity` differs if another process gets the same `pid` later."""

    pid: int
    identity: str

    @property
    def alive(self) -> bool:
        return identify(self.pid) == self.identity


def identify(pid: int) -> str | None:
    """Return boot id and start time of a process; None if it is gone or a zombie."""
    try:
        fields = _stat(pid)
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return None if _PROC.joinpath("self").exists() else _identify_portably(pid)
    except (ProcessLookupError, PermissionError):
        return None
    return None if fields[0] == "Z" else f"{boot}:{fields[19]}"


def _identify_portably(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: [0] is the state, [1] the parent."""
    text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def descendants(root: int) -> list[int]:
    """Return all processes below `root` except zombies; daemons only below a subreaper."""
    try:
        below = psutil.Process(root).children(recursive=True)
    except psutil.Error:
        return []
    return [child.pid for child in below if identify(child.pid) is not None]


def members(group: int) -> list[int]:
    """Return the processes of a process group except zombies."""
    inside = [pid for pid in psutil.pids() if pid != 0 and _group(pid) == group]
    return [pid for pid in inside if identify(pid) is not None]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def session_of(pid: int) -> int | None:
    """Return the session id (the process id of its leader); None if the process is gone."""
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def marked(directory: Path, session: int | None = None, groups: Collection[int] = ()) -> list[int]:
    """Return the processes of this user that carry the mark of a run directory.

    Also returns processes without the mark in that session or one of these process groups: while a
    process executes another program (execve(2)), its environment reads as empty or cut off.
    """
    wanted, found = str(directory), []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK)
        except (psutil.Error, OSError):
            mark = None
        if mark is None and _is_in(process.pid, session, groups):
            if identify(process.pid) is not None:
                found.append(process.pid)
        elif mark == wanted:
            found.append(process.pid)
    return found


def _is_in(pid: int, session: int | None, groups: Collection[int]) -> bool:
    if session is not None and session_of(pid) == session:
        return True
    return bool(groups) and _group(pid) in groups


def end_marked(directory: Path, session: int | None = None) -> None:
    """SIGKILL all processes that carry the mark of a run directory, or are in the session. Blocks.

    A killed shell may leave a child that just executes its program and shows no mark, but has the
    process group of the shell.
    """
    groups = set[int]()

    def find() -> list[int]:
        found = marked(directory, session, groups)
        groups.update(group for pid in found if (group := _group(pid)) is not None)
        groups.discard(os.getpgrp())
        return found

    end_all(find, scans=2)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def send_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def terminate_group(group: int) -> None:
    """Send SIGTERM, and SIGCONT because a stopped process handles no SIGTERM."""
    send_group(group, signal.SIGTERM)
    send_group(group, signal.SIGCONT)


def exit_code_of(returncode: int) -> int:
    """Return the exit status as a shell does: 128 + n for signal n."""
    return returncode if returncode >= 0 else 128 - returncode


def end_all(
    find: Callable[[], list[int]], *, scans: int = 1, deadline_seconds: float = 5.0
) -> None:
    """SIGKILL what `find` returns until it returns nothing and all processes are gone. Blocks.

    A dying process has lost its environment, so `find` misses it while its files are still open.
    Hence this function remembers every process that it has signaled.

    `scans` is how often `find` must return nothing, one time after the other. It is 2 if `find`
    reads a list of processes first and each process later: a process that dies in between may have
    started another one that is not in the list.
    """
    deadline = time.monotonic() + deadline_seconds
    dying = set[ProcessHandle]()
    empty = 0
    while time.monotonic() < deadline:
        found = find()
        dying.update(ProcessHandle(pid, identity) for pid in found if (identity := identify(pid)))
        send(found, signal.SIGKILL)
        dying = {process for process in dying if process.alive}
        empty = 0 if found or dying else empty + 1
        if empty == scans:
            return
        if not empty:
            time.sleep(_STEP_SECONDS)


def wait_for_end(process: ProcessHandle, *, deadline_seconds: float = 5.0) -> None:
    """Wait until the process is a zombie or gone, up to the deadline. Blocks."""
    deadline = time.monotonic() + deadline_seconds
    while process.alive and time.monotonic() < deadline:
        time.sleep(_STEP_SECONDS)


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants (Linux only; no effect elsewhere)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when `parent` ends (Linux only; no effect elsewhere)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # the parent may have ended before the call
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def offer_to_oom_killer(pid: int | None = None) -> None:
    """Make this process (or `pid`) and its children the first choice when memory runs out.

    The server and the run processes then survive. Linux only; no effect elsewhere.
    """
    path = _PROC / ("self" if pid is None else str(pid)) / "oom_score_adj"
    try:
        if int(path.read_text()) < _OOM_SCORE:
            path.write_text(str(_OOM_SCORE))
    except (OSError, ValueError):
        return


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
