"""Addresses on which the server may listen."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wesemu.cli.output import CommandRefused, ExitStatus
from wesemu.cli.serve import is_loopback, listen, listen_on_port, require_credentials
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


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    with pytest.raises(CommandRefused, match="too long for a unix socket") as refused:
        listen(Settings(socket=path))
    assert str(path) in refused.value.message
