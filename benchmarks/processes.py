"""What this process's descendants cost: CPU seconds, memory, bytes on disk. Linux.

A server's forks are its own processes; whatever ends is added to the one that waited for it. So
the sum over all descendants, dead and alive, grows by exactly what was used.
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
    """The fields of /proc/PID/stat after the name, of every process below `root` (default:
    this process), zombies included."""
    stats: dict[int, list[str]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(*_GONE):
                stats[int(entry.name)] = _stat(int(entry.name))
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    found: dict[int, list[str]] = {}
    waiting = children.get(root or os.getpid(), [])
    while waiting:
        pid = waiting.pop()
        found[pid] = stats[pid]
        waiting += children.get(pid, [])
    return found


def cpu_seconds() -> float:
    """User and system time of all descendants so far. Call it while none is ending."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    # proc(5): utime, stime, cutime, cstime
    ticks = sum(sum(map(int, fields[11:15])) for fields in descendants().values())
    return ended.ru_utime + ended.ru_stime + ticks / _TICKS


def cpu_seconds_of(pid: int) -> float:
    """User and system time of one process so far, in steps of 10 ms."""
    return sum(map(int, _stat(pid)[11:13])) / _TICKS


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name."""
    text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def memory_bytes(pids: Iterable[int]) -> int:
    """What these processes have in memory, shared pages divided among those that share (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * _KIBIBYTE
    return total


def stored_bytes(folder: Path, pids: Iterable[int]) -> int:
    """The files below `folder`, each once, and those that `pids` hold open without a name."""
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
    """The most that was seen: `memory` of all descendants, `stored` below a folder, in bytes."""

    def __init__(self) -> None:
        self.memory = 0
        self.stored = 0

    def look(self, folder: Path) -> None:
        pids = descendants()
        self.memory = max(self.memory, memory_bytes(pids))
        self.stored = max(self.stored, stored_bytes(folder, pids))


@contextmanager
def watched(folder: Path, *, every_seconds: float = 0.05) -> Iterator[Peaks]:
    """Look again and again while the context lasts. It costs CPU: not in a round that is timed."""
    peaks, over = Peaks(), threading.Event()

    def watch() -> None:
        while not over.wait(every_seconds):
            peaks.look(folder)

    thread = threading.Thread(target=watch, name="peaks", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()
