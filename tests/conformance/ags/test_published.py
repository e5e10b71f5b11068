"""The commands and the sample program of AGS's documentation, unchanged.

`wesemu` replaces `ags remote`. The shell comments are in the documentation. One of them ends a
command in the middle, so the shell does not find the flags after it.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.scripted import REFERENCE

from wesemu.genomics.reference import ReferenceStore
from wesemu.runs.model import LOCAL_OWNER, Run, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings

BUCKET = "my-test-shenzhen"
SAMPLE = "MGISEQ2000_PCR-free_NA12878_1_V100003043"
READS = [
    *(f"MGISEQ/{SAMPLE}_L01_{mate}.fq.gz" for mate in (1, 2)),
    *(
        f"{folder}/L{lane}/{SAMPLE}_L0{lane}_{mate}.fq.gz"
        for folder in ("MGISAMPLE001", "MGISAMPLE002")
        for lane in (1, 2)
        for mate in (1, 2)
    ),
]

WGS = r"""
ags remote run wgs \
--region cn-shenzhen \
--fastq1 MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_1.fq.gz  \
--fastq2 MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_2.fq.gz  \
--bucket my-test-shenzhen \
--output-vcf vcf/MGISEQ_NA12878_hs37d5_5.vcf \
--output-bam bam/MGISEQ_NA12878_hs37d5_5.bam \
--service "s" \
--reference hg19
"""

WGS_LANES = r"""
ags remote run wgs \
--region cn-shenzhen \
--fastq1 MGISAMPLE001 \
--fastq2 MGISAMPLE001  \
--bucket my-test-shenzhen \
--output-vcf vcf/MGISEQ_NA12878_hs37d5_6.vcf \
--output-bam bam/MGISEQ_NA12878_hs37d5_6.bam \
--service "g" \
--reference hg19

ags remote run wgs \
--region cn-shenzhen \
--fastq1 MGISAMPLE002 \
--fastq2 MGISAMPLE002  \
--bucket my-test-shenzhen \
--output-vcf vcf/MGISEQ_NA12878_hs37d5_7.vcf \
--output-bam bam/MGISEQ_NA12878_hs37d5_7.bam \
--service "g" \
--reference hg19
"""

JOINT_CALLING = r"""
ags remote run wgs \
--region cn-shenzhen \
--fastq1 MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_1.fq.gz  \
--fastq2 MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_2.fq.gz  \
--bucket my-test-shenzhen \
--output-gvcf gvcf/MGISEQ_NA12878_hs37d5_5.gvcf \
--output-bam bam/MGISEQ_NA12878_hs37d5_5.bam \
--service "s" \
--reference hg19 \
--reference-group "\"@RG\\tID:TEST\\tSM:12878_1\\tPL:MGISEQ2000\""

ags remote run wgs \
--region cn-shenzhen \
--fastq1 MGISAMPLE001 \
--fastq2 MGISAMPLE001  \
--bucket my-test-shenzhen \
--output-gvcf gvcf/MGISEQ_NA12878_hs37d5_6.gvcf \
--output-bam bam/MGISEQ_NA12878_hs37d5_6.bam \
--service "s" \
--reference hg19 \
--reference-group "\"@RG\\tID:TEST\\tSM:12878\\tPL:MGISEQ2000\""
"""

MAPPING = r"""
ags remote run mapping \
--region cn-shenzhen \
--fastq1 MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_1.fq.gz  \
--fastq2 MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_2.fq.gz  \
--bucket my-test-shenzhen \
--output-bam bam/MGISEQ_NA12878_hs37d5.bam # Output filename of BAM \
--service "g" \
--markdup "true" \
--reference hg19
"""

HYBRID = r"""
method=mapping region=cn-shenzhen bucket=my-test-shenzhen ref=hg19 service=g
file1=MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_1.fq.gz
file2=MGISEQ/MGISEQ2000_PCR-free_NA12878_1_V100003043_L01_2.fq.gz
outputbam=bam/gene.bam
ags remote run ${method} --region ${region} --fastq1 ${file1} --fastq2 ${file2} --bucket ${bucket} --output-bam ${outputbam} --reference ${ref} --service ${service} --watch
"""  # noqa: E501


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A server without keys; the bucket is a folder, the reference is added as hs37d5."""
    bucket = settings.data / "buckets" / BUCKET
    for key in READS:
        (bucket / key).parent.mkdir(parents=True, exist_ok=True)
        (bucket / key).write_bytes(key.encode())
    fasta = settings.data.parent / "small.fa"
    fasta.write_text(REFERENCE)
    ReferenceStore(settings.data / "references", settings.data / "cache").add("hs37d5", fasta)
    return Settings.model_validate(settings.model_dump() | {"auth": {}})


Shell = Callable[[str], Any]


@pytest.fixture
def shell(endpoint: str, tmp_path: Path) -> Shell:
    """Runs a block in bash: its status, stdout, stderr."""
    tool = tmp_path / "bin" / "wesemu"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m wesemu.cli "$@"\n')
    tool.chmod(0o755)
    variables = os.environ | {
        "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}",
        "WESEMU_SERVER": f"http://{endpoint}",
        "COLUMNS": "200",
    }

    async def run(block: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", block.replace("ags remote", "wesemu")],
            capture_output=True,
            text=True,
            timeout=120,
            env=variables,
            check=False,
        )

    return run


@pytest.fixture
def ended(runs: RunService) -> Callable[[str], Any]:
    """The run behind a job's name, once it has ended."""

    async def ended(name: str) -> Run:
        run = await runs.by_handle(LOCAL_OWNER, name.rpartition("-")[2])
        async for changed in runs.follow(LOCAL_OWNER, run.id):
            run = changed
        assert run.state is RunState.COMPLETE, run.failure
        return run

    return ended


def job_names(out: str) -> list[str]:
    return [json.loads(line)["JobName"] for line in out.splitlines() if line.startswith("{")]


def published(run: Run) -> set[str]:
    return {str(output.published) for output in run.outputs if output.published}


@pytest.mark.parametrize(
    ("block", "level", "written"),
    [
        (WGS, "s", ["5"]),
        (WGS_LANES, "g", ["6", "7"]),
    ],
)
async def test_run_wgs(
    shell: Shell, ended: Callable[[str], Any], block: str, level: str, written: list[str]
) -> None:
    done = await shell(block)
    assert (done.returncode, done.stderr) == (0, "")
    names = job_names(done.stdout)
    assert len(names) == len(written)
    for name, number in zip(names, written, strict=True):
        run = await ended(name)
        assert run.service_level.value == level
        assert published(run) >= {
            f"oss://{BUCKET}/vcf/MGISEQ_NA12878_hs37d5_{number}.vcf",
            f"oss://{BUCKET}/bam/MGISEQ_NA12878_hs37d5_{number}.bam",
        }


async def test_the_gvcf_step_of_joint_calling(shell: Shell, ended: Callable[[str], Any]) -> None:
    """A gVCF and no VCF; the read group comes in double quotes."""
    done = await shell(JOINT_CALLING)
    assert (done.returncode, done.stderr) == (0, "")
    names = job_names(done.stdout)
    for name, number, sample in zip(names, "56", ("12878_1", "12878"), strict=True):
        run = await ended(name)
        assert run.request.echo is not None
        sent = rf'"@RG\tID:TEST\tSM:{sample}\tPL:MGISEQ2000"'
        assert run.request.echo["wgs_reference_group"] == sent
        assert published(run) >= {
            f"oss://{BUCKET}/gvcf/MGISEQ_NA12878_hs37d5_{number}.gvcf",
            f"oss://{BUCKET}/bam/MGISEQ_NA12878_hs37d5_{number}.bam",
        }


async def test_every_service_level_of_the_usage_is_taken(
    shell: Shell, ended: Callable[[str], Any]
) -> None:
    """`[n:normal|s:silver|g:gold|p:platinum]`"""
    block = "\n".join(WGS.replace('"s"', level).replace("_5", f"_{level}") for level in "nsgp")
    done = await shell(block)
    assert (done.returncode, done.stderr) == (0, "")
    levels = [(await ended(name)).service_level.value for name in job_names(done.stdout)]
    assert levels == [*"nsgp"]


async def test_run_mapping(shell: Shell, ended: Callable[[str], Any]) -> None:
    """The page's comment ends the command, so all that follows it is at its default."""
    done = await shell(MAPPING)
    assert (done.returncode, "--service" in done.stderr) == (127, True)
    (name,) = job_names(done.stdout)
    run = await ended(name)
    assert published(run) >= {f"oss://{BUCKET}/bam/MGISEQ_NA12878_hs37d5.bam"}
    done = await shell(MAPPING.replace("# Output filename of BAM ", ""))
    assert (done.returncode, done.stderr) == (0, "")
    (name,) = job_names(done.stdout)
    assert (await ended(name)).service_level.value == "g"


async def test_run_mapping_as_a_step_of_a_local_workflow(shell: Shell) -> None:
    done = await shell(HYBRID)
    assert done.returncode == 0
    assert "COMPLETE" in done.stderr


async def test_list_get_cancel_and_remove(shell: Shell, ended: Callable[[str], Any]) -> None:
    (name,) = job_names((await shell(WGS)).stdout)
    await ended(name)
    listed = await shell("ags remote list")
    assert (listed.returncode, name in listed.stdout) == (0, True)
    plain = await shell(f"ags remote get {name}")
    more = await shell(f"ags remote get {name} --show")
    assert plain.returncode == more.returncode == 0
    for column in ("JOB NAME", "JOB NAMESPACE", "STATUS", "CREATE TIME", "DURATION", "FINISH TIME"):
        assert column in plain.stdout
    assert f"oss://{BUCKET}/vcf/MGISEQ_NA12878_hs37d5_5.vcf" in more.stdout
    for verb in ("cancel", "remove"):
        done = await shell(f"ags remote {verb}  {name}")
        assert (done.returncode, name in done.stdout + done.stderr) == (0, True)
    assert name not in (await shell("ags remote list")).stdout


PROGRAM = """
import os
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest

os.environ.setdefault("DEBUG", "sdk")
client = AcsClient(os.environ["accessKeyID"], os.environ["accessKeySecret"], "cn-beijing")
request = CommonRequest()
request.set_accept_format("json")
request.set_method("POST")
request.set_protocol_type("https")
request.set_domain("cs.cn-beijing.aliyuncs.com")
request.set_version("2015-12-15")
request.add_query_param("RegionId", "cn-shenzhen")
request.add_header("Content-Type", "application/json")
request.set_uri_pattern("/gs/workflow")
request.set_content(BODY.encode("utf-8"))
response = client.do_action_with_exception(request)
print(response.decode())
"""
BODY = {
    "cli_version": "v1.0.1-882299b",
    "wgs_bucket_name": BUCKET,
    "wgs_fastq_first_name": READS[0],
    "wgs_fastq_second_name": READS[1],
    "wgs_oss_region": "cn-shenzhen",
    "wgs_reference_file": "hs37d5",
    "wgs_service": "g",
    "wgs_vcf_File_name": "vcf/MGISEQ_NA12878_hs37d5_13.vcf",
    "workflow_type": "WGS",
}


async def test_the_sample_program_of_start_workflow(
    endpoint: str, ended: Callable[[str], Any]
) -> None:
    """With the two lines that docs/ags.md has changed: protocol and domain."""
    program = PROGRAM.replace('"https"', '"http"').replace("cs.cn-beijing.aliyuncs.com", endpoint)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", f"BODY = {json.dumps(BODY)!r}\n{program}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"accessKeyID": "any", "accessKeySecret": "any"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (name,) = job_names(done.stdout)
    run = await ended(name)
    assert name.startswith("wgs-gpu-")
    assert published(run) == {f"oss://{BUCKET}/vcf/MGISEQ_NA12878_hs37d5_13.vcf"}
