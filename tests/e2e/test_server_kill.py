"""kill -9 of the server at any moment: no accepted run is lost or executed twice at once."""

import asyncio
import random
import signal
from pathlib import Path

from wesemu.client import AsyncClient, ClientError
from wesemu.runs.model import RunState

WORKFLOW = """
rule all:
    input: "c.txt"

def step(source, target):
    # a second execution at the same time would find the folder there
    return (
        f"mkdir busy || (echo {target} >> twice; exit 1); echo {target} >> ran;"
        f" cat {source} > {target}; echo {target} >> {target}; sleep 0.05; rmdir busy"
    )

rule a:
    output: "a.txt"
    params: command=step("seed.txt", "a.txt")
    shell: "{params.command}"

rule b:
    input: "a.txt"
    output: "b.txt"
    params: command=step("a.txt", "b.txt")
    shell: "{params.command}"

rule c:
    input: "b.txt"
    output: "c.txt"
    params: command=step("b.txt", "c.txt")
    shell: "{params.command}"
"""
KILLS, BATCH = 20, 2


async def test_every_acknowledged_run_ends_once_with_the_right_outputs(serve, tmp_path: Path):
    snakefile, seed = tmp_path / "Snakefile", tmp_path / "seed.txt"
    snakefile.write_text(WORKFLOW)
    seed.write_text("seed\n")
    sent = [("Snakefile", snakefile), ("seed.txt", seed)]
    moments = random.Random(7)
    acknowledged: list[str] = []
    for _ in range(KILLS):
        server = await asyncio.to_thread(serve)
        # between an instant after the first submission and the end of the batch's last run
        killing = asyncio.create_task(kill_after(server.process, moments.uniform(0.0, 0.9)))
        try:
            async with AsyncClient(server.url) as client:
                for _ in range(BATCH):
                    run_id = await client.wes.submit("Snakefile", {}, attachments=sent)
                    acknowledged.append(run_id)
        except ClientError:
            pass  # not acknowledged
        await killing
    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(120), AsyncClient(server.url) as client:
        known = [line.id for line in await client.wes.runs()]
        assert len(known) == len(set(known))
        assert set(acknowledged) <= set(known)
        for run_id in known:
            async for detail in client.wes.follow(run_id):
                if detail.state.ended:
                    assert detail.state is RunState.COMPLETE, detail.raw
    server.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(server.process.wait, 20) == 0
    for run_id in known:
        work = tmp_path / "data" / "runs" / run_id / "work"
        assert not (work / "twice").exists()
        assert (work / "c.txt").read_text().split() == ["seed", "a.txt", "b.txt", "c.txt"]


async def kill_after(process, seconds: float) -> None:
    await asyncio.sleep(seconds)
    process.kill()
    await asyncio.to_thread(process.wait)
