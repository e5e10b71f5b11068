"""Run `pbrun` from PATH, in docker or in apptainer, and find out why it failed.

Parts: `Running` (one command), the command lines of containers, and failures. Images are never
fetched: docker gets `--pull never`, apptainer gets a file.

The patterns of failures match messages of the CUDA runtime, the container tools and the kernel.
pbrun is closed source, and its own messages may change. An unknown failure is reported with the
last line of the output.
"""

import contextlib
import csv
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from wesemu.errors import InvalidRequest

_TAIL_BYTES = 65_536
_BLOCK = 8192
_STOP_SECONDS = 30
_KILL_SECONDS = 10.0


class Running:
    """A running command. Its output goes to stderr, and its last part is kept.

    `container` is the name of its docker container, which outlives the docker command. Raises
    OSError if the command cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], container: str = ""
    ) -> None:
        self._container = container
        self._stopped = threading.Event()
        if container:  # from an attempt that was killed
            _remove(container)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            bufsize=0,
            # The lease on a GPU is an open file: it lasts until every process has closed it.
            close_fds=False,
        )

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def wait(self) -> tuple[int, str]:
        """Return the exit status (from 128 on: a signal) and the last output."""
        assert self._process.stdout is not None
        tail = b""
        while block := self._process.stdout.read(_BLOCK):
            sys.stderr.buffer.write(block)
            sys.stderr.buffer.flush()
            tail = (tail + block)[-_TAIL_BYTES:]
        status = self._process.wait()
        self._process.stdout.close()
        return (status if status >= 0 else 128 - status), tail.decode(errors="replace")

    def stop(self) -> None:
        """Stop the command, from any thread or signal handler. Harmless after its end."""
        self._stopped.set()
        if self._container:
            _remove(self._container)
        self._send(signal.SIGTERM)
        killer = threading.Timer(_KILL_SECONDS, self._send, [signal.SIGKILL])
        killer.daemon = True
        killer.start()

    def _send(self, number: signal.Signals) -> None:
        """Send a signal to the process and its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            for each in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)


def _remove(container: str) -> None:
    """Kill and remove a container; do nothing if it does not exist."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["docker", "rm", "--force", container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_STOP_SECONDS,
            check=False,
        )


# Command lines of containers

RuntimeKind = Literal["native", "docker", "apptainer"]

ORDER = "PCI_BUS_ID"
"""Leases use the driver's indexes, in the order of the bus. By default CUDA numbers the fastest GPU
first (CUDA C++ Programming Guide, environment variables)."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder that has the same path inside a container."""

    path: Path
    writable: bool = False


def mounts(*, readable: Iterable[Path], writable: Iterable[Path]) -> tuple[Mount, ...]:
    """Return the mounts with which a container sees these files and folders, links resolved.

    A folder inside another mounted folder needs no mount, except a writable one inside a read-only
    one.
    """
    read_write = {_folder(path) for path in writable}
    read_only = {_folder(path) for path in readable} - read_write
    folders = read_write | read_only
    return (
        *(
            Mount(path, writable=True)
            for path in sorted(read_write)
            if not _below(path, read_write)
        ),
        *(Mount(path) for path in sorted(read_only) if not _below(path, folders)),
    )


def _folder(path: Path) -> Path:
    path = path.resolve()
    return path if path.is_dir() else path.parent


def _below(path: Path, folders: Iterable[Path]) -> bool:
    return any(folder in path.parents for folder in folders)


def visible(devices: Sequence[str]) -> dict[str, str]:
    """Return the variables that limit a program on this machine to these GPUs."""
    return {"CUDA_DEVICE_ORDER": ORDER, "CUDA_VISIBLE_DEVICES": ",".join(devices)}


def environment(runtime: RuntimeKind, devices: Sequence[str]) -> dict[str, str]:
    """Return the variables of the command's environment that select GPUs; none for docker."""
    match runtime:
        case "native":
            return visible(devices)
        case "apptainer":
            return {f"APPTAINERENV_{name}": value for name, value in visible(devices).items()}
        case "docker":
            return {}


@dataclass(frozen=True, slots=True)
class Container:
    """The container of one step.

    `devices` are GPUs by their numbers on this machine; `directory` is the working directory, and
    `home` the home of the programs. docker also needs a `name`, by which the container can be
    removed, and the `user` as uid:gid.
    """

    image: str
    devices: tuple[str, ...]
    folders: tuple[Mount, ...]
    directory: Path
    home: Path
    name: str = ""
    user: str = ""


def docker(container: Container, argv: Sequence[str]) -> list[str]:
    """Return the command line. The container has only the chosen GPUs, numbered from 0."""
    numbers = ",".join(str(number) for number in range(len(container.devices)))
    command = ["docker", "run", "--rm", "--init", "--pull", "never", "--name", container.name]
    # docker parses this option as CSV: without the inner quotes a comma would end the devices
    command += ["--gpus", f'"device={",".join(container.devices)}"']
    command += ["--user", container.user]
    for folder in container.folders:
        command += ["--mount", _bind(folder)]
    command += ["--workdir", str(container.directory)]
    command += ["--env", f"CUDA_VISIBLE_DEVICES={numbers}"]
    command += ["--env", f"CUDA_DEVICE_ORDER={ORDER}"]
    command += ["--env", f"HOME={container.home}"]
    return [*command, container.image, *argv]


def _bind(folder: Mount) -> str:
    fields = ["type=bind", f"source={folder.path}", f"target={folder.path}"]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(
        fields if folder.writable else [*fields, "readonly"]
    )
    return line.getvalue()


def apptainer(container: Container, argv: Sequence[str]) -> list[str]:
    """Return the command line. The container has all GPUs with their numbers on this machine;
    `environment` selects some. Raises InvalidRequest for a folder whose name cannot be bound."""
    command = ["apptainer", "exec", "--nv", "--cleanenv", "--no-home"]
    for folder in container.folders:
        if {",", ":"} & set(str(folder.path)):
            raise InvalidRequest(
                f"{folder.path}: apptainer cannot bind a folder whose name has a comma or a "
                "colon. Rename it, or use docker."
            )
        mode = "rw" if folder.writable else "ro"
        command += ["--bind", f"{folder.path}:{folder.path}:{mode}"]
    command += ["--pwd", str(container.directory)]
    return [*command, container.image, *argv]


# Failures

Kind = Literal[
    "gpu_memory", "driver", "no_gpu", "disk_full", "index", "image", "host_memory", "crash", "other"
]

CURES: dict[Kind, str] = {
    "gpu_memory": (
        'set parabricks.low_memory = "always", ask for more GPUs (gpus), or use a card with more '
        "memory; check for other programs on the card (nvidia-smi)"
    ),
    "driver": (
        "install a newer NVIDIA driver (R535 or later for Parabricks 4.6 and 4.7, R580 or later "
        "for 4.8), or name an older image in parabricks.image"
    ),
    "no_gpu": (
        "check that nvidia-smi shows the card on this machine and in the container: docker needs "
        "the NVIDIA Container Toolkit, apptainer the option --nv, which wesemu gives"
    ),
    "disk_full": (
        "free some space, or set parabricks.temporary to a folder on a larger local disk: sorting "
        "needs two to three times the FASTQ files' size"
    ),
    "index": (
        "index the reference again (`wesemu reference add`, or samtools faidx and bwa index) so "
        "that FASTA, .fai and bwa's five files lie side by side"
    ),
    "image": (
        "fetch the image yourself (docker pull, or apptainer pull to a .sif file) and name it in "
        "parabricks.image; wesemu fetches none"
    ),
    "host_memory": (
        "the host's memory ran out: set parabricks.memory_limit (GB), use fewer GPUs (each wants "
        "about 50 GB of host memory), or run fewer jobs at a time (node.runs)"
    ),
    "crash": (
        "pbrun crashed (SIGSEGV): run it once more; if it happens again try the reads on the CPU "
        "(node = cpu), look for GPU errors in the kernel's log (dmesg, Xid), and try another "
        "version of the image"
    ),
    "other": "read the messages of pbrun in the task's log; they may name the reason",
}

_INDEX = r"\.(?:fai|bwt|sa|pac|ann|amb)\b"
_ABSENT = r"(?:not found|not exist|No such file|missing|not open)"
_MESSAGES: tuple[tuple[Kind, str], ...] = (
    ("disk_full", r"No space left on device|Disk quota exceeded"),
    (
        "gpu_memory",
        r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
        r"|(?:cuda|gpu|device)[^\n]*out of memory|out of memory[^\n]*(?:cuda|gpu|device)",
    ),
    (
        "driver",
        r"CUDA driver version is insufficient|cudaErrorInsufficientDriver|CUDA_ERROR_SYSTEM_DRIVER"
        r"|unsatisfied condition: cuda|Driver/library version mismatch|driver[^\n]*too old",
    ),
    (
        "no_gpu",
        r"no CUDA-capable device|cudaErrorNoDevice|No devices were found|could not select device"
        r"|Could not find any nv files|NVML: "
        r"|no (?:NVIDIA )?GPUs? (?:was |were )?(?:found|detected)",
    ),
    (
        "index",
        rf"{_INDEX}[^\n]*{_ABSENT}|{_ABSENT}[^\n]*{_INDEX}"
        r"|fail to locate the index",
    ),
    ("image", r"No such image|Unable to find image|pull access denied|manifest unknown"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _MESSAGES)
_STATUSES: dict[int, Kind] = {137: "host_memory", 139: "crash"}
_CRASH = re.compile(r"Segmentation fault|SIGSEGV", re.IGNORECASE)
_LINE_LIMIT = 240


@dataclass(frozen=True, slots=True)
class StepFailure:
    """Why a step failed. `status` is the exit status of pbrun, from 128 on for a signal; None if it
    never ran."""

    kind: Kind
    message: str
    hint: str
    status: int | None = None


def recognise(command: str, status: int, output: str) -> StepFailure:
    """Return the reason of a failed `command`, from the end of its output and its status."""
    kind, reason = _kind(status, output)
    detail = f": {reason[:_LINE_LIMIT]}" if reason else ""
    return StepFailure(
        kind, f"{command} ended with exit status {status}{detail}", CURES[kind], status
    )


def _kind(status: int, output: str) -> tuple[Kind, str]:
    """Return the kind, and the line that shows it, or the last line."""
    for kind, pattern in _PATTERNS:
        if match := pattern.search(output):
            return kind, _line_at(output, match.start())
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if status in _STATUSES:
        return _STATUSES[status], last
    if match := _CRASH.search(output):
        return "crash", _line_at(output, match.start())
    return "other", last


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else None].strip()


def may_retry(failure: StepFailure, *, low_memory: bool, allowed: bool) -> bool:
    """Return whether another attempt with the low-memory flags could help."""
    return failure.kind == "gpu_memory" and allowed and not low_memory
