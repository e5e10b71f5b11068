"""Two active jobs that publish to one name: a warning in the response, and a tag."""

from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient
from support.scripted import scripted_engine
from support.waiting import soon
from unit.runs.test_service import ended

from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Owner
from wesemu.runs.service import RunService
from wesemu.settings import AuthSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]
TAG = "wesemu.outputs.shared"
READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}


def order(sample: str, **outputs: str) -> dict[str, Any]:
    params = {
        "reads": [READS],
        "reference": "oss://genes/reference/tiny",
        "sample": sample,
        **outputs,
    }
    return {"workflow_url": "mapping", "workflow_params": params}


AGS = {
    "workflow_type": "mapping",
    "service": "s",
    "mapping_bucket_name": "genes",
    "mapping_fastq_first_name": "fastq/a_1.fq.gz",
    "mapping_fastq_second_name": "fastq/a_2.fq.gz",
    "mapping_reference_file": "reference/tiny",
    "mapping_bam_file_name": "out/a.bam",
}


async def sent(client: Client, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = await client.post("/ga4gh/wes/v1/runs", json=body, headers=headers)
    told: dict[str, Any] = await answer.json()
    assert answer.status == 200, told
    return told


async def tags(client: Client, run_id: str) -> dict[str, str]:
    log = await (await client.get(f"/1.1.0/ga4gh/wes/v1/runs/{run_id}")).json()
    told: dict[str, str] = log["request"].get("tags", {})
    summaries = await (await client.get("/1.1.0/ga4gh/wes/v1/runs")).json()
    found = {run["run_id"]: run["tags"] for run in summaries["runs"]}
    return told | found[run_id]


async def test_a_name_of_an_active_run_is_reported_by_both_apis(
    client: Client, engine: ScriptedEngine, runs: RunService
) -> None:
    first = (await sent(client, order("wait-1", bam="oss://genes/out/a.bam")))["run_id"]
    answer = await (await client.post("/gs/workflow", json=AGS)).json()
    handle = (await runs.get(LOCAL_OWNER, first)).handle
    assert answer["warning"] == (
        f"oss://genes/out/a.bam is an output of the workflow mapping-gpu-{handle}, too; the last "
        "one to end wins"
    )
    third = await sent(client, order("b", bam="oss://genes/out/a.bam"))
    assert third["warnings"][0].startswith("oss://genes/out/a.bam is an output of the run ")
    assert (await tags(client, third["run_id"]))[TAG] == third["warnings"][0]
    assert TAG not in await tags(client, first)
    other = await sent(client, order("c", bam="oss://genes/out/b.bam"))
    assert "warnings" not in other
    engine.release("wait-1")
    for run in (await runs.page(LOCAL_OWNER, size=10)).runs:
        await ended(runs, run)
    assert "warnings" not in await sent(client, order("d", bam="oss://genes/out/a.bam"))


async def test_a_link_is_no_other_name(client: Client, settings: Settings) -> None:
    bucket = settings.data / "buckets/genes"
    (bucket / "out").mkdir(exist_ok=True)
    (bucket / "link").symlink_to("out")
    await sent(client, order("wait-1", bam="oss://genes/out/a.bam"))
    assert (await sent(client, order("b", bam="oss://genes/link/a.bam")))["warnings"]


async def test_a_dry_run_tells_it_and_claims_nothing(client: Client) -> None:
    await sent(client, order("wait-1", bam="oss://genes/out/a.bam"))
    dry = {"workflow_engine_parameters": {"dry_run": "true"}}
    told = await sent(client, order("b", bam="oss://genes/out/a.bam") | dry)
    assert told["warnings"]
    await sent(client, order("c", bam="oss://genes/out/c.bam") | dry)
    assert "warnings" not in await sent(client, order("d", bam="oss://genes/out/c.bam"))


async def test_runs_of_others_are_not_named(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    settings.auth = AuthSettings(tokens={"a": "alice", "b": "bob"})
    client: Client = await aiohttp_client(await create_app(settings, clock=clock, engines=[engine]))
    body = order("wait-1", bam="oss://genes/out/a.bam")
    first = await sent(client, body, Authorization="Bearer a")
    told = await sent(client, body, Authorization="Bearer b")
    assert "another owner's run" in told["warnings"][0]
    assert first["run_id"] not in told["warnings"][0]


async def test_names_outlast_the_server(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock
) -> None:
    engine = scripted_engine(clock)
    app = await create_app(settings, clock=clock, engines=[engine])
    client: Client = await aiohttp_client(app)
    first = await sent(client, order("wait-1", bam="oss://genes/out/a.bam"))
    async with soon():
        async for run in app[RUNS].follow(Owner("local"), first["run_id"]):
            if run.started is not None:
                break
    await client.close()
    again = await create_app(settings, clock=clock, engines=[scripted_engine(clock)])
    client = await aiohttp_client(again)
    told = await sent(client, order("b", bam="oss://genes/out/a.bam"))
    assert first["run_id"] in told["warnings"][0]
