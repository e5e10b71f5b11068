"""A cancel and a stop of the server interrupt hashing and staging of huge files."""

import asyncio
import gzip
import signal
from pathlib import Path

import psutil
from support.engine_runs import until
from support.waiting import soon

from wesemu.client import AsyncClient
from wesemu.runs.model import RunState

WORKFLOW = """
rule huge:
    output: "o"
    shell: "truncate -s 2000G {output}"
"""


async def publishing(client: AsyncClient, snakefile: Path, runs: Path) -> str:
    """A run whose tools have ended."""
    run = await client.wes.submit("Snakefile", {}, attachments=[("Snakefile", snakefile)])
    await until((runs / run / "exit_code").exists)
    return run


async def test_hashing_is_broken_off(serve, tmp_path: Path) -> None:
    snakefile, runs = tmp_path / "Snakefile", tmp_path / "data" / "runs"
    snakefile.write_text(WORKFLOW)
    server = await asyncio.to_thread(serve)
    async with AsyncClient(server.url) as client:
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


async def test_staging_a_huge_reference_is_broken_off(serve, tmp_path: Path) -> None:
    bucket = tmp_path / "data" / "buckets" / "genes"
    (bucket / "reference").mkdir(parents=True)
    with (bucket / "reference" / "genome.fa.gz").open("wb") as fasta:
        fasta.write(gzip.compress(b">chr1\n"))
        lines = gzip.compress(b"ACGTACGTAC\n" * (4 << 20))
        for _ in range(4000):  # 180 GB
            fasta.write(lines)
    for name in ("a_1.fq.gz", "a_2.fq.gz"):
        (bucket / name).write_bytes(b"reads")
    params = {
        "reads": [{"first": "oss://genes/a_1.fq.gz", "second": "oss://genes/a_2.fq.gz"}],
        "reference": "oss://genes/reference",
        "bam": "oss://genes/a.bam",
    }
    server = await asyncio.to_thread(serve)
    async with AsyncClient(server.url) as client:
        for cancels in (True, False):
            run = await client.wes.submit("mapping", params)
            await until(lambda pid=server.process.pid: reads_the_reference(pid))  # type: ignore[misc]
            if cancels:
                await client.wes.cancel(run)
                async with soon():
                    async for detail in client.wes.follow(run):
                        state = detail.state
                assert state is RunState.CANCELED
    server.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.process.wait, 60) == 0


def reads_the_reference(pid: int) -> bool:
    return any(file.path.endswith("genome.fa.gz") for file in psutil.Process(pid).open_files())
