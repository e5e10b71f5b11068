"""What this machine offers to runs."""

import os
from pathlib import Path

import psutil

from wesemu.runs.model import Resources

_MEBIBYTE = 1 << 20
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def detect(cores: int = 0, memory_mb: int = 0) -> Resources:
    """This machine's node; a figure that is not 0 stands instead of what would be found."""
    return Resources(cores=cores or _cores(), memory_mb=memory_mb or _memory() // _MEBIBYTE)


def _cores() -> int:
    """The cores that this process may use, which a container or `taskset` may have cut."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _memory() -> int:
    """Bytes of memory, the container's limit included."""
    total = int(psutil.virtual_memory().total)
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):
            continue
    return total
