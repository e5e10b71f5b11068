"""A WDL workflow over WES: the whole server, real miniwdl, real samtools out of the wheel."""

import asyncio
import json
import sys
from typing import Any

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from wesemu.app import create_app
from wesemu.engines.wdl import WdlEngine, probe
from wesemu.settings import Settings

FOUND = probe()
pytestmark = pytest.mark.skipif(not FOUND.usable, reason=FOUND.reason or "")

Client = TestClient[web.Request, web.Application]

ROOT = "/ga4gh/wes/v1"
PATIENCE_SECONDS = 60

READS = (
    "@HD\tVN:1.6\tSO:unsorted\n@SQ\tSN:chr1\tLN:1000\n"
    "r1\t0\tchr1\t500\t60\t4M\t*\t0\t0\tACGT\tFFFF\n"
    "r2\t0\tchr1\t100\t60\t4M\t*\t0\t0\tACGT\tFFFF\n"
)

SORT_AND_COUNT = """version 1.1
import "tasks/samtools.wdl" as samtools
workflow sorted {
  input {
    String python
    File reads
  }
  call samtools.sort { input: python = python, reads = reads }
  call samtools.count { input: python = python, bam = sort.bam }
  output {
    File bam = sort.bam
    File flagstat = count.told
  }
}
"""

SAMTOOLS = """version 1.1
task sort {
  input {
    String python
    File reads
  }
  command <<< ~{python} -P -m wesemu.genomics.wheel samtools sort -o sorted.bam ~{reads} >>>
  output { File bam = "sorted.bam" }
  runtime { docker: "quay.io/biocontainers/samtools:1.21" }
}
task count {
  input {
    String python
    File bam
  }
  command <<< ~{python} -P -m wesemu.genomics.wheel samtools flagstat ~{bam} >>>
  output { File told = stdout() }
}
"""


@pytest.fixture
async def server(settings: Settings, aiohttp_client: AiohttpClient) -> Client:
    engine = WdlEngine(FOUND.version or "")
    return await aiohttp_client(await create_app(settings, engines=[engine]))


async def submit(server: Client, params: dict[str, Any], **files: str) -> str:
    form = FormData(default_to_multipart=True)
    form.add_field("workflow_type", "WDL")
    form.add_field("workflow_type_version", "1.1")
    form.add_field("workflow_url", "flow.wdl")
    form.add_field("workflow_params", json.dumps(params))
    for name, text in files.items():
        form.add_field("workflow_attachment", text.encode(), filename=name)
    async with server.post(f"{ROOT}/runs", data=form) as answer:
        told = await answer.json()
        assert answer.status == 200, told
    return str(told["run_id"])


async def ended(server: Client, run_id: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with server.get(f"{ROOT}/runs/{run_id}") as answer:
                run: dict[str, Any] = await answer.json()
            if run["state"] not in ("QUEUED", "INITIALIZING", "RUNNING"):
                return run
            await asyncio.sleep(0.05)


async def test_service_advertises_wdl(server: Client) -> None:
    async with server.get(f"{ROOT}/service-info") as answer:
        told = await answer.json()
    versions = told["workflow_type_versions"]["WDL"]["workflow_type_version"]
    assert versions == ["draft-2", "1.0", "1.1", "1.2"]
    assert told["workflow_engine_versions"]["miniwdl"]


async def test_attached_tasks_sort_and_count_reads(server: Client) -> None:
    run_id = await submit(
        server,
        {"sorted.python": sys.executable, "sorted.reads": "data/reads.sam"},
        **{
            "flow.wdl": SORT_AND_COUNT,
            "tasks/samtools.wdl": SAMTOOLS,
            "data/reads.sam": READS,
        },
    )
    run = await ended(server, run_id)
    assert run["state"] == "COMPLETE", run
    assert {task["name"] for task in run["task_logs"]} == {"sort", "count"}
    assert {task["exit_code"] for task in run["task_logs"]} == {0}
    text = json.dumps(run["outputs"])
    assert "out/bam/sorted.bam" in text
    assert "out/flagstat/stdout.txt" in text
    assert "out/outputs.json" in text


async def test_failed_tool_is_told_of(server: Client) -> None:
    run_id = await submit(
        server,
        {"sorted.python": sys.executable, "sorted.reads": "reads.sam"},
        **{
            "flow.wdl": SORT_AND_COUNT,
            "tasks/samtools.wdl": SAMTOOLS,
            "reads.sam": "@SQ\tSN:chr1\tLN:1000\nr1\t0\tchr1\tno number\n",
        },
    )
    run = await ended(server, run_id)
    assert run["state"] == "EXECUTOR_ERROR"
    [task] = run["task_logs"]
    assert task["name"] == "sort"
    assert task["exit_code"] == 1
