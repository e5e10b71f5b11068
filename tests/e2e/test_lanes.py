"""Lanes of several libraries and a folder of lanes, on a real server with real tools."""

import asyncio
from collections import Counter
from pathlib import Path

import pysam
import pytest
from support.sample_s import SAMPLE_S, called

from wesemu.client import AsyncClient
from wesemu.runs.model import JsonObject, RunState

PAIRS = SAMPLE_S.pairs[:600]


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """Three lanes with the same fragments, and a folder of two lanes with different ones."""
    folder = tmp_path / "data" / "buckets" / "genes"
    folder.mkdir(parents=True)
    SAMPLE_S.write_reference(folder / "ref.fa")
    for lane in "abc":
        SAMPLE_S.write_reads(
            folder, lane, PAIRS, rename=lambda _, name, lane=lane: f"{lane}{name}", quality="?"
        )
    half = len(SAMPLE_S.pairs) // 2
    SAMPLE_S.write_reads(folder / "s", "s_L001", SAMPLE_S.pairs[:half])
    SAMPLE_S.write_reads(folder / "s", "s_L002", SAMPLE_S.pairs[half:])
    SAMPLE_S.write_reads(folder / "s", "Undetermined_L001", PAIRS)
    (folder / "s" / "s_L001_I1_001.fq.gz").write_bytes(b"an index read")
    return folder


def lane(name: str, group: str) -> JsonObject:
    first, second = (f"oss://genes/{name}_{mate}.fq.gz" for mate in (1, 2))
    return {"first": first, "second": second, "read_group": group}


async def completed(client: AsyncClient, run_id: str) -> None:
    async for detail in client.wes.follow(run_id):
        if detail.state.ended:
            assert detail.state is RunState.COMPLETE, detail.raw


def duplicates(bam: Path) -> Counter[str]:
    with pysam.AlignmentFile(str(bam)) as records:
        return Counter(str(read.get_tag("RG")) for read in records if read.is_duplicate)


async def test_libraries_by_wes_and_a_folder_by_ags(serve, bucket: Path) -> None:
    server = await asyncio.to_thread(serve)
    reads = [
        lane("a", "@RG\tID:a\tSM:s\tLB:one"),
        lane("b", r"@RG\tID:b\tSM:s\tLB:one"),
        lane("c", r'"@RG\tID:c\tSM:s\tLB:two"'),
    ]
    params: JsonObject = {
        "reads": [*reads],
        "reference": "oss://genes/ref.fa",
        "bam": "oss://genes/out/libraries.bam",
        "quality_offset": 33,
    }
    async with asyncio.timeout(300), AsyncClient(server.url) as client:
        by_wes = await client.wes.submit("mapping", params)
        name = await client.ags.start(
            {
                "workflow_type": "wgs",
                "service": "normal",
                "wgs_bucket_name": "genes",
                "wgs_fastq_first_name": "s",
                "wgs_fastq_second_name": "s",
                "wgs_reference_file": "ref.fa",
                "wgs_reference_group": r'"@RG\tID:x\tSM:12878\tPL:MGISEQ2000"',
                "wgs_vcf_file_name": "out/a.vcf.gz",
                "wgs_bam_file_name": "out/a.bam",
            }
        )
        lines = await client.wes.runs(limit=2)
        (by_ags,) = [line.id for line in lines if name.endswith(line.handle)]
        await completed(client, by_wes)
        await completed(client, by_ags)
    found = duplicates(bucket / "out" / "libraries.bam")
    assert found["a"] + found["b"] == 2 * len(PAIRS)
    assert found.keys() <= {"a", "b"}
    assert duplicates(bucket / "out" / "a.bam") == {}
    with pysam.AlignmentFile(str(bucket / "out" / "a.bam")) as bam:
        groups = [(group["ID"], group["SM"]) for group in bam.header.to_dict()["RG"]]
        assert bam.count(until_eof=True) == 2 * len(SAMPLE_S.pairs)
    assert groups == [("x.L1", "12878"), ("x.L2", "12878")]
    assert called(bucket / "out" / "a.vcf.gz") == SAMPLE_S.sites
