"""Runs the command line in this process and captures its output."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from wesemu.cli.app import execute


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Wesemu = Callable[..., Ended]


@pytest.fixture
def wesemu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Wesemu:
    """Return a function that runs one command without colors, as in a script."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("WESEMU_SERVER", "WESEMU_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Ended:
        status = 0
        try:
            execute([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        out, err = capsys.readouterr()
        return Ended(status, out, err)

    return run
