"""The engine parameter `dry_run`: everything is checked, nothing is created."""

from typing import Any

import pytest
from aiohttp import FormData
from api.wes.fixtures import Client, fetch
from conformance.wes.lives import Document
from conformance.wes.test_own_document import DOCUMENT

from wesemu.settings import Settings

RUNS = "/ga4gh/wes/v1/runs"
READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
PARAMS = {"reads": [READS], "reference": "oss://genes/reference/tiny", "bam": "oss://genes/o/a.bam"}
DRY = {"workflow_engine_parameters": {"dry_run": "true"}}
BODY: dict[str, Any] = {"workflow_url": "mapping", "workflow_params": PARAMS} | DRY


async def post(wes: Client, status: int = 200, **body: Any) -> Any:
    document: Document = DOCUMENT
    async with wes.post(RUNS, **body) as answer:
        told = await answer.json()
        assert answer.status == status, told
        document.check("POST", "/runs", status, told)
        return told


async def nothing_is_left(wes: Client, settings: Settings) -> bool:
    listed = (await fetch(wes, RUNS))["runs"]
    return listed == [] == list((settings.data / "runs").iterdir())


async def test_a_dry_run_tells_the_plan_and_leaves_nothing(wes: Client, settings: Settings) -> None:
    told = await post(wes, json=BODY, headers={"Idempotency-Key": "k"})
    assert told["run_id"] == ""
    outputs = told["wesemu"].pop("outputs")
    assert outputs["bam"] == {"published": "oss://genes/o/a.bam"}
    assert outputs["flagstat"] == {}
    graph = told["wesemu"].pop("graph")
    assert (graph["total"], graph["counts"], graph["complete"]) == (1, {"align": 1}, True)
    assert [task["name"] for task in graph["tasks"]] == ["align"]
    assert told["wesemu"] == {
        "dry_run": True,
        "workflow": "mapping",
        "engine": "snakemake",
        "service_level": "s",
        "cores": 2,
        "memory_mb": 0,
        "gpus": 0,
        "node": "cpu",
        "input_bytes": 6,
    }
    assert await nothing_is_left(wes, settings)


async def test_of_what_lies_elsewhere_nothing_is_fetched(wes: Client, settings: Settings) -> None:
    params = PARAMS | {"reference": "https://reference.invalid/genome.fa"}
    told = (await post(wes, json=BODY | {"workflow_params": params}))["wesemu"]
    assert told["workflow"] == "mapping"
    assert told.get("graph") is None
    assert await nothing_is_left(wes, settings)


async def test_a_workflow_of_ones_own(wes: Client, settings: Settings) -> None:
    form = FormData({"workflow_type": "SMK", "workflow_engine_parameters": '{"--dry-run": null}'})
    form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
    told = (await post(wes, data=form))["wesemu"]
    assert (told["workflow"], "outputs" in told) == ("", False)
    assert await nothing_is_left(wes, settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workflow_url": "nowhere", "workflow_type": "SMK"},
        {"workflow_params": PARAMS | {"reference": "oss://genes/none"}},
        {"workflow_params": PARAMS | {"markdup": "perhaps"}},
        {"workflow_engine_parameters": {"dry_run": "true", "cores": "9999"}},
        {"workflow_engine_parameters": {"dry_run": "perhaps"}},
        {"workflow_engine_parameters": {"dry_run": "true", "--dry-run": "true"}},
    ],
)
async def test_a_dry_run_refuses_what_a_submission_refuses(
    wes: Client, settings: Settings, wrong: dict[str, Any]
) -> None:
    await post(wes, 400, json=BODY | wrong)
    assert await nothing_is_left(wes, settings)


async def test_no_dry_run_is_a_run(wes: Client) -> None:
    told = await post(wes, json=BODY | {"workflow_engine_parameters": {"dry_run": "false"}})
    assert told["run_id"]
    assert len((await fetch(wes, RUNS))["runs"]) == 1
