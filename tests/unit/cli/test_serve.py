"""Addresses on which the server may listen, and the scripts that it runs first."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from support.waiting import TIMEOUT_SECONDS, eventually, soon

from wesemu.cli import init_scripts
from wesemu.cli.init_scripts import run_scripts
from wesemu.cli.output import CommandRefused, ExitStatus
from wesemu.cli.serve import (
    is_loopback,
    listen,
    listen_on_port,
    open_threads,
    require_credentials,
)
from wesemu.settings import AuthSettings, Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_the_rest_is_not(host: str) -> None:
    assert not is_loopback(host)


def test_an_open_door_is_refused() -> None:
    with pytest.raises(CommandRefused, match="--insecure"):
        require_credentials(Settings(host="0.0.0.0"))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(host="0.0.0.0", insecure=True),
        Settings(host="0.0.0.0", auth=AuthSettings(tokens={"secret": "alice"})),
        Settings(host="0.0.0.0", auth=AuthSettings(ags_keys={"id": "secret"})),
        Settings(),
    ],
)
def test_credentials_insecure_or_loopback_open_it(settings: Settings) -> None:
    require_credentials(settings)


def test_a_free_port_is_found() -> None:
    with listen_on_port("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CommandRefused, match="--port") as refused:
            listen_on_port("127.0.0.1", port)
    assert refused.value.status is ExitStatus.MACHINE


def test_a_foreign_address_is_reported() -> None:
    with pytest.raises(CommandRefused, match=r"192\.0\.2\.1"):
        listen_on_port("192.0.2.1", 0)


def test_a_missing_folder_of_scripts_ends_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wesemu.cli", "serve", "--port", "0", "--init", "missing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == ExitStatus.USAGE
    assert done.stderr == "wesemu: --init: there is no folder missing\n"


def program(folder: Path, text: str) -> Path:
    file = folder / "init" / "script"
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def test_a_server_that_is_stopped_during_its_scripts_says_nothing(tmp_path: Path) -> None:
    script = program(tmp_path, "kill -TERM $PPID; exec sleep 60")
    command = [sys.executable, "-m", "wesemu.cli", "serve", "--port", "0", "--init", script.parent]
    command += ["--ready-file", "ready"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith("stopping; press Ctrl-C again to stop at once\n")
    assert not (tmp_path / "ready").exists()


async def test_a_script_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(init_scripts, "_END_SECONDS", 0.1)
    script = program(tmp_path, 'trap "" TERM; mkdir "$0.$$"; exec sleep 60')
    stopped = asyncio.Event()
    running = asyncio.create_task(run_scripts([script], {}, stopped))
    await eventually(lambda: any(script.parent.glob("script.*")))
    stopped.set()
    async with soon():
        await running
    (begun,) = script.parent.glob("script.*")
    with pytest.raises(ProcessLookupError):
        os.killpg(int(begun.suffix[1:]), 0)


def test_a_socket_of_another_type_stays(monkeypatch) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,  # the path of a socket has to be short
        monkeypatch.context() as inside,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        inside.chdir(folder)
        other.bind("log")
        with pytest.raises(CommandRefused, match="the path is in use"):
            listen(Settings(socket=Path("log")))
        assert Path("log").is_socket()


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    with pytest.raises(CommandRefused, match="too long for a unix socket") as refused:
        listen(Settings(socket=path))
    assert str(path) in refused.value.message


def test_many_long_copies_leave_threads_for_other_requests() -> None:
    """Also on a machine with two cores. Each of these copies waits for all others."""
    together = threading.Barrier(32)
    with open_threads() as threads:
        copies = [threads.submit(together.wait, TIMEOUT_SECONDS) for _ in range(32)]
        assert {copy.result() for copy in copies} == set(range(32))
