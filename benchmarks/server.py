"""Starts `wesemu serve` as a process, without the settings of the caller."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wes import Wes

_STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `wes` is a client, `pid` its process."""

    wes: Wes
    pid: int
    data: Path


@contextmanager
def serving(
    data: Path,
    *,
    cores: int = 0,
    pinned: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server over `data` on a free port. Stop it at the end.

    `cores` is the number of cores of its node (0: all of the machine). With `pinned`, the server
    and its child processes run on these cores only. Raise RuntimeError if it does not start; it
    logs to `data`/server.log.
    """
    with (data / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*(pin_command(cores) if pinned else []), *serve_command(data)],
            cwd=data,
            env=clean_environment() | {"WESEMU_NODE__CORES": str(cores)} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield Server(Wes(read_url(process)), process.pid, data)
    finally:
        stop(process)


def fresh(data: Path) -> Path:
    """Create an empty directory. Delete an existing one."""
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    return data


def serve_command(data: Path, port: int = 0) -> list[str]:
    return [sys.executable, "-P", "-m", "wesemu.cli", "serve", f"--port={port}", f"--data={data}"]


def pin_command(cores: int) -> list[str]:
    """Return the `taskset` command to put before another command (Linux)."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    return ["taskset", "--cpu-list", ",".join(map(str, allowed))]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name[:7] != "WESEMU_"}


def read_url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if not url:
        raise RuntimeError("the server did not start; see server.log in its data directory")
    return url


def stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
