"""docs/conformance.md: the results of other servers, sapporo and GA4GH's wes-service.

Both run workflows with cwltool. Each has an environment of its own.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wesemu.conformance.checks import CheckOutcome, CheckResult, Report, examine

PAGE = Path(__file__).parents[3] / "docs" / "conformance.md"
RUN_SH = Path(__file__).with_name("sapporo_run.sh")
SECONDS = 32.0
"""The longest time of a run. The run that is to be canceled sleeps for a quarter of it."""

OWN_PROGRAMS = str(Path(sys.executable).parent)


def program(name: str, package: str) -> Path:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH ({package})")
    if shutil.which("cwltool", path=f"{OWN_PROGRAMS}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip("no cwltool: pip install 'wesemu[cwl]'")
    return Path(found).resolve()


@contextmanager
def running(folder: Path, port: int, *command: object) -> Iterator[str]:
    """A server that listens on `port`, with its own programs and cwltool on PATH: its URL."""
    paths = (OWN_PROGRAMS, str(Path(str(command[0])).parent), os.environ["PATH"])
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(each) for each in command],
            cwd=folder,
            env=os.environ | {"PATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def documented(name: str) -> dict[str, str]:
    """The column of a server in the table of results: pass, fail or a dash, by check."""
    rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    head = next(row for row in cells if row[0] == "Check")
    column = next(number for number, title in enumerate(head) if title.startswith(name))
    return {row[0].strip("`"): row[column] for row in cells if len(row) == len(head)}


def shown(result: CheckResult) -> str:
    return "–" if result.outcome is CheckOutcome.SKIP else result.outcome.value


def differences(report: Report, name: str) -> list[str]:
    column = documented(name)
    return [
        f"{result.check.id} is {shown(result)}, not {column[result.check.id]}: "
        f"{result.reason} {result.exchange}"
        for result in report.results
        if shown(result) != column[result.check.id]
    ]


def test_sapporo(tmp_path: Path, reserved_port: int) -> None:
    server = program("sapporo", "sapporo==2.4.0")
    (tmp_path / "runs").mkdir()
    flags = ("--host", "127.0.0.1", "--port", reserved_port, "--run-dir", tmp_path / "runs")
    with running(tmp_path, reserved_port, server, *flags, "--run-sh", RUN_SH) as url:
        report = asyncio.run(examine(url, version="1.1.0", workflow_type="CWL", seconds=SECONDS))
    assert differences(report, "sapporo") == []


def test_wes_service(tmp_path: Path, reserved_port: int) -> None:
    server = program("wes-server", "wes-service==5.0")
    options = ("--opt", "runner=cwltool", "--opt", "extra=--no-container")
    with running(tmp_path, reserved_port, server, "--port", reserved_port, *options) as url:
        report = asyncio.run(examine(url, version="1.0.0", seconds=SECONDS))
    assert differences(report, "wes-service") == []
