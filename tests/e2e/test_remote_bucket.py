"""Reads in S3 (moto) with real tools: downloaded, mapped, the BAM uploaded."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pysam
import pytest
from e2e.conftest import Server
from support.remote_buckets import SECRET, S3Side, settings_of

from wesemu.client import AsyncClient
from wesemu.client.wes import RunDetail
from wesemu.storage.remote import RemoteStore

SAMPLE = Path(__file__).resolve().parents[2] / "testdata" / "diploid"
READS = 8_334
DUPLICATES = 834

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def side(s3_service: tuple[str, RemoteStore]) -> S3Side:
    side = S3Side(s3_service[0], "sequencing", s3_service[1])
    for name in ("reads_1.fq.gz", "reads_2.fq.gz", "reference.fa"):
        side.put(f"lab7/fixture/{name}", (SAMPLE / name).read_bytes())
    return side


async def mapped(url: str) -> RunDetail:
    async with asyncio.timeout(180), AsyncClient(url) as client:
        reads = "s3://lab/fixture/reads_"
        run_id = await client.wes.submit(
            "mapping",
            {
                "reads": [{"first": f"{reads}1.fq.gz", "second": f"{reads}2.fq.gz"}],
                "reference": "s3://lab/fixture/reference.fa",
                "bam": "s3://lab/out/sample.bam",
            },
        )
        async for detail in client.wes.follow(run_id):
            if detail.state.ended:
                return detail
    raise AssertionError("the run was not followed to its end")


async def test_reads_in_s3_are_mapped_and_the_bam_goes_there(
    serve: Callable[..., Server],
    side: S3Side,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remote = {"lab": settings_of(side, prefix="lab7")}
    monkeypatch.setenv("WESEMU_REMOTE_BUCKETS", json.dumps(remote))
    server = await asyncio.to_thread(serve)
    detail = await mapped(server.url)
    assert detail.state.value == "COMPLETE", detail.raw
    assert detail.tags["wesemu.total_reads"] == str(READS)
    bam = tmp_path / "back.bam"
    await asyncio.to_thread(lambda: bam.write_bytes(side.get("lab7/out/sample.bam")))
    bai = await asyncio.to_thread(side.get, "lab7/out/sample.bam.bai")
    (tmp_path / "back.bam.bai").write_bytes(bai)
    with pysam.AlignmentFile(str(bam)) as records:
        assert sum(record.is_duplicate for record in records.fetch(until_eof=True)) == DUPLICATES
        assert sum(each.mapped for each in records.get_index_statistics()) >= READS
    assert SECRET not in server.stderr
    said = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert [path for path in said if SECRET.encode() in path.read_bytes()] == []
