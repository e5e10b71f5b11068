"""Runs whose reads are URLs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from api.inputs.conftest import Serve, ended, mapping
from support.waiting import eventually, soon
from unit.storage.origin import CONTENT, Origin, says, sha256

from wesemu.errors import InvalidRequest, ObjectNotFound
from wesemu.runs.model import LOCAL_OWNER, RunState
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

HERE = "oss://genes/fastq/a_2.fq.gz"


async def test_reads_are_fetched_before_the_tasks_begin_and_the_run_tells_it(
    serve: Serve, origin: Origin, engine: ScriptedEngine, settings: Settings
) -> None:
    runs = await serve()
    request = mapping(f"{origin.url}/s_1.fq", f"{origin.url}/s_2.fq", sample="wait-1")
    run = await runs.submit(LOCAL_OWNER, request)
    assert run.input_bytes is None
    await eventually(lambda: bool(engine._launched))
    found = (settings.data / "runs" / run.id / "inputs").rglob("s_?.fq")
    staged = sorted(found, key=lambda path: path.name)
    assert [path.name for path in staged] == ["s_1.fq", "s_2.fq"]
    assert [await asyncio.to_thread(path.read_bytes) for path in staged] == [CONTENT, CONTENT]
    engine.release("wait-1")
    run = await ended(runs, run)
    assert run.state is RunState.COMPLETE
    assert run.input_bytes == 2 * len(CONTENT)
    assert run.tags["wesemu.staging.bytes"] == str(2 * len(CONTENT))
    assert run.tags["wesemu.staging.total"] == str(2 * len(CONTENT))
    assert run.tags["wesemu.staging.cached"] == "0"
    inputs = settings.data / "runs" / run.id / "inputs"
    await eventually(lambda: not inputs.exists())


async def test_a_second_run_takes_them_from_the_cache(serve: Serve, origin: Origin) -> None:
    runs = await serve()
    request = mapping(f"{origin.url}/s_1.fq", HERE)
    await ended(runs, await runs.submit(LOCAL_OWNER, request))
    run = await ended(runs, await runs.submit(LOCAL_OWNER, request))
    assert run.tags["wesemu.staging.cached"] == str(len(CONTENT))
    assert [each.headers.get("If-None-Match") for each in origin.requests] == [None, '"v1"']


async def test_progress_is_reported_while_it_is_fetched_and_a_cancel_ends_it_at_once(
    serve: Serve, origin: Origin
) -> None:
    go_on = asyncio.Event()
    origin.script = [origin.stalls_after(2_500_000, go_on)]
    runs = await serve()
    run = await runs.submit(LOCAL_OWNER, mapping(f"{origin.url}/s_1.fq", HERE))

    async def some_has_come() -> bool:
        now = await runs.get(LOCAL_OWNER, run.id)
        assert now.state in (RunState.QUEUED, RunState.INITIALIZING)
        done = int(now.tags.get("wesemu.staging.bytes", "0"))
        return 0 < done < int(now.tags.get("wesemu.staging.total", "0"))

    await eventually(some_has_come)
    await runs.cancel(LOCAL_OWNER, run.id)
    async with soon():
        async for now in runs.follow(LOCAL_OWNER, run.id):
            run = now
    assert run.state is RunState.CANCELED
    go_on.set()


async def test_a_stopped_server_leaves_the_rest_to_the_next_one(
    serve: Serve, origin: Origin
) -> None:
    go_on = asyncio.Event()
    origin.script = [origin.stalls_after(2_500_000, go_on)]
    runs = await serve()
    run = await runs.submit(LOCAL_OWNER, mapping(f"{origin.url}/s_1.fq", HERE))

    async def some_has_come() -> bool:
        return "wesemu.staging.bytes" in (await runs.get(LOCAL_OWNER, run.id)).tags

    await eventually(some_has_come)
    runs = await serve()
    run = await ended(runs, run)
    assert run.state is RunState.COMPLETE
    assert "Range" in origin.requests[-1].headers
    go_on.set()


async def test_a_reference_may_be_a_url(serve: Serve, origin: Origin) -> None:
    origin.content = b">chr1\nACGTACGTACGTACGTACGTACGT\n"
    runs = await serve()
    here = "oss://genes/fastq/a_"
    request = mapping(f"{here}1.fq.gz", f"{here}2.fq.gz", reference=f"{origin.url}/genome.fa")
    run = await ended(runs, await runs.submit(LOCAL_OWNER, request))
    assert run.state is RunState.COMPLETE
    assert run.input_bytes == 6


async def test_what_is_not_there_fails_with_parameter_and_address(
    serve: Serve, origin: Origin
) -> None:
    origin.script = [says(404)]
    runs = await serve()
    request = mapping(HERE, f"{origin.url}/s_2.fq?Signature=tellnobody")
    run = await ended(runs, await runs.submit(LOCAL_OWNER, request))
    assert run.state is RunState.EXECUTOR_ERROR
    assert run.failure is not None
    assert run.failure.message == (
        f"reads.0.second: {origin.url}/s_2.fq?… answered 404 Not Found; check the address"
    )
    assert run.failure.file == f"{origin.url}/s_2.fq?…"


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://10.0.0.1/a.fq", "10.0.0.1, which is not a public address.*inputs.networks"),
        ("http://169.254.169.254/latest", "not a public address"),
        ("http://u:tellnobody@example.org/a.fq", "credentials"),
        ("http://example.org/a.fq#md5=1", "only sha256="),
        ("ftp://example.org/a.fq", "not in a bucket"),
        ("s3://lab/a.fq", r"no remote bucket 'lab' is configured \(there are: none\)"),
        ("file:///etc/passwd", "inputs.file_roots"),
        ("file://[x/y.fq", "cannot be understood"),
        ("/etc/passwd", "not in a bucket"),
    ],
)
async def test_a_bad_location_is_refused_at_once(serve: Serve, location: str, told: str) -> None:
    runs = await serve()
    with pytest.raises(InvalidRequest, match=told) as caught:
        await runs.submit(LOCAL_OWNER, mapping(location, HERE))
    assert caught.value.field == "reads.0.first"
    assert "tellnobody" not in caught.value.message


async def test_http_can_be_shut(serve: Serve, origin: Origin) -> None:
    runs = await serve(inputs={"http": False})
    with pytest.raises(InvalidRequest, match="fetches no inputs by HTTP"):
        await runs.submit(LOCAL_OWNER, mapping(f"{origin.url}/s_1.fq", HERE))


async def test_one_url_for_both_mates_is_refused(serve: Serve, origin: Origin) -> None:
    runs = await serve()
    with pytest.raises(InvalidRequest, match="named for both mates") as caught:
        await runs.submit(LOCAL_OWNER, mapping(origin.url, origin.url))
    assert caught.value.field == "reads.0.second"


async def test_the_mate_that_lies_here_is_looked_for_at_once(serve: Serve, origin: Origin) -> None:
    runs = await serve()
    with pytest.raises(ObjectNotFound):
        await runs.submit(LOCAL_OWNER, mapping(origin.url, "oss://genes/fastq/no.fq.gz"))


async def test_a_pin_that_does_not_hold_fails_the_run(serve: Serve, origin: Origin) -> None:
    runs = await serve()
    request = mapping(f"{origin.url}/s_1.fq#sha256={sha256(b'other')}", HERE)
    run = await ended(runs, await runs.submit(LOCAL_OWNER, request))
    assert run.failure is not None
    assert "as the request says; correct the checksum" in run.failure.message


class TestFiles:
    """`file://` below folders that the settings open."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "open folder"
        root.mkdir()
        for mate in (1, 2):
            (root / f"s_{mate}.fq").write_bytes(b"reads")
        (tmp_path / "secret.fq").write_bytes(b"secret")
        (root / "link.fq").symlink_to(tmp_path / "secret.fq")
        return root

    async def test_they_are_used_where_they_lie(self, serve: Serve, root: Path) -> None:
        runs = await serve(inputs={"file_roots": [str(root)]})
        names = [f"{root.as_uri()}/s_{mate}.fq" for mate in (1, 2)]
        run = await ended(runs, await runs.submit(LOCAL_OWNER, mapping(*names)))
        assert run.state is RunState.COMPLETE
        assert run.input_bytes == 10
        folder = mapping(root.as_uri(), root.as_uri())
        (root / "link.fq").unlink()
        assert (await runs.submit(LOCAL_OWNER, folder)).input_bytes == 10

    @pytest.mark.parametrize("path", ["../secret.fq", "link.fq", "%2e%2e/secret.fq"])
    async def test_none_leads_out(self, serve: Serve, root: Path, path: str) -> None:
        runs = await serve(inputs={"file_roots": [str(root)]})
        with pytest.raises(InvalidRequest, match=r"inputs\.file_roots"):
            await runs.submit(LOCAL_OWNER, mapping(f"{root.as_uri()}/{path}", HERE))

    async def test_a_missing_one_is_reported(self, serve: Serve, root: Path) -> None:
        runs = await serve(inputs={"file_roots": [str(root)]})
        with pytest.raises(ObjectNotFound, match="is not there"):
            await runs.submit(LOCAL_OWNER, mapping(f"{root.as_uri()}/no.fq", HERE))


async def test_service_info_names_the_schemes(serve: Any, tmp_path: Path) -> None:
    await serve(inputs={"file_roots": [str(tmp_path)]}, remote_buckets={"lab": {"type": "s3"}})
    async with ClientSession() as session:
        answer = await session.get(serve.server.make_url("/ga4gh/wes/v1/service-info"))
        info = await answer.json()
    assert info["supported_filesystem_protocols"] == ["oss", "s3", "http", "https", "file"]


@pytest.mark.parametrize(
    ("again", "mate"),
    [
        ("s_1.fq", "first"),
        ("./s_1.fq", "first"),
        ("s_1.fq?X-Amz-Signature=2", "second"),
        (f"copy.fq#sha256={'a' * 64}", "second"),
    ],
)
async def test_a_url_in_two_lanes_is_refused_with_both_entries(
    serve: Serve, origin: Origin, again: str, mate: str
) -> None:
    runs = await serve()
    other = {"first": f"{origin.url}/x.fq", "second": f"{origin.url}/y.fq"}
    other[mate] = f"{origin.url}/{again}"
    pin = f"#sha256={'A' * 64}"
    request = mapping(f"{origin.url}/s_1.fq?X-Amz-Signature=1{pin}", HERE)
    reads = request.params["reads"]
    assert isinstance(reads, list)
    reads.append(dict(other))
    with pytest.raises(InvalidRequest, match=rf"reads.0.first and reads.1.{mate} are the same"):
        await runs.submit(LOCAL_OWNER, request)
    assert origin.requests == []
