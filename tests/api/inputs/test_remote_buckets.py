"""Jobs with a remote bucket: S3 (moto) and OSS (wesemu's own API)."""

import asyncio
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from api.inputs.conftest import Serve, ended, mapping
from pydantic import ValidationError
from support.remote_buckets import KEY_ID, SECRET, Side
from support.scripted import REFERENCE
from support.waiting import TIMEOUT_SECONDS

from wesemu.errors import InvalidRequest, PermanentError, TransientError
from wesemu.runs.model import LOCAL_OWNER, Run, RunRequest, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::SyntaxWarning", "ignore::ResourceWarning"
)

ORDER = {
    "workflow_type": "mapping",
    "mapping_bucket_name": "lab",
    "mapping_fastq_path": "new",
    "mapping_fastq_first_filename": "s_1.fq",
    "mapping_fastq_second_filename": "s_2.fq",
    "mapping_reference_path": "reference/tiny",
    "mapping_bam_out_path": "out",
    "mapping_bam_out_filename": "s.bam",
}
READS = {"p/new/s_1.fq": b"one", "p/new/s_2.fq": b"second"}
GENOME = {"p/reference/tiny/genome.fa": REFERENCE.encode()}


def fill(side: Side, objects: Mapping[str, bytes]) -> None:
    for key, content in objects.items():
        side.put(key, content)


async def start_job(serve: Any, **changes: str) -> str:
    async with ClientSession() as session:
        answer = await session.post(
            serve.server.make_url("/gs/workflow"), json={**ORDER, **changes}
        )
        told = await answer.json()
        assert answer.status == 200, told
        return str(told["JobName"])


async def job_ended(runs: RunService, name: str) -> Run:
    return await ended(runs, await runs.by_handle(LOCAL_OWNER, name.rpartition("-")[2]))


async def describe(serve: Any, name: str) -> dict[str, str]:
    async with ClientSession() as session:
        answer = await session.get(serve.server.make_url(f"/gs/workflow/{name}"))
        return dict(await answer.json())


async def test_a_job_s_reads_come_from_there_and_its_results_go_there(
    serve: Serve, side: Side, remote: Mapping[str, Any], settings: Settings
) -> None:
    await asyncio.to_thread(fill, side, READS | GENOME)
    runs = await serve(remote_buckets=remote)
    name = await start_job(serve)
    run = await job_ended(runs, name)
    assert run.failure is None
    told = await describe(serve, name)
    assert told["status"] == "Succeeded"
    assert told["input_data_size"] == str(len(b"one") + len(b"second"))
    assert int(told["output_data_size"]) == len("BAM") + len("BAI")
    there = await asyncio.to_thread(side.keys)
    assert set(there) - READS.keys() - GENOME.keys() == {"p/out/s.bam", "p/out/s.bam.bai"}
    assert await asyncio.to_thread(side.get, "p/out/s.bam") == b"BAM"
    assert {each.published for each in run.outputs} >= {"oss://lab/out/s.bam"}
    assert run.tags["wesemu.delivery.bytes"] == run.tags["wesemu.delivery.total"] == "6"
    assert not (settings.data / "buckets" / "lab").exists()


async def test_a_folder_of_lanes_is_fetched_whole(
    serve: Serve, side: Side, remote: Mapping[str, Any], engine: ScriptedEngine
) -> None:
    lanes = {
        f"p/S1/L{lane}/x_{mate}.fq.gz": f"{lane}{mate}".encode()
        for lane in (1, 2)
        for mate in (1, 2)
    }
    await asyncio.to_thread(fill, side, lanes | GENOME | {"p/S1/notes.txt": b"not reads"})
    runs = await serve(remote_buckets=remote)
    name = await start_job(
        serve,
        mapping_fastq_path="",
        mapping_fastq_first_filename="S1",
        mapping_fastq_second_filename="S1",
    )
    run = await job_ended(runs, name)
    assert run.failure is None
    assert run.input_bytes == sum(map(len, lanes.values()))


@pytest.mark.parametrize("asked", ["reference/tiny", "reference/tiny/genome.fa"])
async def test_the_alt_contigs_of_a_reference_come_along(
    serve: Serve, side: Side, remote: Mapping[str, Any], settings: Settings, asked: str
) -> None:
    alternates = {"p/reference/tiny/genome.fa.64.alt": b"chr1\t0\tchr1\n"}
    await asyncio.to_thread(fill, side, READS | GENOME | alternates)
    runs = await serve(remote_buckets=remote)
    run = await job_ended(runs, await start_job(serve, mapping_reference_path=asked))
    assert run.failure is None
    made = (settings.data / "cache" / "references").glob("*/genome.fa.alt")
    assert [path.read_bytes() for path in made] == [b"chr1\t0\tchr1\n"]


async def test_a_reference_may_be_a_registered_one_s_name(
    serve: Serve, side: Side, remote: Mapping[str, Any], settings: Settings
) -> None:
    await asyncio.to_thread(fill, side, READS)
    folder = settings.data / "references" / "hs37d5"
    folder.mkdir(parents=True)
    (folder / "genome.fa").write_text(REFERENCE)
    runs = await serve(remote_buckets=remote)
    run = await job_ended(runs, await start_job(serve, mapping_reference_path="hg19"))
    assert run.failure is None
    run = await job_ended(runs, await start_job(serve, mapping_reference_path="mm10"))
    assert run.failure is not None
    assert "there is no reference 'oss://lab/mm10'" in run.failure.message


async def test_s3_and_oss_name_the_same_buckets_and_a_wes_run_can_mix(
    serve: Serve, side: Side, remote: Mapping[str, Any]
) -> None:
    await asyncio.to_thread(fill, side, READS)
    runs = await serve(remote_buckets=remote)
    request = mapping("s3://lab/new/s_1.fq", "oss://genes/fastq/a_2.fq.gz", bam="s3://lab/o/x.bam")
    run = await ended(runs, await runs.submit(LOCAL_OWNER, request))
    assert run.failure is None
    assert await asyncio.to_thread(side.get, "p/o/x.bam.bai") == b"BAI"
    same = mapping("s3://lab/new/s_1.bam", "oss://lab/new/s_2.fq", bam="oss://lab/new/s_1.bam")
    with pytest.raises(InvalidRequest, match="is an input of this run"):
        await runs.submit(LOCAL_OWNER, same)


@pytest.mark.parametrize(
    ("objects", "changes", "told"),
    [
        (
            GENOME | {"p/new/s_2.fq": b"second"},
            {},
            "reads.0.first: oss://lab/new/s_1.fq is not there; upload it",
        ),
        (READS | GENOME, {"mapping_reference_path": "no"}, "there is no reference 'oss://lab/no'"),
        (
            READS | GENOME,
            {"mapping_fastq_second_filename": "s_1.fq"},
            "reads.0.first: oss://lab/new/s_1.fq is named for both mates and is not a folder",
        ),
    ],
)
@pytest.mark.parametrize("side", ["oss"], indirect=True)
async def test_an_input_that_is_missing_there_is_reported(
    serve: Serve,
    side: Side,
    remote: Mapping[str, Any],
    objects: Mapping[str, bytes],
    changes: dict[str, str],
    told: str,
) -> None:
    await asyncio.to_thread(fill, side, objects)
    runs = await serve(remote_buckets=remote)
    name = await start_job(serve, **changes)
    await job_ended(runs, name)
    description = await describe(serve, name)
    assert description["status"] == "Failed"
    assert told in description["error_message"]


async def test_results_that_cannot_be_sent_stay_with_the_run(
    serve: Serve,
    side: Side,
    remote: Mapping[str, Any],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await asyncio.to_thread(fill, side, READS | GENOME)
    runs = await serve(remote_buckets=remote)
    store = await asyncio.to_thread(side.store)
    real = type(store).put

    def deny_the_index(self: object, key: str, *rest: Any) -> None:
        if key.endswith(".bai"):
            raise PermanentError("answered 403 AccessDenied")
        real(self, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "put", deny_the_index)
    run = await job_ended(runs, await start_job(serve))
    assert run.state is RunState.SYSTEM_ERROR
    assert run.failure is not None
    assert run.failure.message.startswith(
        "the result bam_index was not sent to oss://lab/out/s.bam.bai: "
        "oss://lab/out/s.bam.bai answered 403 AccessDenied"
    )
    assert "nothing is lost" in (run.failure.hint or "")
    published = {each.name: each.published for each in run.outputs}
    assert published["bam"] == "oss://lab/out/s.bam"
    assert published["bam_index"] is None
    kept = settings.data / "runs" / run.id / "outputs" / "results" / "aligned.bam.bai"
    assert await asyncio.to_thread(kept.read_bytes) == b"BAI"


@pytest.mark.parametrize("side", ["oss"], indirect=True)
async def test_credentials_are_nowhere(
    serve: Serve,
    side: Side,
    remote: Mapping[str, Any],
    settings: Settings,
    capfd: pytest.CaptureFixture[str],
) -> None:
    await asyncio.to_thread(fill, side, GENOME)
    runs = await serve(remote_buckets=remote)
    failed = await job_ended(runs, await start_job(serve))
    await asyncio.to_thread(fill, side, READS)
    good = await job_ended(runs, await start_job(serve))
    wrong = {"lab": {**remote["lab"], "access_key_secret": SECRET[::-1]}}
    runs = await serve(remote_buckets=wrong)
    denied = await job_ended(runs, await start_job(serve))
    assert [run.state for run in (failed, good, denied)] == [
        RunState.EXECUTOR_ERROR,
        RunState.COMPLETE,
        RunState.EXECUTOR_ERROR,
    ]
    assert denied.failure is not None
    assert "answered 403" in denied.failure.message
    async with ClientSession() as session:
        info = await (await session.get(serve.server.make_url("/_wesemu/info"))).text()  # type: ignore[attr-defined]
    await serve()  # everything is written
    told = info + "".join(capfd.readouterr())
    files = await asyncio.to_thread(_texts, settings.data)
    assert len(files) > 10
    for secret in (SECRET, SECRET[::-1], KEY_ID, "Signature=", "x-oss-signature"):
        assert secret not in told
        assert [path for path, text in files.items() if secret.encode() in text] == []


def _texts(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_restart_while_results_are_sent_goes_on(
    serve: Serve, side: Side, remote: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(fill, side, READS | GENOME)
    runs = await serve(remote_buckets=remote)
    store = await asyncio.to_thread(side.store)
    real, sent = type(store).put, []
    first_is_there = asyncio.Event()
    loop = asyncio.get_running_loop()

    def down_after_the_first(self: object, key: str, *rest: Any) -> None:
        if key.endswith(".bai"):
            loop.call_soon_threadsafe(first_is_there.set)
            raise TransientError("answered 503")
        sent.append(key)
        real(self, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "put", down_after_the_first)
    name = await start_job(serve)
    await first_is_there.wait()
    run = await runs.by_handle(LOCAL_OWNER, name.rpartition("-")[2])
    assert run.state is RunState.RUNNING, "it is not done before its results are there"
    monkeypatch.setattr(type(store), "put", real)
    runs = await serve(remote_buckets=remote)
    run = await job_ended(runs, name)
    assert run.failure is None
    assert sent == ["p/out/s.bam"]
    assert await asyncio.to_thread(side.get, "p/out/s.bam.bai") == b"BAI"


def calling() -> RunRequest:
    """Return a run whose BAM goes to the remote bucket, and its VCF to a local one."""
    places = {"bam": "oss://lab/out/s.bam", "vcf": "oss://genes/out/s.vcf.gz"}
    request = mapping("oss://lab/new/s_1.fq", "oss://lab/new/s_2.fq", **places)
    return replace(request, workflow_url="wgs")


@pytest.fixture
async def runs(serve: Serve, side: Side, remote: Mapping[str, Any]) -> RunService:
    """Return the runs of a server, with reads in its remote bucket."""
    await asyncio.to_thread(fill, side, READS)
    return await serve(remote_buckets=remote)


@pytest.fixture
async def store_class(side: Side) -> Any:
    """Return the class that sends results to the remote bucket with `put`."""
    return type(await asyncio.to_thread(side.store))


@pytest.mark.parametrize("side", ["oss"], indirect=True)
async def test_a_cancel_ends_the_sending_of_results_at_once(
    runs: RunService,
    side: Side,
    store_class: Any,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is published then, in no bucket."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def down(*_: Any) -> None:
        loop.call_soon_threadsafe(asked.set)
        raise TransientError("answered 503", after=3600)

    monkeypatch.setattr(store_class, "put", down)
    run = await runs.submit(LOCAL_OWNER, calling())
    await asked.wait()
    await runs.cancel(LOCAL_OWNER, run.id)
    assert (await ended(runs, run)).state is RunState.CANCELED
    assert set(await asyncio.to_thread(side.keys)) == READS.keys()
    assert not (settings.data / "buckets" / "genes" / "out").exists()


@pytest.mark.parametrize("side", ["oss"], indirect=True)
async def test_a_cancel_that_comes_after_the_first_result_has_no_effect(
    runs: RunService,
    side: Side,
    store_class: Any,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request that creates the BAM is on its way to the bucket when the cancel comes."""
    real = store_class.put
    begun, canceled = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(self: object, *arguments: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert canceled.wait(TIMEOUT_SECONDS)
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store_class, "put", slow)
    run = await runs.submit(LOCAL_OWNER, calling())
    await begun.wait()
    await runs.cancel(LOCAL_OWNER, run.id)
    canceled.set()
    run = await ended(runs, run)
    assert run.state is RunState.COMPLETE
    keys = set(await asyncio.to_thread(side.keys))
    assert keys == READS.keys() | {"p/out/s.bam", "p/out/s.bam.bai"}
    assert (settings.data / "buckets" / "genes" / "out" / "s.vcf.gz").exists()
    published = {each.published for each in run.outputs}
    assert published >= {"oss://lab/out/s.bam.bai", "oss://genes/out/s.vcf.gz"}


@pytest.mark.parametrize("side", ["oss"], indirect=True)
async def test_a_run_that_cannot_publish_here_lists_what_it_sent_elsewhere(
    runs: RunService,
    store_class: Any,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the BAM is sent, a folder takes the name of the VCF in the local bucket."""
    real = store_class.put

    def put(self: object, *arguments: Any) -> None:
        (settings.data / "buckets/genes/out/s.vcf.gz").mkdir(parents=True, exist_ok=True)
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store_class, "put", put)
    run = await ended(runs, await runs.submit(LOCAL_OWNER, calling()))
    assert run.state is RunState.SYSTEM_ERROR
    assert run.failure is not None
    assert "buckets of this server were not published: " in run.failure.message
    published = {each.name: each.published for each in run.outputs}
    assert published["bam"] == "oss://lab/out/s.bam"
    assert published["vcf"] is None
    assert (runs.workspace(run).outputs / "results" / "calls.vcf.gz").is_file()


async def test_without_the_extra_the_run_says_what_to_install(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wesemu.storage.s3", None)
    runs = await serve(remote_buckets={"lab": {"type": "s3"}})
    request = mapping("s3://lab/a_1.fq", "s3://lab/a_2.fq")
    run = await ended(runs, await runs.submit(LOCAL_OWNER, request))
    assert run.state is RunState.SYSTEM_ERROR
    assert run.failure is not None
    assert "pip install 'wesemu[s3]'" in run.failure.message


def test_a_bucket_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WESEMU_REMOTE_BUCKETS__LAB__TYPE", "s3")
    monkeypatch.setenv("WESEMU_REMOTE_BUCKETS__LAB__ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("WESEMU_REMOTE_BUCKETS__LAB__ACCESS_KEY_SECRET", SECRET)
    bucket = Settings().remote_buckets["lab"]
    assert (bucket.type, bucket.access_key_secret.get_secret_value()) == ("s3", SECRET)


def test_secrets_are_not_shown_by_the_settings() -> None:
    values = {
        "type": "oss",
        "access_key_id": KEY_ID,
        "access_key_secret": SECRET,
        "security_token": "token",
    }
    settings = Settings.model_validate({"remote_buckets": {"lab": values}})
    shown = f"{settings!r} {settings} {settings.model_dump_json()}"
    assert SECRET not in shown
    assert KEY_ID not in shown
    with pytest.raises(ValidationError, match="go together") as caught:
        Settings.model_validate({"remote_buckets": {"lab": values | {"access_key_id": ""}}})
    assert all(SECRET not in error["msg"] for error in caught.value.errors())  # what `serve` prints
