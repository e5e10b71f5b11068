"""CPU time, memory and disk space of the descendants of this process (Linux).

The CPU time of an ended process is added to the process that waited for it. So the sum done all
descendants, alive and ended, grows by exactly the time that they used.
"""

import contextlib
import os
import resource
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
_KIBIBYTE = 1024


def descendants(root: int | None = None) -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat after the name, for every descendant of `root`.

    The default is this process. Zombies are included.
    """
    stats: dict[int, list[str]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(*_GONE):
                stats[int(entry.name)] = _stat(int(entry.name))
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    found: dict[int, list[str]] = {}
    pending = children.get(root or os.getpid(), [])
    while pending:
        pid = pending.pop()
        found[pid] = stats[pid]
        pending += children.get(pid, [])
    return found


def cpu_seconds() -> float:
    """Return user and system time of all descendants so far. Call it while none is ending."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    # proc(5): utime, stime, cutime, cstime
    ticks = sum(sum(map(int, fields[11:15])) for fields in descendants().values())
    return ended.ru_utime + ended.ru_stime + ticks / _TICKS


def cpu_seconds_of(pid: int) -> float:
    """Return user and system time of one process so far, in steps of 10 ms."""
    return sum(map(int, _stat(pid)[11:13])) / _TICKS


def cpu_seconds_below(pid: int) -> float:
    """Return user and system time of a process and its descendants so far, in steps of 10 ms.

    Descendants that have ended count if they were waited for.
    """
    stats = [_stat(pid), *descendants(pid).values()]
    return sum(sum(map(int, fields[11:15])) for fields in stats) / _TICKS


def wake_ups(pids: Iterable[int]) -> int:
    """Return the voluntary context switches of all threads of the processes so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for thread in (_PROC / str(pid) / "task").iterdir():
                with contextlib.suppress(*_GONE):
                    for line in (thread / "status").read_text().splitlines():
                        if line.startswith("voluntary_ctxt_switches:"):
                            total += int(line.split()[1])
    return total


def _stat(pid: int) -> list[str]:
    text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size (PSS) of the processes: shared pages count once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * _KIBIBYTE
    return total


def stored_bytes(folder: Path, pids: Iterable[int]) -> int:
    """Return the size of all files below `folder` and of deleted files that `pids` hold open."""
    files: dict[tuple[int, int], int] = {}
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(*_GONE):
                found = (Path(directory) / name).lstat()
                files[found.st_dev, found.st_ino] = found.st_size
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for descriptor in (_PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(*_GONE):
                    found = descriptor.stat()
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        files[found.st_dev, found.st_ino] = found.st_size
    return sum(files.values())


class Peaks:
    """The maxima of `memory` of all descendants and `stored` below a folder, in bytes."""

    def __init__(self) -> None:
        self.memory = 0
        self.stored = 0

    def update(self, folder: Path) -> None:
        pids = descendants()
        self.memory = max(self.memory, memory_bytes(pids))
        self.stored = max(self.stored, stored_bytes(folder, pids))


@contextmanager
def sample_peaks(folder: Path, *, every_seconds: float = 0.05) -> Iterator[Peaks]:
    """Sample peaks within the context. Sampling uses CPU, so do not time such a round."""
    peaks, done = Peaks(), threading.Event()

    def sample() -> None:
        while not done.wait(every_seconds):
            peaks.update(folder)

    thread = threading.Thread(target=sample, name="peaks", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
