"""Runs of a server that is stopped, or killed while it stops, are resumed."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.engine_runs import until
from support.library_engines import needs_cwltool, needs_miniwdl

from wesemu.client import AsyncClient
from wesemu.engines.run_process import holder, is_held
from wesemu.runs.model import RunState
from wesemu.runs.run_directory import Workspace

TOOL = "echo x >> {count}; until [ -e {gate} ]; do sleep 0.02; done"
SMK = 'rule slow:\n    output: "x"\n    shell: "{tool}; touch x"\n'
CWL = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [sh, -c, '{tool}']
inputs: []
outputs: []
"""
WDL = "version 1.0\ntask slow {{ command {{ {tool} }} }}\n"
SENT = {
    "SMK": ("Snakefile", SMK, "9"),
    "CWL": ("flow.cwl", CWL, "v1.2"),
    "WDL": ("flow.wdl", WDL, "1.0"),
}
STOP_SECONDS = 60


def term_and_kill(server, workspace: Workspace) -> None:
    """As `docker stop` does, once the tools have been ended."""
    server.process.send_signal(signal.SIGTERM)
    until_there(workspace.exit_code)
    server.process.kill()


def interrupt_twice(server, workspace: Workspace) -> None:
    server.process.send_signal(signal.SIGINT)
    until_there(workspace.exit_code)
    server.process.send_signal(signal.SIGINT)


def hang_up(server, workspace: Workspace) -> None:
    server.process.send_signal(signal.SIGHUP)


def until_there(path: Path) -> None:
    asyncio.run(until(path.exists))


@pytest.mark.parametrize(
    ("mode", "kind", "stops"),
    [
        pytest.param("warm", "SMK", [term_and_kill, interrupt_twice, hang_up], id="warm"),
        pytest.param("cli", "SMK", [term_and_kill], id="cli"),
        pytest.param("cli", "CWL", [term_and_kill], id="CWL", marks=needs_cwltool),
        pytest.param("cli", "WDL", [term_and_kill], id="WDL", marks=needs_miniwdl),
    ],
)
async def test_a_run_that_a_signal_ended_is_launched_again(
    serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    kind: str,
    stops: list[Callable[..., None]],
) -> None:
    monkeypatch.setenv("WESEMU_ENGINE__SNAKEMAKE", mode)
    monkeypatch.setenv("WESEMU_ENGINE__SANDBOX", "none")  # the tool writes outside of its run
    count, gate = tmp_path / "count", tmp_path / "gate"
    name, text, version = SENT[kind]
    source = tmp_path / name
    source.write_text(text.format(tool=TOOL.format(count=count, gate=gate)))

    async def begun(times: int) -> None:
        await until(lambda: count.exists() and len(count.read_text().split()) == times)

    server = await asyncio.to_thread(serve)
    async with AsyncClient(server.url) as client:
        run = await client.wes.submit(
            name,
            {},
            workflow_type=kind,
            workflow_type_version=version,
            attachments=[(name, source)],
        )
    workspace = Workspace(tmp_path / "data" / "runs" / run)
    for times, stop in enumerate(stops, start=1):
        await begun(times)
        await asyncio.to_thread(stop, server, workspace)
        await asyncio.to_thread(server.process.wait, STOP_SECONDS)
        await until(lambda: not is_held(workspace.lock))
        server = await asyncio.to_thread(serve)
    await begun(len(stops) + 1)
    assert not workspace.crashes.exists()
    # somebody ends the run's own process while the server follows it
    process = await asyncio.to_thread(holder, workspace.lock)
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    await begun(len(stops) + 2)
    gate.touch()
    async with asyncio.timeout(STOP_SECONDS), AsyncClient(server.url) as client:
        async for detail in client.wes.follow(run):
            state = detail.state
    assert state is RunState.COMPLETE, detail.raw
    assert len(count.read_text().split()) == len(stops) + 2
    assert json.loads(workspace.crashes.read_text()) == {"crashes": 1}
