"""Bad input on a running server with real tools: a clear message, nothing published."""

import asyncio
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from wesemu.client import AsyncClient, ClientError
from wesemu.runs.model import RunState

TESTDATA = Path(__file__).resolve().parents[2] / "testdata" / "diploid"
GOOD = {
    "workflow_type": "mapping",
    "mapping_bucket_name": "genes",
    "mapping_fastq_path": "fastq",
    "mapping_fastq_first_filename": "reads_1.fq.gz",
    "mapping_fastq_second_filename": "reads_2.fq.gz",
    "mapping_reference_path": "reference/genome.fa",
    "mapping_bam_out_path": "out",
    "mapping_bam_out_filename": "a.bam",
}


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "buckets" / "genes"
    (folder / "fastq").mkdir(parents=True)
    (folder / "reference").mkdir()
    for mate in ("reads_1.fq.gz", "reads_2.fq.gz"):
        shutil.copy(TESTDATA / mate, folder / "fastq" / mate)
    shutil.copy(TESTDATA / "reference.fa", folder / "reference" / "genome.fa")
    return folder


REFUSED = {
    "unknown workflow type": ({"workflow_type": "rnaseq"}, "rnaseq"),
    "missing bucket": ({"mapping_bucket_name": "nowhere"}, "there is no bucket 'nowhere'"),
    "missing FASTQ": ({"mapping_fastq_first_filename": "reads_9.fq.gz"}, "reads_9.fq.gz"),
    "same file twice": ({"mapping_fastq_second_filename": "reads_1.fq.gz"}, "both mates"),
    "unknown reference": ({"mapping_reference_path": "reference/hg99"}, "hg99"),
    "reads above the bucket": ({"mapping_fastq_path": "../genes/fastq"}, "'..'"),
    "output above the bucket": ({"mapping_bam_out_path": "../../x"}, "'..'"),
}


async def test_requests_that_cannot_be_carried_out_are_refused(serve, bucket: Path) -> None:
    server = await asyncio.to_thread(serve)
    async with AsyncClient(server.url) as client:
        for name, (change, told) in REFUSED.items():
            with pytest.raises(ClientError) as caught:
                await client.ags.start(GOOD | change)
            assert told in caught.value.message, name
            assert caught.value.status in (400, 404), name
        await check_malformed(server.url)
        assert await client.wes.runs() == []
    assert not (bucket / "out").exists()
    assert await asyncio.to_thread(lambda: list((bucket.parents[1] / "runs").iterdir())) == []


async def check_malformed(url: str) -> None:
    async with aiohttp.ClientSession(url) as session:
        async with session.post("/gs/workflow", data=b'{"workflow_type": ') as answer:
            body = await answer.json()
            assert (answer.status, body["Code"]) == (400, "InvalidParameter")
            assert body["message"] == body["Message"]
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("workflow_type", "SMK")
        form.add_field("workflow_type_version", "9")
        form.add_field("workflow_url", "Snakefile")
        form.add_field("workflow_params", "{not json")
        async with session.post("/ga4gh/wes/v1/runs", data=form) as answer:
            assert answer.status == 400
            assert "workflow_params" in (await answer.json())["msg"]
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("workflow_url", "x")
        form.add_field("workflow_attachment", b"rule all:", filename="../../x")
        async with session.post("/ga4gh/wes/v1/runs", data=form) as answer:
            assert answer.status == 400
            assert "'..'" in (await answer.json())["msg"]


def truncate(first: Path, second: Path) -> None:
    second.write_bytes(second.read_bytes()[:20_000])


def drop_a_mate(first: Path, second: Path) -> None:
    lines = gzip.decompress(second.read_bytes()).splitlines(keepends=True)
    second.write_bytes(gzip.compress(b"".join(lines[: 4 * 99] + lines[4 * 100 :])))


def write_a_page(first: Path, second: Path) -> None:
    first.write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n")


def write_equal_names(first: Path, second: Path) -> None:
    """The names differ only after a blank."""
    for path in (first, second):
        lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
        lines[::4] = [b"@M00123 run=12 read=%d\n" % n for n in range(len(lines) // 4)]
        path.write_bytes(gzip.compress(b"".join(lines)))


SPOILED: list[tuple[Callable[[Path, Path], None], str, str]] = [
    (truncate, "reads_2.fq.gz", "truncated|cut|end"),
    (drop_a_mate, "reads_", "100"),
    (write_a_page, "reads_1.fq.gz", "HTML"),
    (write_equal_names, "reads_1.fq.gz", "record 2 ('M00123 run=12 read=1')"),
]


@pytest.mark.parametrize(("spoil", "file", "told"), SPOILED, ids=[s[0].__name__ for s in SPOILED])
async def test_spoiled_reads_end_the_run_with_file_and_reason(
    serve, bucket: Path, spoil: Callable[[Path, Path], None], file: str, told: str
) -> None:
    spoil(bucket / "fastq/reads_1.fq.gz", bucket / "fastq/reads_2.fq.gz")
    server = await asyncio.to_thread(serve)
    async with asyncio.timeout(180), AsyncClient(server.url) as client:
        name = await client.ags.start(GOOD)
        failure = await failure_of(client, name)
        assert (await client.ags.job(name)).status == "Failed"
    path = next((bucket.parents[1] / "runs").glob("*/error.json"))
    written = json.loads(path.read_text())
    assert f"oss://genes/fastq/{file}" in written["file"]
    assert any(word in written["message"] for word in told.split("|")), written
    assert written["message"] in failure
    assert not (bucket / "out").exists()


async def failure_of(client: AsyncClient, name: str) -> str:
    (line,) = await client.wes.runs()
    assert name.endswith(line.handle)
    async for detail in client.wes.follow(line.id):
        if detail.state.ended:
            assert detail.state is RunState.EXECUTOR_ERROR
            assert detail.error is not None
            return detail.error
    raise AssertionError("the run was not followed to its end")
