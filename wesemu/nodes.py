"""What this machine offers to runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from wesemu.gpus import Gpu
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
    """`gpus` are those that tasks may lease, `runs` how many runs are active at a time; `notes`
    tell of GPUs that are not lent, or lent in spite of something."""

    cores: int
    memory_mb: int
    runs: int
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[int, ...]:
        """The indexes of its GPUs."""
        return tuple(gpu.index for gpu in self.gpus)

    @property
    def resources(self) -> Resources:
        return Resources(cores=self.cores, memory_mb=self.memory_mb, gpus=len(self.gpus))

    @property
    def gpu_memory_mb(self) -> int | None:
        """MiB that every one of its GPUs has; None where that is not known of all of them."""
        known = [gpu.memory_mb for gpu in self.gpus if gpu.memory_mb is not None]
        return min(known) if known and len(known) == len(self.gpus) else None

    @property
    def gpu_driver(self) -> str | None:
        return next((gpu.driver for gpu in self.gpus if gpu.driver is not None), None)


def detect(
    cores: int = 0,
    memory_mb: int = 0,
    *,
    gpus: Sequence[Gpu] = (),
    notes: Sequence[str] = (),
    runs: int = 0,
) -> Node:
    """This machine's node; a figure that is not 0 stands instead of what would be found.

    GPUs are chosen by `gpus.choose`.
    """
    cores = cores or _cores()
    memory_mb = memory_mb or _memory() // _MEBIBYTE
    usual = max(_FEWEST_RUNS, _RUNS_A_CORE * cores)
    return Node(
        cores=cores,
        memory_mb=memory_mb,
        runs=runs or max(1, min(usual, memory_mb // _RUN_MEMORY_MB)),
        gpus=tuple(gpus),
        notes=tuple(notes),
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
