"""The whole server with `node.executor = "slurm"`, on real daemons."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from support.waiting import eventually

from wesemu.app import create_app
from wesemu.client import AsyncClient, RunDetail
from wesemu.engines.processes import marked
from wesemu.runs.model import RunState
from wesemu.settings import Settings

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
Queue = Callable[[], Awaitable[list[str]]]

SLOW = """
rule slow:
    output: "out.txt"
    shell: "echo partial > {output}; sleep 300; echo whole > {output}"
"""
FAILING = """
rule failing:
    output: "out.txt"
    shell: "echo 'no such index' >&2; exit 3"
"""
MEETING = """
rule meet:
    output: "out.txt"
    params: config
    shell: "touch {params[0][mine]}; until [ -e {params[0][other]} ]; do sleep 0.05; done; "
           "touch {output}"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    bucket = tmp_path / "data" / "buckets" / "genes"
    shutil.copytree(ROOT / "testdata" / "diploid", bucket)
    node = {"executor": "slurm", "cores": 4, "memory_mb": 4096}
    return Settings.model_validate({"data": tmp_path / "data", "node": node})


@pytest.fixture
async def client(settings: Settings, aiohttp_client) -> AsyncIterator[AsyncClient]:
    served = await aiohttp_client(await create_app(settings))
    async with AsyncClient(str(served.make_url("/"))) as connected:
        yield connected


async def submit(client: AsyncClient, folder: Path, workflow: str, **params: str) -> str:
    folder.mkdir()
    (folder / "Snakefile").write_text(workflow)
    return await client.wes.submit(
        "Snakefile",
        dict(params),
        engine_parameters={"cores": "2"},
        attachments=[("Snakefile", folder / "Snakefile")],
    )


async def ended(client: AsyncClient, run_id: str) -> RunDetail:
    async with asyncio.timeout(120):
        async for run in client.wes.follow(run_id):
            if run.state.ended:
                return run
    raise AssertionError("the run was not followed to its end")


async def test_mapping_runs_on_the_cluster(client: AsyncClient, settings: Settings, queue: Queue):
    reads = {"first": "oss://genes/reads_1.fq.gz", "second": "oss://genes/reads_2.fq.gz"}
    reference = "oss://genes/reference.fa"
    params = {"reads": [reads], "reference": reference, "bam": "oss://genes/out/mapped.bam"}
    run = await ended(client, await client.wes.submit("mapping", params))
    assert run.state is RunState.COMPLETE, run.raw
    assert run.tags["wesemu.total_reads"] == "8334"
    flagstat = json.loads(await client.wes.text(run.outputs["flagstat"].download_url))
    assert flagstat["QC-passed reads"]["primary mapped"] == 8334
    assert (settings.data / "buckets/genes/out/mapped.bam").stat().st_size > 100_000
    usages = [
        json.loads(path.read_text())
        for path in (settings.data / "runs" / run.id / "tasks").glob("*/usage.json")
    ]
    assert len(usages) >= 3
    assert all(usage["slurm_job"].isdigit() and usage["node"] for usage in usages)
    assert max(usage["cpu_seconds"] for usage in usages) > 0.1
    assert max(usage["peak_memory"] or 0 for usage in usages) > 10_000_000
    assert await queue() == []


async def test_a_canceled_run_leaves_the_queue(
    client: AsyncClient, settings: Settings, tmp_path: Path, queue: Queue
):
    run_id = await submit(client, tmp_path / "flow", SLOW)
    work = settings.data / "runs" / run_id / "work"
    await eventually((work / "out.txt").exists)
    [job] = await queue()
    assert job.startswith(f"{run_id}/slow-")
    await client.wes.cancel(run_id)
    run = await ended(client, run_id)
    assert run.state is RunState.CANCELED
    assert await queue() == []
    assert not (work / "out.txt").exists()


async def test_reset_and_shutdown_leave_neither_jobs_nor_processes(
    settings: Settings, tmp_path: Path, queue: Queue
):
    served = TestServer(await create_app(settings))
    await served.start_server()
    runs = settings.data / "runs"
    async with AsyncClient(str(served.make_url("/"))) as client:
        run_id = await submit(client, tmp_path / "one", SLOW)
        await eventually((runs / run_id / "work" / "out.txt").exists)
        assert len(await queue()) == 1
        assert await client.control.reset() == 1
        assert await queue() == []
        assert await asyncio.to_thread(marked, runs / run_id) == []
        run_id = await submit(client, tmp_path / "two", SLOW)
        await eventually((runs / run_id / "work" / "out.txt").exists)
        assert len(await queue()) == 1
    await served.close()
    assert await queue() == []
    assert await asyncio.to_thread(marked, runs / run_id) == []


async def test_a_failing_task_tells_its_exit_status_and_stderr(client: AsyncClient, tmp_path: Path):
    run = await ended(client, await submit(client, tmp_path / "flow", FAILING))
    assert run.state is RunState.EXECUTOR_ERROR
    assert run.error is not None
    assert run.error.startswith("rule failing ended with exit status 3: no such index")
    [task] = run.tasks
    assert task.exit_code == 3
    assert task.stderr is not None
    assert await client.wes.text(task.stderr) == "no such index\n"


async def test_two_runs_are_on_the_cluster_at_a_time(client: AsyncClient, tmp_path: Path):
    """Each waits for a file of the other one."""
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    first = await submit(client, tmp_path / "one", MEETING, mine=here, other=there)
    second = await submit(client, tmp_path / "two", MEETING, mine=there, other=here)
    for run_id in (first, second):
        assert (await ended(client, run_id)).state is RunState.COMPLETE
