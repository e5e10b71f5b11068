"""Run `pbrun` from PATH, in docker or in apptainer: processes, and command lines of containers.

Images are never fetched: docker gets `--pull never`, apptainer gets a file.
"""

import contextlib
import csv
import io
import os
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
