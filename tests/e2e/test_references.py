"""FASTA files in a bucket, on a real server: right results, or a reason without paths."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.sample_s import SAMPLE_S, called, fasta

from wesemu.client import AsyncClient
from wesemu.runs.model import RunState


def index(path: Path) -> None:
    for words in (["samtools", "faidx"], ["bwa", "index"]):
        command = [sys.executable, "-P", "-m", "wesemu.genomics.wheel_tools", *words, str(path)]
        subprocess.run(command, check=True, capture_output=True)


def fill(bucket: Path) -> None:
    SAMPLE_S.write_reads(bucket)
    stale = SAMPLE_S.write_reference(bucket / "stale.fa", width=60, alternate=True)
    index(stale)
    SAMPLE_S.write_reference(stale, width=70, alternate=True)
    os.utime(stale, (1_577_836_800, 1_577_836_800))
    gapped = SAMPLE_S.contigs["c1"][:99] + "-" + SAMPLE_S.contigs["c1"][100:]
    (bucket / "gapped.fa").write_text(fasta({"c1": gapped}))
    (bucket / "foreign.fa").write_text(fasta(SAMPLE_S.contigs))
    (bucket / "foreign.fa.alt").write_text("chr1_alt\t0\tchr1\n")


async def run(client: AsyncClient, reference: str, name: str) -> Any:
    params = {
        "reads": [{"first": "oss://genes/reads_1.fq.gz", "second": "oss://genes/reads_2.fq.gz"}],
        "reference": f"oss://genes/{reference}",
        "vcf": f"oss://genes/{name}.vcf.gz",
    }
    run_id = await client.wes.submit("wgs", params)
    async for detail in client.wes.follow(run_id):
        if detail.state.ended:
            return detail
    raise AssertionError("the run was not followed to its end")


async def test_references_in_a_bucket(serve, tmp_path: Path) -> None:
    bucket = tmp_path / "data" / "buckets" / "genes"
    bucket.mkdir(parents=True)
    fill(bucket)
    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(240), AsyncClient(server.url) as client:
        right, gapped, foreign = await asyncio.gather(
            run(client, "stale.fa", "right"),
            run(client, "gapped.fa", "gapped"),
            run(client, "foreign.fa", "foreign"),
        )
    assert right.state is RunState.COMPLETE, right.error
    assert called(bucket / "right.vcf.gz") == SAMPLE_S.sites
    for detail, told in (
        (gapped, "oss://genes/gapped.fa: the sequence 'c1' (number 1) has '-' at position 100"),
        (foreign, "foreign.fa.alt lists ALT contigs, and none of them is in oss://genes/foreign"),
    ):
        assert detail.state is RunState.EXECUTOR_ERROR
        assert told in detail.error
        assert str(tmp_path) not in detail.error
    assert not (bucket / "gapped.vcf.gz").exists()
