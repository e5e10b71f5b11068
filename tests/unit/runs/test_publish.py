"""Results that are published into a bucket: their digests are on record, pairs stay pairs."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wesemu.runs.data_directory import IdSource
from wesemu.runs.ports import Publication
from wesemu.runs.publishing import Publisher
from wesemu.runs.run_directory import Workspace
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.buckets import Buckets

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
    outputs = Publisher(objects.store).publish(workspace(tmp_path, "one"), publications(tmp_path))
    assert [output.published for output in outputs] == [BAM, INDEX]
    info = objects.store.find("genes", "out/a.bam")
    assert info.etag == hashlib.md5(b"one", usedforsecurity=False).hexdigest().upper()
    assert info.record.crc64 is not None


def test_a_bam_and_its_index_are_of_one_run(tmp_path: Path, objects: ObjectServices) -> None:
    publisher = Publisher(objects.store)
    spaces = [workspace(tmp_path, f"run-{number}") for number in range(12)]
    with ThreadPoolExecutor(len(spaces)) as pool:
        for _ in range(5):
            list(pool.map(lambda s: publisher.publish(s, publications(tmp_path)), spaces))
            bam = objects.store.open("genes", "out/a.bam")[1]
            index = objects.store.open("genes", "out/a.bam.bai")[1]
            with bam, index:
                assert bam.read() == index.read()
    assert not list((tmp_path / "buckets").rglob("*.part"))
