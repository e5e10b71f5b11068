"""A CWL workflow by WES: the whole server, real cwltool, real samtools of the wheel."""

import json
import sys

import pytest
from pytest_aiohttp import AiohttpClient
from support.library_engines import CWL, ROOT, Client, ended, needs_cwltool, submit

from wesemu.app import create_app
from wesemu.settings import Settings

pytestmark = needs_cwltool

READS = (
    "@HD\tVN:1.6\tSO:unsorted\n@SQ\tSN:chr1\tLN:1000\n"
    "r1\t0\tchr1\t500\t60\t4M\t*\t0\t0\tACGT\tFFFF\n"
    "r2\t0\tchr1\t100\t60\t4M\t*\t0\t0\tACGT\tFFFF\n"
)

SORT_AND_COUNT = """
cwlVersion: v1.2
class: Workflow
inputs: {python: string, reads: File}
outputs:
  bam: {type: File, outputSource: sort/bam}
  flagstat: {type: File, outputSource: count/told}
steps:
  sort:
    in: {python: python, reads: reads}
    out: [bam]
    run: sort.cwl
  count:
    in: {python: python, bam: sort/bam}
    out: [told]
    run: tools/count.cwl
"""

SORT = """
cwlVersion: v1.2
class: CommandLineTool
inputs:
  python: {type: string, inputBinding: {position: 0}}
  reads: {type: File, inputBinding: {position: 2}}
arguments:
  - {position: 1, valueFrom: '-P'}
  - {position: 1, valueFrom: '-m'}
  - {position: 1, valueFrom: wesemu.genomics.wheel_tools}
  - {position: 1, valueFrom: samtools}
  - {position: 1, valueFrom: sort}
  - {position: 1, valueFrom: '-o'}
  - {position: 1, valueFrom: sorted.bam}
outputs:
  bam: {type: File, outputBinding: {glob: sorted.bam}}
"""

COUNT = """
cwlVersion: v1.2
class: CommandLineTool
inputs:
  python: {type: string, inputBinding: {position: 0}}
  bam: {type: File, inputBinding: {position: 2}}
arguments:
  - {position: 1, valueFrom: '-P'}
  - {position: 1, valueFrom: '-m'}
  - {position: 1, valueFrom: wesemu.genomics.wheel_tools}
  - {position: 1, valueFrom: samtools}
  - {position: 1, valueFrom: flagstat}
stdout: flagstat.txt
outputs:
  told: stdout
"""


@pytest.fixture
async def server(settings: Settings, aiohttp_client: AiohttpClient) -> Client:
    return await aiohttp_client(await create_app(settings, engines=[CWL.engine()]))


async def test_service_advertises_cwl(server: Client) -> None:
    async with server.get(f"{ROOT}/service-info") as answer:
        told = await answer.json()
    versions = told["workflow_type_versions"]["CWL"]["workflow_type_version"]
    assert versions == ["v1.0", "v1.1", "v1.2"]
    assert told["workflow_engine_versions"]["cwltool"]


async def test_attached_tools_sort_and_count_reads(server: Client) -> None:
    run_id = await submit(
        server,
        CWL,
        {"python": sys.executable, "reads": {"class": "File", "path": "data/reads.sam"}},
        {
            "flow.cwl": SORT_AND_COUNT,
            "sort.cwl": SORT,
            "tools/count.cwl": COUNT,
            "data/reads.sam": READS,
        },
    )
    run = await ended(server, run_id)
    assert run["state"] == "COMPLETE", run
    assert {task["name"] for task in run["task_logs"]} == {"sort", "count"}
    assert {task["exit_code"] for task in run["task_logs"]} == {0}
    text = json.dumps(run["outputs"])
    assert "out/sorted.bam" in text
    assert "out/flagstat.txt" in text
    assert "out/outputs.json" in text


async def test_a_failed_tool_is_reported(server: Client) -> None:
    run_id = await submit(
        server,
        CWL,
        {"python": sys.executable, "reads": {"class": "File", "path": "reads.sam"}},
        {
            "flow.cwl": SORT_AND_COUNT,
            "sort.cwl": SORT,
            "tools/count.cwl": COUNT,
            "reads.sam": "@SQ\tSN:chr1\tLN:1000\nr1\t0\tchr1\tno number\n",
        },
    )
    run = await ended(server, run_id)
    assert run["state"] == "EXECUTOR_ERROR"
    [task] = run["task_logs"]
    assert task["name"] == "sort"
    assert task["exit_code"] == 1
    async with server.get(f"{ROOT}/runs/{run_id}/stderr") as answer:
        assert answer.status == 200
