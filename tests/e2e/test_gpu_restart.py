"""After kill -9 of the server its runs keep their GPUs; the next server leases these afterwards."""

import asyncio
import signal
from pathlib import Path

import pytest
from support.leases import held_twice, read_holds

from wesemu.client import AsyncClient
from wesemu.runs.model import RunState

WORKFLOW = """
shell.executable("bash")
rule only:
    output: "only.gpu"
    params: gate=config["gate"]
    resources: gpu=2
    shell:
        'start=$EPOCHREALTIME; touch began; until [ -e {params.gate} ]; do sleep 0.01; done;'
        ' echo "gpu $CUDA_VISIBLE_DEVICES $start $EPOCHREALTIME" > {output}'
"""
SECONDS = 180


async def test_gpus_survive_the_server_and_are_freed(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WESEMU_NODE__GPUS", "[1, 4]")
    monkeypatch.setenv("WESEMU_NODE__CORES", "2")
    gate, snakefile = tmp_path / "gate", tmp_path / "Snakefile"
    snakefile.write_text(WORKFLOW)
    runs, leases = tmp_path / "data" / "runs", tmp_path / "data" / "leases"

    async def send(client: AsyncClient) -> str:
        params = {"gate": str(gate)}
        return await client.wes.submit("Snakefile", params, attachments=[("Snakefile", snakefile)])

    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(SECONDS), AsyncClient(server.url) as client:
        first = await send(client)
        while not (runs / first / "work" / "began").exists():
            await asyncio.sleep(0.01)
    server.process.kill()
    await asyncio.to_thread(server.process.wait)
    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(SECONDS), AsyncClient(server.url) as client:
        second = await send(client)
        while not list(leases.glob("waits.*")):
            await asyncio.sleep(0.01)
        assert len(list(leases.glob("holds.*"))) == 1
        assert not (runs / second / "work" / "began").exists()
        gate.touch()
        for run_id in (first, second):
            async for detail in client.wes.follow(run_id):
                if detail.state.ended:
                    assert detail.state is RunState.COMPLETE, detail.raw
        while list(leases.glob("holds.*")):
            await asyncio.sleep(0.01)
    text = "".join((runs / run_id / "work" / "only.gpu").read_text() for run_id in (first, second))
    assert [devices for devices, _, _ in read_holds(text)] == [("1", "4")] * 2
    assert held_twice(text) == []
    server.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(server.process.wait, 60) == 0
