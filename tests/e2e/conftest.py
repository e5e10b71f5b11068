"""Real `wesemu` processes in a folder without settings."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Process = subprocess.Popen[str]
Ended = subprocess.CompletedProcess[str]


class Server:
    """A `wesemu serve` process. `url` is its first line on stdout, `stderr` its log so far."""

    def __init__(self, process: Process, log: Path) -> None:
        assert process.stdout is not None
        self.process = process
        self.url = process.stdout.readline().strip()
        self._log = log

    @property
    def stderr(self) -> str:
        return self._log.read_text()


Spawn = Callable[..., Process]


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the developer's own settings of wesemu."""
    clear_surroundings(monkeypatch, tmp_path)


def clear_surroundings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Remove all settings. Make `folder` the working directory, with the temporary files in it."""
    for name in list(os.environ):
        if name.startswith("WESEMU_"):
            monkeypatch.delenv(name)
    (folder / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    monkeypatch.chdir(folder)


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start commands with stderr in a file. Kill those that are alive at the end."""
    started: list[Process] = []

    def start(*arguments: object, log: Path = tmp_path / "stderr.log") -> Process:
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wesemu.cli", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def serve(spawn: Spawn, tmp_path: Path) -> Callable[..., Server]:
    """Start a server on a free port over `data`."""

    def start(*flags: object) -> Server:
        log = tmp_path / "serve.log"
        return Server(spawn("serve", "--port", 0, "--data", "data", *flags, log=log), log)

    return start


@pytest.fixture
def wesemu() -> Callable[..., Ended]:
    """Run one command to its end."""
    return run_wesemu


def run_wesemu(*arguments: object, timeout: float = 120) -> Ended:
    return subprocess.run(
        [sys.executable, "-P", "-m", "wesemu.cli", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
