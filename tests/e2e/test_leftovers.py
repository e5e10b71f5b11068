"""No process outlives its run or the server; they are found by environment and session."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from support.engine_runs import until
from support.library_engines import needs_cwltool, needs_miniwdl

from wesemu.client import AsyncClient
from wesemu.engines.processes import MARK
from wesemu.runs.model import RunState

TOKEN = "LEFTOVER_TEST"
PATIENCE = 60

SMK = ("Snakefile", 'rule slow:\n    output: "x"\n    shell: "setsid sleep 301 & sleep 302"\n')
CWL = (
    "flow.cwl",
    """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [sh, -c, 'setsid sleep 301 & sleep 302']
inputs: []
outputs: []
""",
)
WDL = ("flow.wdl", "version 1.0\ntask slow { command { setsid sleep 301 & sleep 302 } }\n")
SENT = {"SMK": (*SMK, "9"), "CWL": (*CWL, "v1.2"), "WDL": (*WDL, "1.0")}

KINDS = [
    pytest.param("warm", "SMK", id="warm"),
    pytest.param("cli", "SMK", id="cli"),
    pytest.param("cli", "CWL", id="CWL", marks=needs_cwltool),
    pytest.param("cli", "WDL", id="WDL", marks=needs_miniwdl),
]


class Kin:
    """All processes that a server under test has started, or their descendants."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._sessions = set[int]()

    def now(self) -> set[psutil.Process]:
        """Who carries the token or a run's mark, or is in a session where such a one was seen."""
        found = set(filter(self._carries, psutil.process_iter()))
        self._sessions |= set(_sessions(found)) - {os.getsid(0)}
        return found | {p for p in psutil.process_iter() if self._sessions & {*_sessions([p])}}

    def _carries(self, process: psutil.Process) -> bool:
        try:
            seen = process.environ()
        except psutil.Error:
            return False
        return any(seen.get(name, "").startswith(self._folder) for name in (TOKEN, MARK))


def _sessions(processes: Iterable[psutil.Process]) -> list[int]:
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(os.getsid(process.pid))
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def programs(kin: Kin) -> Counter[str]:
    """The command lines of all processes. A forked process has that of its forkserver."""
    found = Counter[str]()
    for process in kin.now():
        with contextlib.suppress(psutil.Error):
            found[" ".join(process.cmdline())] += 1
    return found


def idle(kin: Kin) -> Counter[str] | None:
    """`programs`, once each forkserver has its spare process and that one's subreaper."""
    found = programs(kin)
    forked = [number for line, number in found.items() if "engines.forkserver" in line]
    return found if all(number == 3 for number in forked) else None


async def running(client: AsyncClient, kin: Kin, kind: str) -> str:
    """A run whose two tools are there: the one that left its session has no child's place."""
    name, text, version = SENT[kind]
    await asyncio.to_thread(Path(name).write_text, text)
    run = await client.wes.submit(
        name,
        {},
        workflow_type=kind,
        workflow_type_version=version,
        attachments=[(name, Path(name))],
    )
    await until(lambda: {"sleep 301", "sleep 302"} <= programs(kin).keys())
    return run


async def canceled(client: AsyncClient, run: str) -> RunState:
    await client.wes.cancel(run)
    async for detail in client.wes.follow(run):
        state = detail.state
    return state


def post(url: str) -> None:
    with urlopen(Request(url, data=b"{}", method="POST"), timeout=PATIENCE) as answer:
        assert answer.status == 200


def is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/_wesemu/ready", timeout=PATIENCE):
            return True
    except HTTPError as error:
        error.close()
        return False


@pytest.mark.parametrize(("mode", "kind"), KINDS)
async def test_nothing_is_left_after_cancel_reset_and_shutdown(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: str
) -> None:
    """A run has a tool, and another one in a session of its own. A server that is stopped takes
    its runs up again when it starts, and has no process until then."""
    monkeypatch.setenv(TOKEN, str(tmp_path))
    monkeypatch.setenv("WESEMU_ENGINE__SNAKEMAKE", mode)
    monkeypatch.setenv("WESEMU_ENGINE__LAZY", "[]")  # all forkservers start with the server
    kin = Kin(tmp_path)
    server = await asyncio.to_thread(serve)
    await until(lambda: is_ready(server.url))
    alone = await until(lambda: idle(kin))
    async with AsyncClient(server.url) as client:
        run = await running(client, kin, kind)
        assert await canceled(client, run) is RunState.CANCELED
        await until(lambda: programs(kin) == alone)
        await running(client, kin, kind)
        await asyncio.to_thread(post, f"{server.url}/_wesemu/reset")
        await until(lambda: programs(kin) == alone)
        await running(client, kin, kind)
    server.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(server.process.wait, PATIENCE) == 0
    await until(lambda: not kin.now())
