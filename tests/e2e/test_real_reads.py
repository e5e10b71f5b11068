"""Real human reads with a real truth set, on a real server, by both APIs."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pysam
import pytest

from wesemu.client import AsyncClient
from wesemu.client.wes import RunDetail
from wesemu.genomics.compare import compare
from wesemu.runs.model import JsonObject, RunState

ROOT = Path(__file__).resolve().parents[2]
READS, MAPPED, DUPLICATES = 21_014, 20_937, 160


@pytest.fixture
def case(shared_data: Path) -> Path:
    return shared_data / "hg002_chr20_10mb"


@pytest.fixture
def bucket(tmp_path: Path, case: Path) -> Path:
    folder = tmp_path / "data" / "buckets" / "giab"
    (folder / "fastq").mkdir(parents=True)
    for name in ("reads_1.fq.gz", "reads_2.fq.gz"):
        shutil.copy(case / name, folder / "fastq" / name)
    (folder / "reference" / "chr20").mkdir(parents=True)
    shutil.copy(case / "reference.fa", folder / "reference" / "chr20" / "reference.fa")
    return folder


async def submit_by_ags(client: AsyncClient, kind: str, **outputs: str) -> str:
    """Dialect 1, the parameter table. Returns the WES id of the same run."""
    name = await client.ags.start(
        {
            "workflow_type": kind,
            "service": "s",
            f"{kind}_bucket_name": "giab",
            f"{kind}_fastq_path": "fastq",
            f"{kind}_fastq_first_filename": "reads_1.fq.gz",
            f"{kind}_fastq_second_filename": "reads_2.fq.gz",
            f"{kind}_reference_path": "reference/chr20",
            **outputs,
        }
    )
    lines = await client.wes.runs(limit=10)
    (run_id,) = [line.id for line in lines if name.endswith(line.handle)]
    return run_id


async def submit_by_wes(client: AsyncClient, kind: str, **outputs: str) -> str:
    reads = "oss://giab/fastq/reads_"
    params: JsonObject = {
        "reads": [{"first": f"{reads}1.fq.gz", "second": f"{reads}2.fq.gz"}],
        "reference": "oss://giab/reference/chr20",
        **outputs,
    }
    return await client.wes.submit(kind, params)


async def completed(client: AsyncClient, run_id: str) -> RunDetail:
    async for detail in client.wes.follow(run_id):
        if detail.state.ended:
            assert detail.state is RunState.COMPLETE, detail.raw
            assert detail.tags["wesemu.total_reads"] == str(READS)
            return detail
    raise AssertionError("the run was not followed to its end")


def check_alignment(bam: Path) -> None:
    with pysam.AlignmentFile(str(bam)) as records:
        primary = [r for r in records if not (r.is_secondary or r.is_supplementary)]
    mapped = sum(not record.is_unmapped for record in primary)
    duplicates = sum(record.is_duplicate for record in primary)
    assert (len(primary), mapped) == (READS, MAPPED)
    assert abs(duplicates - DUPLICATES) <= 10


async def test_both_apis_give_the_known_alignment_and_variants(serve, bucket: Path, case: Path):
    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(300), AsyncClient(server.url) as client:
        runs = [
            await submit_by_ags(
                client,
                "mapping",
                mapping_bam_out_path="ags",
                mapping_bam_out_filename="mapped.bam",
            ),
            await submit_by_ags(
                client, "wgs", wgs_vcf_out_path="ags", wgs_vcf_out_filename="called.vcf.gz"
            ),
            await submit_by_wes(client, "mapping", bam="oss://giab/wes/mapped.bam"),
            await submit_by_wes(client, "wgs", vcf="oss://giab/wes/called.vcf.gz"),
        ]
        for run_id in runs:
            await completed(client, run_id)

    await asyncio.to_thread(check_results, bucket, case)


def check_results(bucket: Path, case: Path) -> None:
    check_alignment(bucket / "ags/mapped.bam")
    scored = compare(
        case / "truth.vcf.gz",
        bucket / "ags/called.vcf.gz",
        case / "reference.fa",
        bed=case / "truth.bed",
        min_quality=20,
    )
    assert scored.all.f1 >= 0.98
    for name in ("mapped.bam", "mapped.bam.bai", "called.vcf.gz", "called.vcf.gz.tbi"):
        assert (bucket / "ags" / name).read_bytes() == (bucket / "wes" / name).read_bytes()
    by_hand = plain_snakemake(bucket)
    assert by_hand.read_bytes() == (bucket / "wes/called.vcf.gz").read_bytes()


def plain_snakemake(bucket: Path) -> Path:
    """The VCF that `snakemake` alone makes of the same reads, without the server."""
    folder = bucket.parents[2] / "by hand"
    folder.mkdir()
    config = {
        "reads": [
            {
                "first": str(bucket / "fastq/reads_1.fq.gz"),
                "second": str(bucket / "fastq/reads_2.fq.gz"),
            }
        ],
        "reference": str(bucket / "reference/chr20/reference.fa"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all"),
            *("--snakefile", ROOT / "pipelines/wgs/workflow/Snakefile"),
            *("--directory", folder, "--configfile", folder / "config.json"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "results/calls.vcf.gz"
