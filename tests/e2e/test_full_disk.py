"""A disk that fills up: the run ends with the reason, the server continues, nothing is lost."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_disk import fill, small_disk
from support.waiting import eventually

from wesemu.client import AsyncClient
from wesemu.client.transport import ClientError
from wesemu.client.wes import RunDetail
from wesemu.runs.model import RunState

GREEDY = """
rule all:
    input: "big", "small"

rule small:
    output: "small"
    shell: "echo small > {output}"

rule big:
    input: "small"
    output: "big"
    shell: "head -c 100000000 /dev/zero > {output}"
"""
MODEST = """
rule modest:
    output: "modest"
    shell: "echo modest > {output}"
"""


WAITING = """
rule waiting:
    output: "waited"
    shell: "touch begun; tail -f /dev/null > {output}"
"""


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data directory on a file system of 32 MB."""
    with small_disk(tmp_path / "data") as folder:
        yield folder


async def test_a_run_that_fills_the_disk_ends_with_the_reason(
    small_disk: Path, serve, tmp_path: Path
) -> None:
    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(180), AsyncClient(server.url) as client:
        greedy = await end_of(client, tmp_path, "greedy", GREEDY)
        assert greedy.state is RunState.EXECUTOR_ERROR, greedy.raw
        assert greedy.error is not None
        assert "No space left on device" in greedy.error
        # once somebody has made room, all is as before
        (small_disk / "runs" / greedy.id / "work" / "big").unlink(missing_ok=True)
        modest = await end_of(client, tmp_path, "modest", MODEST)
        assert modest.state is RunState.COMPLETE
        assert (small_disk / "wesemu.db.reserve").stat().st_size == 4 << 20


async def test_a_disk_that_somebody_else_fills(small_disk: Path, serve, tmp_path: Path) -> None:
    """Nothing more is taken, and a run whose process is killed then is not resumed into it."""
    server = await asyncio.to_thread(serve)
    filler = small_disk / "filler"
    async with asyncio.timeout(180), AsyncClient(server.url) as client:
        run_id = await submit(client, tmp_path, "waiting", WAITING)
        work = small_disk / "runs" / run_id / "work"
        await eventually((work / "begun").exists)
        await eventually(lambda: told(client, run_id))
        await asyncio.to_thread(fill, filler)
        with pytest.raises(ClientError, match="disk is full"):
            await submit(client, tmp_path, "modest", MODEST)
        assert [folder.name for folder in (small_disk / "runs").iterdir()] == [run_id]
        os.truncate(filler, filler.stat().st_size - (256 << 10))  # enough for the index alone
        os.kill(journal(work)[0]["pid"], signal.SIGKILL)
        killed = await followed(client, run_id)
        assert killed.state is RunState.SYSTEM_ERROR
        assert "the disk is full" in str(killed.error)
        filler.unlink()
        modest = await end_of(client, tmp_path, "modest", MODEST)
        assert modest.state is RunState.COMPLETE


async def told(client: AsyncClient, run_id: str) -> bool:
    """Whether the index knows that the task runs, and so has nothing more to write."""
    return [task.started is not None for task in (await client.wes.run(run_id)).tasks] == [True]


def journal(work: Path) -> list[dict]:
    return [json.loads(line) for line in (work.parent / "events.jsonl").read_text().splitlines()]


async def submit(client: AsyncClient, folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return await client.wes.submit(name, {}, attachments=[(name, path)])


async def followed(client: AsyncClient, run_id: str) -> RunDetail:
    return [detail async for detail in client.wes.follow(run_id)][-1]


async def end_of(client: AsyncClient, folder: Path, name: str, text: str) -> RunDetail:
    return await followed(client, await submit(client, folder, name, text))
