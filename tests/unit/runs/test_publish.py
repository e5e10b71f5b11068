"""Publishing into a bucket: digests and metadata of objects; a BAM and its index of one run."""

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.waiting import eventually
from unit.runs.test_run_queue import queued

from wesemu.runs import publishing
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import LOCAL_OWNER, Resources, RunId, RunState
from wesemu.runs.ports import Plan, Publication
from wesemu.runs.publishing import ActiveTargets, LocalPublisher
from wesemu.runs.run_directory import Workspace
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.buckets import Buckets
from wesemu.storage.object_records import ObjectRecord

BAM, INDEX = "oss://genes/out/a.bam", "oss://genes/out/a.bam.bai"


@pytest.fixture
def objects(tmp_path: Path) -> ObjectServices:
    (tmp_path / "buckets" / "genes").mkdir(parents=True)
    return ObjectServices.open(tmp_path / "buckets", IdSource(seed=1))


def workspace(tmp_path: Path, name: str) -> Workspace:
    """A run whose results all hold its name."""
    made = Workspace(tmp_path / "runs" / name)
    made.work.mkdir(parents=True)
    for result in ("a.bam", "a.bam.bai"):
        (made.work / result).write_text(name)
    return made


def publications(tmp_path: Path) -> list[Publication]:
    buckets = Buckets(tmp_path / "buckets")
    return [
        Publication("bam", "a.bam", buckets.target(BAM), BAM),
        Publication("bam_index", "a.bam.bai", buckets.target(INDEX), INDEX),
    ]


def test_what_is_published_has_its_digests(tmp_path: Path, objects: ObjectServices) -> None:
    outputs = LocalPublisher(objects.store).publish_blocking(
        workspace(tmp_path, "one"), publications(tmp_path)
    )
    assert [output.published for output in outputs] == [BAM, INDEX]
    info = objects.store.find("genes", "out/a.bam")
    assert info.etag == hashlib.md5(b"one", usedforsecurity=False).hexdigest().upper()
    assert info.record.crc64 is not None


class Killed(BaseException):
    """As SIGKILL, after which nothing is tidied up."""


@pytest.mark.parametrize("killed", [False, True])
def test_an_object_that_is_put_back_keeps_its_etag_and_metadata(
    tmp_path: Path, objects: ObjectServices, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    with objects.store.new_upload("genes") as upload:
        upload.write(b"earlier")
        record = ObjectRecord(etag=upload.finish().etag, metadata={"sample": "a"})
        before = objects.store.put("genes", "out/a.bam", upload, record)
    run, wanted = workspace(tmp_path, "one"), publications(tmp_path)
    publisher = LocalPublisher(objects.store)
    index = tmp_path / "buckets/genes/out/a.bam.bai"
    (index.mkdir if not killed else index.touch)()

    def fail(staged: object) -> bool:
        if str(getattr(staged, "target", "")) == str(index):
            raise Killed
        return set_aside(staged)

    set_aside = publishing._set_aside
    if killed:
        monkeypatch.setattr(publishing, "_set_aside", fail)
    for _ in range(2):
        with pytest.raises(Killed if killed else IsADirectoryError):
            publisher.publish_blocking(run, wanted)
        publisher.clean_up_blocking(run)
        assert objects.store.find("genes", "out/a.bam") == before


def test_a_bam_and_its_index_are_of_one_run(tmp_path: Path, objects: ObjectServices) -> None:
    publisher = LocalPublisher(objects.store)
    spaces = [workspace(tmp_path, f"run-{number}") for number in range(12)]
    with ThreadPoolExecutor(len(spaces)) as pool:
        for _ in range(5):
            list(pool.map(lambda s: publisher.publish_blocking(s, publications(tmp_path)), spaces))
            bam = objects.store.open("genes", "out/a.bam")[1]
            index = objects.store.open("genes", "out/a.bam.bai")[1]
            with bam, index:
                assert bam.read() == index.read()
    assert not list((tmp_path / "buckets").rglob("*.part"))


async def test_a_run_that_ends_while_its_locations_are_read_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may publish there without a warning."""
    reading, ended = threading.Event(), threading.Event()
    bam = Publication("bam", "a.bam", tmp_path / "a.bam", BAM)
    plan = Plan("snakemake", "mapping", ServiceLevel("s"), Resources(), (bam,))

    def read(folder: Path) -> dict[str, str]:
        reading.set()
        assert ended.wait(60)
        return publishing._names_of(plan)

    monkeypatch.setattr(publishing, "_names_on_disk", read)
    store = await RunStore.open(tmp_path / "index.db")
    run = await store.insert(queued("earlier"))
    targets = ActiveTargets(store, tmp_path / "runs")
    claim = asyncio.create_task(targets.claim(RunId("new"), LOCAL_OWNER, plan))
    await eventually(reading.is_set)
    await store.move(run.id, RunState.CANCELED)
    ended.set()
    assert await claim is None
    await store.close()
