"""A dry run of a bundled pipeline, planned by the real Snakemake behind the whole server."""

from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from wesemu.app import create_app
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.settings import Settings

RUNS = "/ga4gh/wes/v1/runs"
FIRST, SECOND = "oss://genes/fastq/a_1.fq.gz", "oss://genes/fastq/a_2.fq.gz"
REFERENCE = "oss://genes/reference/tiny"


async def served(
    aiohttp_client: AiohttpClient, settings: Settings
) -> TestClient[web.Request, web.Application]:
    return await aiohttp_client(await create_app(settings, engines=[SnakemakeEngine()]))


async def test_the_rules_of_a_bundled_pipeline_are_named_in_the_callers_words(
    aiohttp_client: AiohttpClient, settings: Settings, tmp_path: Path
) -> None:
    client = await served(aiohttp_client, settings)
    params = {"reads": [{"first": FIRST, "second": SECOND}], "reference": REFERENCE}
    body = {
        "workflow_url": "wgs",
        "workflow_params": params,
        "workflow_engine_parameters": {"dry_run": "true"},
    }
    async with client.post(RUNS, json=body) as answer:
        told = await answer.text()
        assert answer.status == 200, told
        graph = (await answer.json())["wesemu"]["graph"]
    assert str(tmp_path) not in told
    assert {"map": 1, "statistics": 1, "summary": 1}.items() <= graph["counts"].items()
    assert graph["total"] == len(graph["tasks"]) == sum(graph["counts"].values())
    tasks = {task["name"]: task for task in graph["tasks"]}
    assert {FIRST, SECOND} <= set(tasks["map"]["inputs"])
    assert tasks["prepare_reference"]["inputs"] == [REFERENCE]
    assert tasks["prepare_reference"]["id"] in tasks["map"]["after"]
    assert tasks["map"]["threads"] == 2
    assert "results/calls.vcf.gz" in {file for task in graph["tasks"] for file in task["outputs"]}
    assert list((settings.data / "runs").iterdir()) == []
