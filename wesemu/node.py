"""The node: cores, memory and GPUs of this machine that runs can use.

GPUs come from NVIDIA's management library (NVML) or from the settings; `choose` selects those that
tasks may lease.
"""

import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wesemu.runs.model import Resources

# Settings.


class GpuSettings(BaseModel):
    """A declared GPU."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(ge=0, le=1023)
    """Its number as in `nvidia-smi`."""

    name: str | None = None
    """Its name, as "NVIDIA H200"."""

    memory_mb: int | None = Field(default=None, gt=0)
    """All of its memory, in MiB."""

    driver: str | None = None
    """The version of the driver."""


GpuIndex = Annotated[int, Field(ge=0, le=1023)]
GpuList = (
    Literal["auto"] | Annotated[int, Field(ge=0, le=1024)] | list[GpuIndex] | list[GpuSettings]
)


def _no_index_twice(gpus: GpuList) -> GpuList:
    if isinstance(gpus, list):
        indexes = [gpu.index if isinstance(gpu, GpuSettings) else gpu for gpu in gpus]
        if len(set(indexes)) < len(indexes):
            raise ValueError("a GPU is named twice")
    return gpus


class NodeSettings(BaseModel):
    """Resources of this machine for runs."""

    model_config = ConfigDict(extra="forbid")

    cores: int = Field(default=0, ge=0)
    """Cores for all runs together; 0: all that this process and its container may use."""

    memory_mb: int = Field(default=0, ge=0)
    """MiB of memory for all runs together; 0: all of the machine or its container."""

    gpus: Annotated[GpuList, AfterValidator(_no_index_twice)] = "auto"
    """GPUs for tasks: `auto` for all that are found, a number, a list of indexes, or a list of
    tables with `index`, `name`, `memory_mb` and `driver`. With Slurm, `auto` means none."""

    lend_busy_gpus: bool = True
    """Also use GPUs on which other processes compute when the server starts."""

    default: Literal["auto", "cpu", "cuda"] = "auto"
    """Default placement of runs. `auto`: on GPUs if there are any and the workflow can use them."""

    without_gpu: Literal["queue", "refuse", "cpu"] = "refuse"
    """What happens to a run for `cuda` without a GPU: it waits for one, is refused, or runs on the
    CPU with a note."""

    runs: int = Field(default=0, ge=0)
    """Maximum number of active runs of a service level and the better ones together; 0: twice the
    cores, at least 4, or fewer if the memory is too small. Their tasks share the cores by
    leases."""

    executor: Annotated[
        str, Field(pattern=r"^(local|slurm|slurm-plugin|plugin:[a-z0-9]+(-[a-z0-9]+)*)$")
    ] = "local"
    """Where Snakemake's tasks run: on this machine (`local`), each with `srun` (`slurm`), with
    Snakemake's executor plugin for Slurm (`slurm-plugin`), or with another one (`plugin:NAME`).
    Except for `local`, `cores` limits the cores of a run."""

    plugin_options: list[Annotated[str, Field(pattern=r"^--[a-z]")]] = Field(default_factory=list)
    """Options of Snakemake for the executor plugin, each as `--name=value`."""

    slurm_partition: str = ""
    """Slurm's partition; empty: the cluster's default one. Rules may override it with
    `slurm_partition`."""

    slurm_account: str = ""
    """Slurm's account; empty: the user's default one. Rules may override it with
    `slurm_account`."""

    slurm_options: list[Annotated[str, Field(pattern=r"^--[a-z]")]] = Field(default_factory=list)
    """Further options of srun, salloc or the plugin's sbatch: `["--qos=long", "--exclusive"]`."""


# GPUs.

_MEBIBYTE = 1 << 20
_DRIVER_FILES = ("nvidiactl", "dxg")
"""Device files of a driver in /dev; `dxg` belongs to the Windows Subsystem for Linux."""

_ADVICE = {
    4: "this user may not use the driver; check the permissions of /dev/nvidia*",
    9: "the driver is not loaded; `nvidia-smi` says more, and `modprobe nvidia` loads it",
    12: "libnvidia-ml.so.1 is not there; install NVIDIA's driver, or pass the GPUs to this "
    "container (`docker run --gpus all`, `apptainer exec --nv`)",
    15: "a GPU has fallen off the bus; restart the machine",
    18: "the driver's library and its kernel module are of different versions, as after an update; "
    "restart the machine",
}
"""What to do about NVML's errors, by their numbers (nvmlReturn_t in nvml.h)."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU. `memory_mb` (MiB) is None where the driver hides it."""

    pid: int
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory is in MiB. None: unknown, for example of a GPU from the settings.

    `divided`: the GPU is divided into MIG instances; its index then means only the first one.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    memory_mb: int | None = None
    free_mb: int | None = None
    driver: str | None = None
    divided: bool = False
    processes: tuple[GpuProcess, ...] = ()

    def __str__(self) -> str:
        parts = [f"GPU {self.index}"]
        if self.name is not None:
            parts.append(self.name)
        if self.memory_mb is not None:
            parts.append(f"{self.memory_mb} MiB")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The result of an NVML query.

    `cuda` is the newest CUDA version that the driver supports, such as "12.8"; `problem` says why
    information is missing.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The GPUs that tasks may lease, and notes about problems and other GPUs."""

    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()


Wanted = Literal["auto"] | int | Sequence[int] | Sequence[Gpu]
"""All that NVML finds; the first N; those with these indexes; these declared ones."""


def has_driver(devices: Path = Path("/dev")) -> bool:
    """Return whether an NVIDIA driver is installed, without loading NVML."""
    return any((devices / name).exists() for name in _DRIVER_FILES)


def load_nvml() -> Any:
    """Import the module `pynvml` of the package nvidia-ml-py. Raises ImportError."""
    return import_module("pynvml")


def take_inventory(load: Callable[[], Any] = load_nvml) -> Inventory:
    """Query NVML. Problems of the machine are in the result. Takes 20 ms to seconds."""
    try:
        nvml = load()
    except ImportError:
        return Inventory(
            problem="there is an NVIDIA driver, but the package that queries it is missing: "
            'pip install "wesemu[cuda]" (or nvidia-ml-py)'
        )
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Inventory(problem=_problem("NVML does not start", error))
    try:
        return _query(nvml)
    except nvml.NVMLError as error:
        return Inventory(problem=_problem("NVML does not answer", error))
    finally:
        nvml.nvmlShutdown()


def choose(
    wanted: Wanted,
    inventory: Inventory,
    *,
    visible: str | None = None,
    lend_busy: bool = True,
    ours: Collection[int] = (),
) -> Choice:
    """Choose the GPUs that tasks may lease. `inventory` completes declared ones.

    `visible` is CUDA_VISIBLE_DEVICES of this process, which limits "auto". Without `lend_busy`,
    GPUs with compute processes are left out, except `ours`, which tasks of this server lease.
    """
    notes = [] if inventory.problem is None else [inventory.problem]
    if wanted == "auto":
        gpus = [gpu for gpu in inventory.gpus if visible is None or _is_named(gpu, visible)]
        hidden = len(inventory.gpus) - len(gpus)
        if hidden:
            notes.append(f"CUDA_VISIBLE_DEVICES={visible} hides {hidden} GPUs from this server")
    else:
        gpus = [_complete(gpu, inventory) for gpu in _declared(wanted)]
        notes += _unknown(gpus, inventory)
    chosen = list[Gpu]()
    for gpu in gpus:
        if gpu.divided:
            notes.append(f"{gpu} is divided into instances (MIG), which tasks cannot use")
            continue
        if gpu.processes and gpu.index not in ours:
            notes.append(_busy_note(gpu, lend_busy))
            if not lend_busy:
                continue
        chosen.append(gpu)
    return Choice(tuple(chosen), tuple(notes))


def _declared(wanted: int | Sequence[int] | Sequence[Gpu]) -> list[Gpu]:
    if isinstance(wanted, int):
        wanted = range(wanted)
    return [each if isinstance(each, Gpu) else Gpu(each) for each in wanted]


def _complete(gpu: Gpu, inventory: Inventory) -> Gpu:
    """Add the properties that NVML reports; declared ones win."""
    detected = next((each for each in inventory.gpus if each.index == gpu.index), None)
    if detected is None:
        return gpu
    return replace(
        detected,
        name=gpu.name or detected.name,
        memory_mb=gpu.memory_mb or detected.memory_mb,
        driver=gpu.driver or detected.driver,
    )


def _unknown(gpus: Sequence[Gpu], inventory: Inventory) -> Iterator[str]:
    indexes = [gpu.index for gpu in inventory.gpus]
    for gpu in gpus:
        if indexes and gpu.index not in indexes:
            has = ", ".join(map(str, indexes))
            yield f"GPU {gpu.index} of the setting node.gpus is not there: this machine has {has}"


def _busy_note(gpu: Gpu, lend_busy: bool) -> str:
    pids = ", ".join(str(process.pid) for process in gpu.processes)
    rule = "tasks may use it, too" if lend_busy else "tasks may not use it (node.lend_busy_gpus)"
    return f"{gpu} is used by others (pid {pids}); {rule}"


def _is_named(gpu: Gpu, visible: str) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES names the GPU.

    As CUDA reads it: indexes and prefixes of UUIDs, up to the first invalid entry.
    """
    for word in visible.split(","):
        name = word.strip()
        if name.isdecimal():
            if int(name) == gpu.index:
                return True
        elif not name.startswith("GPU-"):
            return False
        elif gpu.uuid is not None and gpu.uuid.startswith(name):
            return True
    return False


def _query(nvml: Any) -> Inventory:
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    number = nvml.nvmlSystemGetCudaDriverVersion()  # 12080 is 12.8
    gpus, problem = list[Gpu](), None
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_query_gpu(nvml, index, driver))
        except nvml.NVMLError as error:
            problem = _problem(f"GPU {index} does not answer", error)
    return Inventory(tuple(gpus), driver, f"{number // 1000}.{number % 1000 // 10}", problem)


def _query_gpu(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _query_optional(nvml, None, nvml.nvmlDeviceGetMemoryInfo, handle)
    mode, _ = _query_optional(nvml, (0, 0), nvml.nvmlDeviceGetMigMode, handle)
    processes = _query_optional(nvml, [], nvml.nvmlDeviceGetComputeRunningProcesses, handle)
    return Gpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        memory_mb=None if memory is None else memory.total // _MEBIBYTE,
        free_mb=None if memory is None else memory.free // _MEBIBYTE,
        driver=driver,
        divided=mode == nvml.NVML_DEVICE_MIG_ENABLE,
        processes=tuple(
            GpuProcess(each.pid, each.usedGpuMemory and each.usedGpuMemory // _MEBIBYTE)
            for each in processes
        ),
    )


def _query_optional(nvml: Any, default: Any, query: Callable[[Any], Any], handle: Any) -> Any:
    """Query a property that many GPUs, and machines with unified memory, do not support."""
    try:
        return query(handle)
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
            raise
        return default


def _problem(what: str, error: Any) -> str:
    number = int(error.value)
    return f"{what} ({error}): {_ADVICE.get(number, '`nvidia-smi` may say more')}"


def _text(value: str | bytes) -> str:
    """Older releases of nvidia-ml-py return bytes."""
    return value.decode() if isinstance(value, bytes) else value


# The node.

_FEWEST_RUNS = 4
_RUNS_PER_CORE = 2
_RUN_MEMORY_MB = 256
"""Memory of the processes of a run, without its tasks."""

_CGROUP = Path("/sys/fs/cgroup")
_MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_CPU_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Files with the limits of a container: of cgroup v2, then of v1. The quota comes before the
period."""


@dataclass(frozen=True, slots=True)
class Node:
    """Capacity of this machine. `gpus`: those that tasks may lease. `runs`: as the setting
    `node.runs`. `notes`: problems of GPUs."""

    cores: int
    memory_mb: int
    runs: int
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[int, ...]:
        """The indexes of the GPUs."""
        return tuple(gpu.index for gpu in self.gpus)

    @property
    def resources(self) -> Resources:
        return Resources(cores=self.cores, memory_mb=self.memory_mb, gpus=len(self.gpus))

    @property
    def gpu_memory_mb(self) -> int | None:
        """The memory of the smallest GPU in MiB; None without GPUs, or if one is unknown."""
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
    """Detect the cores and memory of this machine; values other than 0 replace the detection.

    `gpus` and `notes` come from `choose`.
    """
    cores = cores or _cores()
    memory_mb = memory_mb or _memory() // _MEBIBYTE
    usual = max(_FEWEST_RUNS, _RUNS_PER_CORE * cores)
    return Node(
        cores=cores,
        memory_mb=memory_mb,
        runs=runs or max(1, min(usual, memory_mb // _RUN_MEMORY_MB)),
        gpus=tuple(gpus),
        notes=tuple(notes),
    )


def _cores() -> int:
    """Return the number of cores that this process may use, limited by the container (cgroup)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return min(cores, cpu_quota() or cores)


def cpu_quota(cgroup: Path = _CGROUP) -> int | None:
    """Return the cores of the container's quota (`docker run --cpus`), rounded up; None without."""
    for names in _CPU_QUOTAS:
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            if int(quota) > 0:
                return math.ceil(int(quota) / int(period))
        except (OSError, ValueError):  # not this version of cgroup, or "max"
            continue
    return None


def _memory() -> int:
    """Return the bytes of memory, limited by the container (cgroup)."""
    total = int(psutil.virtual_memory().total)
    for name in _MEMORY_LIMITS:
        try:
            total = min(total, int((_CGROUP / name).read_text()))
        except (OSError, ValueError):
            continue
    return total
