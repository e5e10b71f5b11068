"""The queue priority that tasks of a run take to the lease queue."""

import asyncio
import json

from aiohttp.test_utils import TestClient, TestServer
from support.scripted import script_of
from support.waiting import soon

from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import LOCAL_OWNER, Resources, RunRequest
from wesemu.runs.ports import LaunchRequest
from wesemu.settings import Settings
from wesemu.testing.fake_engine import Script, ScriptedEngine

READS = [{"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}]


def mapping(service: str, **engine_parameters: str) -> RunRequest:
    params = {"reads": READS, "reference": "oss://genes/reference/tiny", "service": service}
    return RunRequest("mapping", params=params, engine_parameters=engine_parameters)


async def test_tasks_stand_by_service_level_and_age(settings: Settings, clock: ManualClock) -> None:
    settings.node.gpus = [1, 3]
    jobs: list[LaunchRequest] = []

    def script(job: LaunchRequest) -> Script:
        jobs.append(job)
        return script_of(job)

    engine = ScriptedEngine(
        clock, name="snakemake", script=script, workflow_types={"SMK": ("9.27.1",)}
    )
    app = await create_app(settings, clock=clock, ids=IdSource(seed=1), engines=[engine])
    async with TestClient(TestServer(app)):
        for request in (mapping("s", node="cuda"), mapping("p", cores="1", node="cpu")):
            run = await app[RUNS].submit(LOCAL_OWNER, request)
            async with soon():
                async for seen in app[RUNS].follow(run.owner, run.id):
                    run = seen
    priorities = [job.priority for job in jobs]
    assert [priority and priority.rank for priority in priorities] == [2, 0]
    assert [priority and priority.age for priority in priorities] == [1, 2]
    assert [job.resources for job in jobs] == [Resources(2, gpus=2, least_gpus=1), Resources(1)]
    assert [dict(job.engine_parameters) for job in jobs] == [{}, {}]
    assert {priority and priority.folder for priority in priorities} == {settings.data / "leases"}
    node = await asyncio.to_thread((settings.data / "leases/node.json").read_text)
    assert json.loads(node) == {"cores": 2, "memory_mb": 4096, "devices": [1, 3]}
