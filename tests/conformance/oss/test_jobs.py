"""Jobs that map reads uploaded by the real clients; these download the results."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from conformance.oss.conftest import collect
from pytest_aiohttp import AiohttpServer

from wesemu.runs.model import LOCAL_OWNER, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

READS = {"new/s_1.fq": b"@r\nACGT\n+\nIIII\n", "new/s_2.fq": b"@r\nACGT\n+\nIIII\n"}


def by_oss2(endpoint: str, files: dict[str, bytes], wanted: str) -> bytes:
    import oss2

    session = oss2.Session()
    client = oss2.Bucket(oss2.Auth("any", "key"), endpoint, "genes", session=session)
    for key, data in files.items():
        client.put_object(key, data)
    found = client.get_object(wanted).read() if wanted else b""
    session.session.close()
    return bytes(found)


def by_v2(endpoint: str, files: dict[str, bytes], wanted: str) -> bytes:
    import alibabacloud_oss_v2 as oss

    config = oss.config.load_default()
    config.credentials_provider = oss.credentials.StaticCredentialsProvider("any", "key")
    config.region, config.endpoint = "cn-shenzhen", endpoint
    client = oss.Client(config)
    for key, data in files.items():
        client.put_object(oss.PutObjectRequest(bucket="genes", key=key, body=data))
    if not wanted:
        return b""
    with client.get_object(oss.GetObjectRequest(bucket="genes", key=wanted)).body as body:
        return bytes(body.content)


@pytest.mark.parametrize("transfer", [by_oss2, by_v2])
async def test_uploaded_reads_are_mapped_and_the_result_is_fetched(
    aiohttp_server: AiohttpServer,
    app: web.Application,
    runs: RunService,
    settings: Settings,
    transfer: Callable[[str, dict[str, bytes], str], bytes],
) -> None:
    server = await aiohttp_server(app, host="127.0.0.1")
    endpoint = f"http://127.0.0.1:{server.port}"
    await asyncio.to_thread(transfer, endpoint, READS, "")
    order = {
        "workflow_type": "mapping",
        "mapping_bucket_name": "genes",
        "mapping_fastq_path": "new",
        "mapping_fastq_first_filename": "s_1.fq",
        "mapping_fastq_second_filename": "s_2.fq",
        "mapping_reference_path": "reference/tiny",
        "mapping_bam_out_path": "out",
        "mapping_bam_out_filename": "s.bam",
    }
    async with ClientSession() as session:
        answer = await session.post(f"{endpoint}/gs/workflow", json=order)
        name = (await answer.json())["JobName"]
    run = await runs.by_handle(LOCAL_OWNER, name.rpartition("-")[2])
    async for changed in runs.follow(LOCAL_OWNER, run.id):
        run = changed
    assert run.state is RunState.COMPLETE
    result = await asyncio.to_thread(transfer, endpoint, {}, "out/s.bam")
    bam: Path = settings.data / "buckets" / "genes" / "out" / "s.bam"
    assert result == await asyncio.to_thread(bam.read_bytes)
    collect()
