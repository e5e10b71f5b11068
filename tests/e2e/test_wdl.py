"""A WDL workflow by WES: the whole server, real miniwdl, real samtools of the wheel."""

import json
import sys

import pytest
from pytest_aiohttp import AiohttpClient
from support.library_engines import ROOT, WDL, Client, ended, needs_miniwdl, submit

from wesemu.app import create_app
from wesemu.settings import Settings

pytestmark = needs_miniwdl

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
  command <<< ~{python} -P -m wesemu.genomics.wheel_tools samtools sort -o sorted.bam ~{reads} >>>
  output { File bam = "sorted.bam" }
  runtime { docker: "quay.io/biocontainers/samtools:1.21" }
}
task count {
  input {
    String python
    File bam
  }
  command <<< ~{python} -P -m wesemu.genomics.wheel_tools samtools flagstat ~{bam} >>>
  output { File told = stdout() }
}
"""


@pytest.fixture
async def server(settings: Settings, aiohttp_client: AiohttpClient) -> Client:
    return await aiohttp_client(await create_app(settings, engines=[WDL.engine()]))


async def test_service_advertises_wdl(server: Client) -> None:
    async with server.get(f"{ROOT}/service-info") as answer:
        told = await answer.json()
    versions = told["workflow_type_versions"]["WDL"]["workflow_type_version"]
    assert versions == ["draft-2", "1.0", "1.1", "1.2"]
    assert told["workflow_engine_versions"]["miniwdl"]


async def test_attached_tasks_sort_and_count_reads(server: Client) -> None:
    run_id = await submit(
        server,
        WDL,
        {"sorted.python": sys.executable, "sorted.reads": "data/reads.sam"},
        {
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


async def test_a_failed_tool_is_reported(server: Client) -> None:
    run_id = await submit(
        server,
        WDL,
        {"sorted.python": sys.executable, "sorted.reads": "reads.sam"},
        {
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
