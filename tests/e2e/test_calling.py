"""Ploidy, targets and gVCFs on a real server: by the command line, AGS and WES."""

import asyncio
import json
from pathlib import Path

import pysam
import pytest
from support.sample_s import SAMPLE_S, called

from wesemu.client import AsyncClient
from wesemu.runs.model import JsonObject, RunState

HOMOZYGOUS = {site for site, genotype in SAMPLE_S.sites.items() if genotype == "1/1"}


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "buckets" / "genes"
    SAMPLE_S.write_reads(folder)
    SAMPLE_S.write_reference(folder / "ref.fa")
    (folder / "kit.bed").write_text("track name=kit\r\nc2\t600\t4000\r\n")
    (folder / "other.bed").write_text("chr1\t1\t9\n")
    (folder / "ploidy.txt").write_text("c2 1 4000 M 1\nc2 1 4000 F 2\n")
    return folder


def test_a_gvcf_alone_by_the_command_line(serve, wesemu, bucket: Path) -> None:
    """As the joint calling page of AGS asks for it, of a haploid sample."""
    server = serve()
    done = wesemu(
        *("run", "wgs", "--server", server.url, "--bucket", "genes", "--watch"),
        *("--fastq1", "reads_1.fq.gz", "--fastq2", "reads_2.fq.gz", "--reference", "ref.fa"),
        *("--output-gvcf", "gvcf/a.gvcf", "--output-bam", "bam/a.bam", "--ploidy", "1"),
    )
    assert done.returncode == 0, done.stderr
    gvcf = bucket / "gvcf" / "a.gvcf"
    assert "##wesemu_ploidy=1" in gvcf.read_text()
    assert set(called(gvcf)) >= HOMOZYGOUS
    assert sorted(path.name for path in gvcf.parent.iterdir() if path.suffix != ".json") == [
        "a.gvcf"
    ]
    assert (bucket / "bam" / "a.bam.bai").exists()
    shown = wesemu(
        "get", json.loads(done.stdout.splitlines()[0])["JobName"], "--server", server.url
    )
    assert shown.returncode == 0
    refused = wesemu(
        *("run", "wgs", "--server", server.url, "--bucket", "genes"),
        *("--fastq1", "reads_1.fq.gz", "--fastq2", "reads_2.fq.gz"),
    )
    assert refused.returncode == 2
    assert "--output-gvcf" in refused.stderr


async def test_targets_and_a_ploidy_file_by_both_apis(serve, bucket: Path) -> None:
    server = await asyncio.to_thread(serve)
    ours = {"wesemu_targets": "kit.bed", "wesemu_ploidy": "ploidy.txt", "wesemu_sex": "M"}
    params: JsonObject = {
        "reads": [{"first": "oss://genes/reads_1.fq.gz", "second": "oss://genes/reads_2.fq.gz"}],
        "reference": "oss://genes/ref.fa",
    }
    calling: JsonObject = {
        "vcf": "oss://genes/wes.vcf.gz",
        "gvcf": "oss://genes/wes.g.vcf.gz",
        "targets": "oss://genes/kit.bed",
        "ploidy": "oss://genes/ploidy.txt",
        "sex": "M",
    }
    async with asyncio.timeout(300), AsyncClient(server.url) as client:
        name = await client.ags.start(
            {
                "workflow_type": "wgs",
                "wgs_bucket_name": "genes",
                "wgs_fastq_first_name": "reads_1.fq.gz",
                "wgs_fastq_second_name": "reads_2.fq.gz",
                "wgs_reference_file": "ref.fa",
                "wgs_vcf_file_name": "ags.vcf.gz",
                **ours,
            }
        )
        assert ours.items() <= (await client.ags.job(name)).request.items()
        by_ags = next(line.id for line in await client.wes.runs() if name.endswith(line.handle))
        by_wes = await client.wes.submit("wgs", params | calling)
        wrong = await client.wes.submit("wgs", params | {"targets": "oss://genes/other.bed"})
        ends = {}
        for run_id in (by_ags, by_wes, wrong):
            async for detail in client.wes.follow(run_id):
                ends[run_id] = detail
    assert ends[by_ags].state is RunState.COMPLETE, ends[by_ags].raw
    assert ends[by_wes].state is RunState.COMPLETE, ends[by_wes].raw
    await asyncio.to_thread(check_results, bucket)
    assert ends[wrong].state is RunState.EXECUTOR_ERROR
    assert "oss://genes/other.bed, line 1: the reference has no contig 'chr1'" in str(
        ends[wrong].raw
    )


def check_results(bucket: Path) -> None:
    assert called(bucket / "wes.vcf.gz") == {("c2", 1900): "1"}
    assert (bucket / "ags.vcf.gz").read_bytes() == (bucket / "wes.vcf.gz").read_bytes()
    assert (bucket / "wes.g.vcf.gz.tbi").exists()
    with pysam.VariantFile(str(bucket / "wes.g.vcf.gz")) as gvcf:
        assert {record.contig for record in gvcf} == {"c2"}
