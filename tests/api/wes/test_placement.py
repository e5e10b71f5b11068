"""The engine parameters `node` and `gpus` by WES and AGS, and how a run shows its placement."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient
from support.remove_tree import remove_tree
from support.waiting import soon

from wesemu.app import create_app
from wesemu.engines.leases import LeaseClient
from wesemu.node import NodeSettings
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]
Serve = Callable[..., Awaitable[Client]]

RUNS = "/ga4gh/wes/v1/runs"
READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
WES = {
    "workflow_url": "mapping",
    "workflow_params": {"reads": [READS], "reference": "oss://genes/reference/tiny"},
}
AGS = {
    "workflow_type": "mapping",
    "service": "s",
    "mapping_bucket_name": "genes",
    "mapping_fastq_first_name": "fastq/a_1.fq.gz",
    "mapping_fastq_second_name": "fastq/a_2.fq.gz",
    "mapping_reference_file": "reference/tiny",
    "mapping_bam_file_name": "o/a.bam",
}


@pytest.fixture
def serve(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> Serve:
    async def start(**node: Any) -> Client:
        declared = {"cores": 2, "memory_mb": 4096, "gpus": 0, **node}
        settings.node = NodeSettings.model_validate(declared)
        app = await create_app(settings, clock=clock, ids=IdSource(seed=1), engines=[engine])
        return await aiohttp_client(app)

    return start


async def call(client: Client, method: str, path: str, status: int = 200, **body: Any) -> Any:
    async with client.request(method, path, **body) as answer:
        told = await answer.json()
        assert answer.status == status, told
        return told


async def send(client: Client, status: int = 200, **parameters: str) -> Any:
    body = WES | {"workflow_engine_parameters": parameters}
    return await call(client, "POST", RUNS, status, json=body)


async def ended(client: Client, run_id: str) -> Any:
    async with soon():
        while True:
            told = await call(client, "GET", f"{RUNS}/{run_id}")
            if told["state"] in ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR"):
                return told
            await asyncio.sleep(0.01)


async def test_the_node_of_a_run_is_shown(serve: Serve) -> None:
    client = await serve(gpus=2)
    run = await ended(client, (await send(client, node="cpu"))["run_id"])
    assert run["request"]["tags"]["wesemu.node"] == "cpu"
    run = await ended(client, (await send(client, node="cuda", gpus="2"))["run_id"])
    assert run["request"]["tags"]["wesemu.node"] == "cuda"
    assert run["request"]["workflow_engine_parameters"] == {"node": "cuda", "gpus": "2"}


async def test_where_a_run_is_carried_out_is_the_servers_to_say(serve: Serve) -> None:
    client = await serve()
    body = WES | {"tags": {"wesemu.node": "cuda", "wesemu.node.note": "all is well", "mine": "x"}}
    run_id = (await call(client, "POST", RUNS, json=body))["run_id"]
    tags = (await ended(client, run_id))["request"]["tags"]
    assert (tags["wesemu.node"], tags["mine"]) == ("cpu", "x")
    assert "wesemu.node.note" not in tags


async def test_service_info_and_the_controls_tell_of_the_gpus(serve: Serve) -> None:
    card = {"index": 3, "name": "NVIDIA A10G", "memory_mb": 23_028, "driver": "535.1"}
    client = await serve(gpus=[card], default="cpu")
    info = await call(client, "GET", "/ga4gh/wes/v1/service-info")
    assert info["tags"] == {
        "wesemu.node.gpus": "1",
        "wesemu.node.gpu.3": "GPU 3, NVIDIA A10G, 23028 MiB",
        "wesemu.node.gpu_driver": "535.1",
    }
    parameters = {each["name"]: each for each in info["default_workflow_engine_parameters"]}
    assert parameters["node"]["default_value"] == "cpu"
    assert "gpus" in parameters
    node = (await call(client, "GET", "/_wesemu/info"))["node"]
    assert node["cores"] == 2
    [gpu] = node["gpus"]
    assert {name: gpu[name] for name in card} == card


async def test_without_a_gpu_cuda_is_refused_before_anything_runs(
    serve: Serve, settings: Settings
) -> None:
    client = await serve()
    told = await send(client, 400, node="cuda")
    assert "this node has none" in told["msg"]
    told = await call(client, "POST", "/gs/workflow", 400, json=AGS | {"WESEMU_NODE": "cuda"})
    assert "WESEMU_NODE" in told["Message"]
    assert "this node has none" in told["Message"]
    assert list((settings.data / "runs").iterdir()) == []


async def test_more_gpus_than_the_node_has_are_refused_with_the_figure(serve: Serve) -> None:
    client = await serve(gpus=2)
    assert "this node has 2 GPUs" in (await send(client, 400, gpus="3"))["msg"]


async def test_ags_chooses_the_node_by_our_fields_and_shows_it(serve: Serve) -> None:
    client = await serve(gpus=2)
    body = AGS | {"wesemu_node": "cuda", "wesemu_gpus": 2}
    name = (await call(client, "POST", "/gs/workflow", json=body))["JobName"]
    job = await call(client, "GET", f"/gs/workflow/{name}")
    assert job["node"] == "cuda"
    assert job["user_input_data"].endswith('"wesemu_node":"cuda","wesemu_gpus":"2"}')


async def test_the_cpu_instead_of_a_gpu_is_shown_in_tags_and_logs(serve: Serve) -> None:
    client = await serve(without_gpu="cpu")
    run = await ended(client, (await send(client, node="cuda"))["run_id"])
    assert run["state"] == "COMPLETE"
    note = "asked for cuda; this node has no GPU: the CPU runs it (node.without_gpu)"
    assert run["request"]["tags"]["wesemu.node"] == "cpu"
    assert run["request"]["tags"]["wesemu.node.note"] == note
    assert run["run_log"]["system_logs"] == [note]
    async with client.get(f"{RUNS}/{run['run_id']}/stderr") as answer:
        assert f"wesemu: {note}\n" in await answer.text()
    name = (await call(client, "POST", "/gs/workflow", json=AGS | {"wesemu_node": "cuda"}))[
        "JobName"
    ]
    job = await call(client, "GET", f"/gs/workflow/{name}")
    assert (job["node"], job["node_note"]) == ("cpu", note)


async def plan(client: Client, **parameters: str) -> dict[str, Any]:
    """Of a dry run: where it would go."""
    told = (await send(client, dry_run="true", **parameters))["wesemu"]
    return {name: told[name] for name in told if name.startswith("node")} | {"gpus": told["gpus"]}


async def test_a_dry_run_tells_where_the_run_would_go(serve: Serve, settings: Settings) -> None:
    client = await serve(gpus=[0, 3])
    gpus = {"lent": [0, 3], "free": [0, 3], "waits": False}
    told = await plan(client, node="cuda", gpus="2")
    note = told.pop("node_note")
    assert note.startswith("asked for cuda, but there is no Parabricks")
    assert told == {"node": "cuda", "node_gpus": gpus, "gpus": 2}
    assert await plan(client, node="cpu") == {"node": "cpu", "gpus": 0}
    lease_client = LeaseClient(QueuePriority(settings.data / "leases", rank=1, age=1))
    lease = await asyncio.to_thread(lease_client.take, Resources(cores=1, gpus=1))
    try:
        busy = await plan(client, node="cuda", gpus="2")
        one = await plan(client, node="cuda", gpus="1")
    finally:
        await asyncio.to_thread(lease.release)
    assert busy["node_gpus"] == {"lent": [0, 3], "free": [3], "waits": True}
    assert one["node_gpus"]["waits"] is False


@pytest.mark.parametrize(
    ("without_gpu", "told"),
    [
        ("cpu", {"node": "cpu", "gpus": 0}),
        (
            "queue",
            {"node": "cuda", "gpus": 1, "node_gpus": {"lent": [], "free": [], "waits": True}},
        ),
    ],
)
async def test_a_dry_run_tells_what_happens_without_a_gpu(
    serve: Serve, without_gpu: str, told: dict[str, Any]
) -> None:
    client = await serve(without_gpu=without_gpu)
    found = await plan(client, node="cuda")
    assert "this node ha" in found.pop("node_note")
    assert found == told


async def test_a_dry_run_refuses_cuda_without_a_gpu(serve: Serve) -> None:
    client = await serve(without_gpu="refuse")
    assert "this node has none" in (await send(client, 400, dry_run="true", node="cuda"))["msg"]


async def test_a_run_that_waits_for_a_gpu_says_so_and_holds_up_no_other(serve: Serve) -> None:
    client = await serve(without_gpu="queue")
    waiting = (await send(client, node="cuda"))["run_id"]
    other = (await send(client))["run_id"]
    assert (await ended(client, other))["state"] == "COMPLETE"
    run = await call(client, "GET", f"{RUNS}/{waiting}")
    assert run["state"] == "QUEUED"
    assert "waits for a server with one" in run["request"]["tags"]["wesemu.node.note"]
    assert run["run_log"]["system_logs"] == [run["request"]["tags"]["wesemu.node.note"]]
    await client.close()
    with_gpu = await serve(gpus=1)
    assert (await ended(with_gpu, waiting))["state"] == "COMPLETE"


async def test_a_removed_folder_of_leases_is_made_again_for_the_next_run(
    serve: Serve, settings: Settings
) -> None:
    client = await serve(cores=2)
    await asyncio.to_thread(remove_tree, settings.data / "leases")
    await ended(client, (await send(client))["run_id"])
    node = await asyncio.to_thread((settings.data / "leases/node.json").read_text)
    assert json.loads(node)["cores"] == 2
