"""Neither a cancel nor the server's end waits for a huge result to be read."""

import asyncio
import signal
from pathlib import Path

from engine_support import until
from waiting import soon

from wesemu.client import Client, connect
from wesemu.runs.model import RunState

WORKFLOW = """
rule huge:
    output: "o"
    shell: "truncate -s 2000G {output}"
"""


async def publishing(client: Client, snakefile: Path, runs: Path) -> str:
    """A run whose tools have ended."""
    run = await client.wes.submit("Snakefile", {}, attachments=[("Snakefile", snakefile)])
    await until((runs / run / "exit_code").exists)
    return run


async def test_hashing_is_broken_off(serve, tmp_path: Path) -> None:
    snakefile, runs = tmp_path / "Snakefile", tmp_path / "data" / "runs"
    snakefile.write_text(WORKFLOW)
    server = await asyncio.to_thread(serve)
    async with connect(server.url) as client:
        run = await publishing(client, snakefile, runs)
        await client.wes.cancel(run)
        async with soon():
            async for detail in client.wes.follow(run):
                state = detail.state
        assert state is RunState.CANCELED
        await publishing(client, snakefile, runs)
    server.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert not list(tmp_path.rglob("*.part"))
