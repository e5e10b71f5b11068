"""What this machine offers to runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from wesemu.runs.model import Resources

_MEBIBYTE = 1 << 20
_FEWEST_RUNS = 4
_RUNS_A_CORE = 2
_RUN_MEMORY_MB = 256
"""What a run's own processes may need, apart from its tasks."""

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Node:
    """`devices` are the indexes of its GPUs, `runs` how many runs are active at a time."""

    cores: int
    memory_mb: int
    devices: tuple[int, ...]
    runs: int

    @property
    def resources(self) -> Resources:
        return Resources(cores=self.cores, memory_mb=self.memory_mb, gpus=len(self.devices))


def detect(
    cores: int = 0, memory_mb: int = 0, *, gpus: int | Sequence[int] = 0, runs: int = 0
) -> Node:
    """This machine's node; a figure that is not 0 stands instead of what would be found.

    `gpus` is how many there are or which ones.
    """
    cores = cores or _cores()
    memory_mb = memory_mb or _memory() // _MEBIBYTE
    usual = max(_FEWEST_RUNS, _RUNS_A_CORE * cores)
    return Node(
        cores=cores,
        memory_mb=memory_mb,
        devices=tuple(range(gpus) if isinstance(gpus, int) else gpus),
        runs=runs or max(1, min(usual, memory_mb // _RUN_MEMORY_MB)),
    )


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
