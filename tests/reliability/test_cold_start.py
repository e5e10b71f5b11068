"""Runs do not depend on a forkserver that is still starting or fails to start."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from support.engine_runs import DEADLINE_SECONDS, end_runs, follow, make_job, until

from wesemu.app import RUNS, create_app
from wesemu.engines.processes import identify
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.model import LOCAL_OWNER, Run, RunRequest, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings

WORKFLOW = """
rule a:
    output: "a"
    shell: "touch {output}"
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The forkserver of `held_engine` starts once this is there."""
    return tmp_path / "gate"


@pytest.fixture
async def held_engine(gate: Path) -> AsyncIterator[SnakemakeEngine]:
    python = gate.with_name("python")
    python.write_text(
        f'#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.01; done\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    engine = SnakemakeEngine(python=str(python))
    yield engine
    await engine.close()


@pytest.fixture
async def dying_engine(tmp_path: Path) -> AsyncIterator[SnakemakeEngine]:
    """Its forkservers die as they start, and leave a line in `starts` each."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *forkserver*) echo one >> {tmp_path}/starts; exit 1;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    engine = SnakemakeEngine(python=str(python))
    yield engine
    await engine.close()


class Served:
    """A server over one engine, which is sent one Snakefile after another."""

    def __init__(self, server: TestServer) -> None:
        self.runs: RunService = server.app[RUNS]

    async def submit(self, workflow: str) -> Run:
        draft = await self.runs.draft()

        async def text() -> AsyncIterator[bytes]:
            yield workflow.encode()

        await draft.files.attach("Snakefile", text())
        return await self.runs.submit(LOCAL_OWNER, RunRequest("Snakefile"), draft)

    async def ended(self, run: Run) -> RunState:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for seen in self.runs.follow(LOCAL_OWNER, run.id):
                state = seen.state
        return state


@pytest.fixture
async def served(held_engine: SnakemakeEngine, settings: Settings) -> AsyncIterator[Served]:
    server = TestServer(await create_app(settings, engines=[held_engine]))
    await server.start_server()
    yield Served(server)
    await server.close()
    await asyncio.to_thread(end_runs, settings.data / "runs")


async def test_cancel_while_the_forkserver_starts(served: Served, gate: Path) -> None:
    """The run does not wait for it; the next one finds it warm."""
    run = await served.submit(WORKFLOW)
    folder = served.runs.workspace(run)
    await until((folder.work / "Snakefile").exists)
    await served.runs.cancel(LOCAL_OWNER, run.id)
    assert await served.ended(run) is RunState.CANCELED
    assert not folder.lock.exists()
    other = await served.submit(WORKFLOW)
    gate.touch()
    assert await served.ended(other) is RunState.COMPLETE


async def test_shutdown_while_the_forkserver_starts_leaves_none(
    held_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    launch = asyncio.create_task(held_engine.launch(make_job(tmp_path / "run", WORKFLOW)))
    forkserver = await until(lambda: held_engine.forkserver)
    assert forkserver is not None
    await held_engine.close()
    await asyncio.wait({launch})
    assert await asyncio.to_thread(identify, forkserver) is None


async def test_launch_tries_once_to_start_a_forkserver_and_does_without(
    dying_engine: SnakemakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    execution = await dying_engine.launch(make_job(tmp_path / "run", WORKFLOW))
    assert (await follow(execution)).outcome.exit_code == 0
    assert (tmp_path / "starts").read_text() == "one\n"
    assert caplog.messages == [
        "the forkserver of snakemake died while it was starting; see stderr of the server"
    ]
