"""Where `pbrun` runs: on PATH, in docker, in apptainer. The exact words of each, and no images
fetched: docker is told `--pull never`, apptainer gets a file.
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

# A running `pbrun`: its talk passed on and its end kept, and its end brought about.


_TAIL_BYTES = 65_536
_BLOCK = 8192
_STOP_SECONDS = 30
_KILL_SECONDS = 10.0


class Running:
    """One command. `container` is the name of its docker container, which does not end with the
    command that started it. Raises OSError where it cannot be started."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], container: str = ""
    ) -> None:
        self._container = container
        self._stopped = threading.Event()
        if container:  # of an attempt whose end nobody could see to
            _remove(container)
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            bufsize=0,
            # the GPU's lease is an open file, and stays taken as long as anybody has it
            close_fds=False,
        )

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def wait(self) -> tuple[int, str]:
        """Exit status (128 and more: a signal) and the last words."""
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
        """End it, from any thread or signal handler; harmless for one that has ended."""
        self._stopped.set()
        if self._container:
            _remove(self._container)
        self._send(signal.SIGTERM)
        killer = threading.Timer(_KILL_SECONDS, self._send, [signal.SIGKILL])
        killer.daemon = True
        killer.start()

    def _send(self, number: signal.Signals) -> None:
        """To it and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            for each in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)


def _remove(container: str) -> None:
    """SIGKILL and away; no such container is no fault."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["docker", "rm", "--force", container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_STOP_SECONDS,
            check=False,
        )


RuntimeKind = Literal["native", "docker", "apptainer"]

ORDER = "PCI_BUS_ID"
"""CUDA counts the fastest GPU first unless told; the driver's indexes, which leases are for, go
by the bus. CUDA C++ Programming Guide, environment variables."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder that a container sees under its own path."""

    path: Path
    writable: bool = False


def mounts(*, readable: Iterable[Path], writable: Iterable[Path]) -> tuple[Mount, ...]:
    """The folders of files and folders, links resolved; none that lies in another one."""
    open_ones = {_folder(path) for path in writable}
    closed = {_folder(path) for path in readable}
    kept = [Mount(path, writable=True) for path in sorted(open_ones) if not _below(path, open_ones)]
    return (
        *kept,
        *(
            Mount(path)
            for path in sorted(closed - open_ones)
            if not _below(path, open_ones) and not _below(path, closed)
        ),
    )


def _folder(path: Path) -> Path:
    path = path.resolve()
    return path if path.is_dir() else path.parent


def _below(path: Path, folders: Iterable[Path]) -> bool:
    return any(folder in path.parents for folder in folders)


def visible(devices: Sequence[str]) -> dict[str, str]:
    """What shows a program on this machine these GPUs and no others."""
    return {"CUDA_DEVICE_ORDER": ORDER, "CUDA_VISIBLE_DEVICES": ",".join(devices)}


def environment(place: RuntimeKind, devices: Sequence[str]) -> dict[str, str]:
    """What the command's own environment must hold besides; docker's container gets none of it."""
    match place:
        case "native":
            return visible(devices)
        case "apptainer":
            return {f"APPTAINERENV_{name}": value for name, value in visible(devices).items()}
        case "docker":
            return {}


@dataclass(frozen=True, slots=True)
class Container:
    """A container of one step: `image`, the GPUs `devices` as this machine counts them, `folders`,
    the working `directory`, `home` for what programs write there, and for docker a `name` to end it
    by and the `user` as uid:gid."""

    image: str
    devices: tuple[str, ...]
    folders: tuple[Mount, ...]
    directory: Path
    home: Path
    name: str = ""
    user: str = ""


def docker(container: Container, words: Sequence[str]) -> list[str]:
    """Docker shows the container the chosen GPUs only, and there they count from 0."""
    numbers = ",".join(str(number) for number in range(len(container.devices)))
    command = ["docker", "run", "--rm", "--init", "--pull", "never", "--name", container.name]
    # docker reads this option as CSV: without the inner quotes a comma would end the devices
    command += ["--gpus", f'"device={",".join(container.devices)}"']
    command += ["--user", container.user]
    for folder in container.folders:
        command += ["--mount", _bind(folder)]
    command += ["--workdir", str(container.directory)]
    command += ["--env", f"CUDA_VISIBLE_DEVICES={numbers}"]
    command += ["--env", f"CUDA_DEVICE_ORDER={ORDER}"]
    command += ["--env", f"HOME={container.home}"]
    return [*command, container.image, *words]


def _bind(folder: Mount) -> str:
    fields = ["type=bind", f"source={folder.path}", f"target={folder.path}"]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(
        fields if folder.writable else [*fields, "readonly"]
    )
    return line.getvalue()


def apptainer(container: Container, words: Sequence[str]) -> list[str]:
    """Apptainer shows the container all GPUs under the numbers that they have here; `environment`
    tells which to use. InvalidRequest for a folder whose name the option cannot carry."""
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
    return [*command, container.image, *words]
