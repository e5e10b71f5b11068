"""A real GPU: found, leased, visible to one task only, and right counts."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.engine_runs import end_runs, follow, make_job
from support.leases import held_twice, read_holds

from wesemu.client import AsyncClient
from wesemu.composition import choose_gpus
from wesemu.core import pipelines_folder
from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import declare
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.node import Gpu, Inventory, NodeSettings, detect
from wesemu.runs.model import Resources, RunState
from wesemu.runs.ports import QueuePriority

WORKFLOW = pipelines_folder() / "gpu-selftest" / "workflow"
FILES = ("Snakefile", "schemas/config.schema.yaml", "envs/gpu.yaml")
READS = 2000


def test_every_gpu_is_found_with_its_facts(inventory: Inventory) -> None:
    assert inventory.driver
    assert inventory.cuda
    for gpu in inventory.gpus:
        assert gpu.name
        assert gpu.uuid
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_mb
        assert gpu.free_mb is not None
        assert gpu.free_mb <= gpu.memory_mb


def test_nvidia_smi_tells_the_same(inventory: Inventory) -> None:
    if (program := shutil.which("nvidia-smi")) is None:
        pytest.skip("no nvidia-smi on PATH")
    query = ["--query-gpu=index,uuid,driver_version", "--format=csv,noheader"]
    told = subprocess.run([program, *query], capture_output=True, text=True, check=True).stdout
    expected = [[str(gpu.index), gpu.uuid, gpu.driver] for gpu in inventory.gpus]
    assert [line.split(", ") for line in told.splitlines()] == expected


def test_auto_lends_them(inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    node = detect(gpus=choose_gpus(NodeSettings()).gpus)
    assert node.devices == tuple(gpu.index for gpu in inventory.gpus if not gpu.divided)
    assert node.gpu_memory_mb
    assert node.gpu_driver == inventory.driver


SEEN = """
    import json, sys
    rule all:
        input: "with.json", "without.json"
    rule gpu:
        output: "with.json"
        resources: gpu=1
        params: python=sys.executable
        shell: "{params.python} show.py > {output}"
    rule cpu:
        output: "without.json"
        params: python=sys.executable
        shell: "{params.python} show.py > {output}"
"""

SHOW = """
    import json
    from numba import cuda
    found = cuda.is_available()
    print(json.dumps([str(gpu._device.uuid) for gpu in cuda.gpus.lst] if found else []))
"""


async def test_cuda_shows_a_task_the_gpu_of_its_lease_and_no_other(
    inventory: Inventory, index: int, cuda: None, tmp_path: Path
) -> None:
    await asyncio.to_thread(declare, tmp_path / "leases", Capacity(cores=2, devices=(index,)))
    job = make_job(
        tmp_path / "run", SEEN, resources=Resources(cores=2, gpus=1), scripts={"show.py": SHOW}
    )
    await asyncio.to_thread(shutil.copytree, job.workspace.attachments, job.workspace.work)
    job = replace(job, priority=QueuePriority(tmp_path / "leases", rank=2, age=1))
    engine = SnakemakeEngine()
    try:
        story = await follow(await engine.launch(job), seconds=120)
    finally:
        await engine.close()
        await asyncio.to_thread(end_runs, tmp_path)
    assert story.outcome.exit_code == 0, story.failures
    uuid = next(gpu.uuid for gpu in inventory.gpus if gpu.index == index)
    read = {
        name: json.loads((job.workspace.work / name).read_text())
        for name in ("with.json", "without.json")
    }
    assert read == {"with.json": [uuid], "without.json": []}


def test_doctor_counts_on_every_gpu(
    lent: tuple[Gpu, ...], cuda: None, wesemu: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    done = wesemu("doctor", "--selftest", "--json", timeout=500)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    for gpu in lent:
        tried = found[f"self-test GPU {gpu.index}"]
        assert tried["ok"], tried
        assert "SIMULATED" not in tried["found"]
        assert "figures equal to the CPU's" in tried["found"]


@pytest.fixture
def reads(cuda: None, tmp_path: Path) -> Path:
    from wesemu.genomics.histograms import write_random

    write_random(tmp_path / "reads.fq", READS)
    return tmp_path / "reads.fq"


async def test_a_server_runs_the_self_test_on_its_cuda_node(
    lent: tuple[Gpu, ...], reads: Path, serve, tmp_path: Path
) -> None:
    """Four runs at once, by WES, on as many GPUs as there are."""
    server = await asyncio.to_thread(serve)
    sent = [(name, WORKFLOW / name) for name in FILES]
    async with asyncio.timeout(300), AsyncClient(server.url) as client:
        runs = [
            await client.wes.submit(
                "Snakefile",
                {"reads": str(reads)},
                attachments=sent,
                engine_parameters={"node": "cuda", "gpus": "1"},
            )
            for _ in range(4)
        ]
        for run_id in runs:
            async for detail in client.wes.follow(run_id):
                if detail.state.ended:
                    assert detail.state is RunState.COMPLETE, detail.raw
                    assert detail.raw["request"]["tags"]["wesemu.node"] == "cuda"
    uuids = {gpu.uuid for gpu in lent}
    for run_id in runs:
        report = tmp_path / "data" / "runs" / run_id / "work" / "results" / "gpu.json"
        told = json.loads(await asyncio.to_thread(report.read_text))
        assert (told["equal"], told["simulated"], told["reads"]) == (True, False, READS)
        assert told["device"]["uuid"] in uuids


def test_the_demo_runs_on_the_cuda_node(
    lent: tuple[Gpu, ...],
    cuda: None,
    wesemu: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    """Parabricks, where it is there; else the self-test on a GPU beside the CPU's tools."""
    done = wesemu("demo", "--node", "cuda", "--no-keep", timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    assert "SIMULATED" not in done.stdout
    assert "cuda, by AGS and WES, for 4 of 4 runs" in done.stdout
    assert "4 by Parabricks" in done.stdout or "figures equal to the CPU's" in done.stdout


TIMED = """
    shell.executable("bash")
    rule all:
        input: expand("{n}.gpu", n=range(4))
    rule hold:
        output: "{n}.gpu"
        resources: gpu=1
        shell: '''start=$EPOCHREALTIME; sleep 0.1;
            echo "gpu $CUDA_VISIBLE_DEVICES $start $EPOCHREALTIME" > {output}'''
"""


async def test_no_gpu_is_held_twice(lent: tuple[Gpu, ...], tmp_path: Path) -> None:
    devices = tuple(gpu.index for gpu in lent)
    await asyncio.to_thread(declare, tmp_path / "leases", Capacity(cores=8, devices=devices))
    engine = SnakemakeEngine()
    try:
        executions = []
        for number in range(3):
            job = make_job(
                tmp_path / f"run{number}",
                TIMED,
                resources=Resources(cores=4, gpus=len(devices)),
            )
            job = replace(job, priority=QueuePriority(tmp_path / "leases", rank=2, age=number))
            executions.append(await engine.launch(job))
        stories = await asyncio.gather(*(follow(each, seconds=120) for each in executions))
    finally:
        await engine.close()
        await asyncio.to_thread(end_runs, tmp_path)
    assert [story.outcome.exit_code for story in stories] == [0, 0, 0]
    written = sorted(tmp_path.glob("*/work/*.gpu"))
    text = "".join([await asyncio.to_thread(path.read_text) for path in written])
    assert len(read_holds(text)) == 12
    assert held_twice(text) == []
