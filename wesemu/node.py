"""What this machine offers to runs."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import psutil

from wesemu.runs.model import Resources

# The GPUs of this machine: asked of NVIDIA's management library (NVML), or declared.


_MEBIBYTE = 1 << 20
_SIGNS = ("nvidiactl", "dxg")
"""What a driver leaves in /dev; `dxg` is that of the Windows Subsystem for Linux."""

_ADVICE = {
    4: "this user may not ask the driver; check the rights of /dev/nvidia*",
    9: "the driver is not loaded; `nvidia-smi` says more, and `modprobe nvidia` loads it",
    12: "libnvidia-ml.so.1 is not there; install NVIDIA's driver, or pass the GPUs on to this "
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
    """One device. Memory is in MiB; what is None is not known, as with a GPU that was declared.

    `divided`: its memory and cores are cut into instances (MIG), so that its index means the
    first of them only.
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
        words = [f"GPU {self.index}"]
        if self.name is not None:
            words.append(self.name)
        if self.memory_mb is not None:
            words.append(f"{self.memory_mb} MiB")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What NVML tells. `cuda` is the newest CUDA that the driver takes, as "12.8"; `problem` is
    why nothing, or not everything, could be found."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The GPUs that are lent to tasks, and what there is to tell about the others."""

    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()


Wanted = Literal["auto"] | int | Sequence[int] | Sequence[Gpu]
"""Those found; the first so many; those of these indexes; those declared."""


def has_driver(devices: Path = Path("/dev")) -> bool:
    """Whether a driver is there, which costs nothing to see. NVML is asked only then."""
    return any((devices / name).exists() for name in _SIGNS)


def load_nvml() -> Any:
    """The module `pynvml` of the package nvidia-ml-py. Raises ImportError."""
    return import_module("pynvml")


def take_inventory(load: Callable[[], Any] = load_nvml) -> Inventory:
    """Ask NVML; never raises for what is wrong with the machine. Takes some 20 ms to seconds."""
    try:
        nvml = load()
    except ImportError:
        return Inventory(
            problem="there is an NVIDIA driver, but its library cannot be asked: "
            'pip install "wesemu[cuda]" (or nvidia-ml-py)'
        )
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Inventory(problem=_problem("NVML does not start", error))
    try:
        return _ask(nvml)
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
    """Which GPUs are lent. What `inventory` knows of a declared one completes it.

    `visible` is this process's own CUDA_VISIBLE_DEVICES, which narrows what "auto" finds. Without
    `lend_busy` those that somebody computes on are left out, but for `ours`, which are leased.
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
    lent = list[Gpu]()
    for gpu in gpus:
        if gpu.divided:
            notes.append(f"{gpu} is divided into instances (MIG), which are not lent")
            continue
        if gpu.processes and gpu.index not in ours:
            told = _told(gpu, lend_busy)
            notes.append(told)
            if not lend_busy:
                continue
        lent.append(gpu)
    return Choice(tuple(lent), tuple(notes))


def _declared(wanted: int | Sequence[int] | Sequence[Gpu]) -> list[Gpu]:
    if isinstance(wanted, int):
        wanted = range(wanted)
    return [each if isinstance(each, Gpu) else Gpu(each) for each in wanted]


def _complete(gpu: Gpu, inventory: Inventory) -> Gpu:
    """What was declared stands; the rest is as it was found."""
    found = next((each for each in inventory.gpus if each.index == gpu.index), None)
    if found is None:
        return gpu
    return replace(
        found,
        name=gpu.name or found.name,
        memory_mb=gpu.memory_mb or found.memory_mb,
        driver=gpu.driver or found.driver,
    )


def _unknown(gpus: Sequence[Gpu], inventory: Inventory) -> Iterator[str]:
    found = [gpu.index for gpu in inventory.gpus]
    for gpu in gpus:
        if found and gpu.index not in found:
            has = ", ".join(map(str, found))
            yield f"GPU {gpu.index} of the setting node.gpus is not there: this machine has {has}"


def _told(gpu: Gpu, lend_busy: bool) -> str:
    pids = ", ".join(str(process.pid) for process in gpu.processes)
    lent = "it is lent nevertheless" if lend_busy else "it is not lent (node.lend_busy_gpus)"
    return f"{gpu} is used by others (pid {pids}); {lent}"


def _is_named(gpu: Gpu, visible: str) -> bool:
    """As CUDA reads the variable: indexes and beginnings of UUIDs, up to the first wrong one."""
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


def _ask(nvml: Any) -> Inventory:
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    number = nvml.nvmlSystemGetCudaDriverVersion()  # 12080 is 12.8
    gpus, problem = list[Gpu](), None
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_look(nvml, index, driver))
        except nvml.NVMLError as error:
            problem = _problem(f"GPU {index} does not answer", error)
    return Inventory(tuple(gpus), driver, f"{number // 1000}.{number % 1000 // 10}", problem)


def _look(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _or(nvml, None, nvml.nvmlDeviceGetMemoryInfo, handle)
    mode, _ = _or(nvml, (0, 0), nvml.nvmlDeviceGetMigMode, handle)
    processes = _or(nvml, [], nvml.nvmlDeviceGetComputeRunningProcesses, handle)
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


def _or(nvml: Any, otherwise: Any, ask: Callable[[Any], Any], handle: Any) -> Any:
    """What many cards, and machines with unified memory, do not tell."""
    try:
        return ask(handle)
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
            raise
        return otherwise


def _problem(what: str, error: Any) -> str:
    number = int(error.value)
    return f"{what} ({error}): {_ADVICE.get(number, '`nvidia-smi` may say more')}"


def _text(value: str | bytes) -> str:
    """Older releases of nvidia-ml-py return bytes."""
    return value.decode() if isinstance(value, bytes) else value


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
