"""A server whose jobs depend on the name of their reads: `wait-…` waits, `fail…` fails."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from support.scripted import fill_bucket, script_of

from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, JsonObject, Run, RunState
from wesemu.runs.ports import LaunchRequest
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import Script, ScriptedEngine

Client = TestClient[web.Request, web.Application]
Start = Callable[[JsonObject], Awaitable[str]]
Reach = Callable[..., Awaitable[Run]]

WGS: JsonObject = {
    "cli_version": "v1.0.1-882299b",
    "wgs_bucket_name": "genes",
    "wgs_fastq_first_name": "fastq/a_1.fq.gz",
    "wgs_fastq_second_name": "fastq/a_2.fq.gz",
    "wgs_oss_region": "cn-shenzhen",
    "wgs_reference_file": "reference/tiny",
    "wgs_service": "g",
    "wgs_vcf_File_name": "vcf/a.vcf",
    "workflow_type": "WGS",
}
MAPPING: JsonObject = {
    "workflow_type": "mapping",
    "service": "s",
    "mapping_oss_region": "cn-shenzhen",
    "mapping_fastq_first_filename": "a_1.fq.gz",
    "mapping_fastq_second_filename": "a_2.fq.gz",
    "mapping_bucket_name": "genes",
    "mapping_fastq_path": "fastq",
    "mapping_reference_path": "reference/tiny",
    "mapping_is_mark_dup": "true",
    "mapping_bam_out_path": "output/bamDirName",
    "mapping_bam_out_filename": "abc.bam",
}


def reads(name: str) -> JsonObject:
    """Return fields of `WGS` for other reads."""
    return {
        "wgs_fastq_first_name": f"fastq/{name}_1.fq.gz",
        "wgs_fastq_second_name": f"fastq/{name}_2.fq.gz",
    }


@pytest.fixture
def bucket(settings: Settings) -> Path:
    """Return the folder of the bucket `genes`, with reads that wait and reads that fail."""
    folder = settings.data / "buckets" / "genes"
    for name in ("wait-1", "fail"):
        for mate in (1, 2):
            (folder / "fastq" / f"{name}_{mate}.fq.gz").write_bytes(b"reads")
    return folder


@pytest.fixture
def other_bucket(settings: Settings) -> Path:
    return fill_bucket(settings.data, "other")


@pytest.fixture
def engine(clock: ManualClock) -> ScriptedEngine:
    return ScriptedEngine(
        clock, name="snakemake", script=_script, workflow_types={"SMK": ("9.27.1",)}
    )


@pytest.fixture
def start(client: Client) -> Start:
    """Return a function that starts a job and returns its name."""

    async def start(body: JsonObject) -> str:
        response = await client.post("/gs/workflow", json=body)
        answer = await response.json()
        assert response.status == 200, answer
        return str(answer["JobName"])

    return start


@pytest.fixture
def reach(runs: RunService) -> Reach:
    """Return a function that waits until a job is in one of the states (default: has ended)."""

    async def reach(name: str, *states: RunState) -> Run:
        run_id = (await runs.by_handle(LOCAL_OWNER, name.rpartition("-")[2])).id
        async for run in runs.follow(LOCAL_OWNER, run_id):
            if run.state in states or run.state.ended:
                break
        assert run.state in states or not states
        return run

    return reach


def _script(job: LaunchRequest) -> Script:
    reads = job.config["reads"]
    assert isinstance(reads, list)
    assert isinstance(reads[0], dict)
    name = Path(str(reads[0]["first"])).name.removesuffix("_1.fq.gz")
    if name.startswith("wait"):
        return [{"wait": name}, *script_of(job)]
    if name.startswith("fail"):
        return [{"task": "align", "exit_code": 1}, {"exit": 1, "message": "the reads are broken"}]
    return script_of(job)
