"""Objects: files that are written completely or not at all, and their records."""

import os
from pathlib import Path

import pytest

from wesemu.errors import (
    BucketNotEmpty,
    BucketNotFound,
    BucketTaken,
    DigestMismatch,
    InvalidRequest,
    NotAppendable,
    ObjectExists,
    ObjectNotFound,
    TooLarge,
    WrongPosition,
)
from wesemu.runs.data_directory import IdSource
from wesemu.storage.bucket_admin import BucketAdmin, ObjectServices
from wesemu.storage.buckets import INCOMING
from wesemu.storage.object_records import ObjectInfo, ObjectRecord
from wesemu.storage.objects import ObjectStore
from wesemu.storage.upload_file import held_open

ABC = "900150983CD24FB0D6963F7D28E17F72"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "buckets"
    (root / "genes").mkdir(parents=True)
    return root


@pytest.fixture
def bucket(root: Path) -> Path:
    return root / "genes"


@pytest.fixture
def services(root: Path) -> ObjectServices:
    return ObjectServices.open(root, IdSource(seed=1))


@pytest.fixture
def store(services: ObjectServices) -> ObjectStore:
    return services.store


@pytest.fixture
def shelves(services: ObjectServices) -> BucketAdmin:
    return services.buckets


def put(
    store: ObjectStore, key: str, data: bytes = b"abc", *, overwrite: bool = True
) -> ObjectInfo:
    with store.new_upload("genes") as incoming:
        incoming.write(data)
        digests = incoming.finish()
        record = ObjectRecord(
            etag=digests.etag,
            crc64=digests.crc64,
            headers={"Content-Type": "text/plain"},
            metadata={"sample": "Ä"},
        )
        return store.put("genes", key, incoming, record, overwrite=overwrite)


def append(store: ObjectStore, key: str, position: int, data: bytes) -> ObjectInfo:
    with store.new_upload("genes") as incoming:
        incoming.write(data)
        return store.append("genes", key, position, incoming, incoming.finish(), ObjectRecord())


def temporaries(bucket: Path) -> list[Path]:
    return list((bucket / INCOMING).iterdir())


def test_an_object_is_a_file_that_pipelines_read(bucket: Path, store: ObjectStore) -> None:
    info = put(store, "fastq/a_1.fq")
    assert (bucket / "fastq" / "a_1.fq").read_bytes() == b"abc"
    assert (bucket / "fastq" / "a_1.fq").stat().st_mode & 0o444 == bucket.stat().st_mode & 0o444
    assert store.find("genes", "fastq/a_1.fq") == info
    assert info.etag == ABC
    assert info.record.metadata == {"sample": "Ä"}


def test_the_metadata_of_an_object_outlasts_the_server(root: Path, store: ObjectStore) -> None:
    info = put(store, "a")
    assert ObjectServices.open(root, IdSource()).store.find("genes", "a") == info


def test_a_file_written_by_hand_has_an_etag_that_is_no_md5(
    bucket: Path, store: ObjectStore
) -> None:
    (bucket / "a").write_bytes(b"abc")
    info = store.find("genes", "a")
    assert info.etag.endswith("-1")
    assert info.record == ObjectRecord()
    assert store.find("genes", "a").etag == info.etag
    os.utime(bucket / "a", ns=(1, 1))
    assert store.find("genes", "a").etag != info.etag


def test_the_record_counts_no_more_once_the_file_is_another(
    bucket: Path, store: ObjectStore
) -> None:
    put(store, "a")
    os.utime(bucket / "a", ns=(1, 1))
    assert store.find("genes", "a").record == ObjectRecord()


def test_what_is_not_put_leaves_nothing(bucket: Path, store: ObjectStore) -> None:
    with store.new_upload("genes") as incoming:
        incoming.write(b"abc")
    with store.new_upload("genes") as incoming:
        incoming.write(b"abc")
        with pytest.raises(DigestMismatch, match="900150983cd24fb0d6963f7d28e17f72, not 00"):
            incoming.finish(md5=bytes(16))
    assert temporaries(bucket) == []
    assert [path.name for path in bucket.iterdir()] == [".wesemu"]


def test_a_reader_keeps_what_it_has_opened(store: ObjectStore) -> None:
    put(store, "a", b"before")
    info, file = store.open("genes", "a")
    put(store, "a", b"afterwards")
    with file:
        assert file.read() == b"before"
    assert info.size == 6
    assert store.find("genes", "a").size == 10


def test_hard_links_to_a_replaced_file_keep_their_bytes(bucket: Path, store: ObjectStore) -> None:
    (bucket / "a.bam").write_bytes(b"a run's own output")
    (bucket.parent / "own").hardlink_to(bucket / "a.bam")
    put(store, "a.bam")
    assert (bucket.parent / "own").read_bytes() == b"a run's own output"


def test_a_replaced_file_is_freed_after_the_locks(tmp_path: Path) -> None:
    def is_open() -> bool:
        links = [
            str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()
        ]
        return f"{path} (deleted)" in links

    path = tmp_path / "large"
    path.write_bytes(b"x")
    with held_open(path):
        path.unlink()
        assert is_open()
    assert not is_open()
    with held_open(path), held_open(tmp_path):
        assert not path.exists()


@pytest.mark.parametrize(("key", "data"), [("a", b"abc"), ("a/", b"")])
def test_overwriting_can_be_forbidden(store: ObjectStore, key: str, data: bytes) -> None:
    put(store, key, data, overwrite=False)
    before = store.find("genes", key)
    with pytest.raises(ObjectExists):
        put(store, key, b"", overwrite=False)
    assert store.find("genes", key) == before


def test_a_request_brings_no_more_than_the_limit(root: Path) -> None:
    store = ObjectStore(root, None, limit=4)
    with store.new_upload("genes") as incoming:
        incoming.write(b"1234")
        with pytest.raises(TooLarge, match="more than 4 bytes"):
            incoming.write(b"5")


@pytest.mark.parametrize(
    "key", ["../x", "/x", "a//b", "a\nb", ".wesemu/x", ".wesemu", ".x.part", "a/.x.bam.1.part"]
)
def test_keys_that_cannot_be_are_refused(bucket: Path, store: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        put(store, key)
    assert caught.value.field == "key"
    with pytest.raises(InvalidRequest):
        store.find("genes", key)
    with pytest.raises(InvalidRequest):
        store.remove("genes", key)
    assert temporaries(bucket) == []


def test_invalid_bucket_names_differ_from_missing_ones(store: ObjectStore) -> None:
    with pytest.raises(InvalidRequest) as caught:
        store.find("A_b", "a")
    assert caught.value.field == "bucket"
    with pytest.raises(BucketNotFound):
        store.find("missing", "a")


def test_a_file_and_objects_below_it_cannot_both_be(store: ObjectStore) -> None:
    put(store, "a/b")
    put(store, "c")
    with pytest.raises(InvalidRequest, match="cannot have both"):
        put(store, "a")
    with pytest.raises(InvalidRequest, match="a part of the path is an object already"):
        put(store, "c/d")
    assert [info.key for info in store.all("genes")] == ["a/b", "c"]


def test_folders_that_removed_objects_left_are_in_nobody_s_way(store: ObjectStore) -> None:
    put(store, "a/b/c")
    store.remove("genes", "a/b/c")
    put(store, "a")
    assert [info.key for info in store.all("genes")] == ["a"]


def test_removing_what_is_not_there_is_no_fault(bucket: Path, store: ObjectStore) -> None:
    put(store, "a/b")
    for key in ("missing", "a", "a/b/c", "a/", "missing/"):
        store.remove("genes", key)
    assert (bucket / "a" / "b").is_file()


def test_a_key_with_a_slash_at_its_end_is_a_folder(bucket: Path, store: ObjectStore) -> None:
    info = put(store, "folder/", b"")
    assert store.find("genes", "folder/") == info
    put(store, "folder/a")
    put(store, "unmarked/a")
    assert (bucket / "folder").is_dir()
    assert info.size == 0
    with pytest.raises(ObjectNotFound):
        store.find("genes", "unmarked/")
    assert [i.key for i in store.all("genes")] == ["folder/", "folder/a", "unmarked/a"]
    _, file = store.open("genes", "folder/")
    with file:
        assert file.read() == b""
    for key in ("folder/", "folder/a/", "never/"):
        store.remove("genes", key)
    assert [i.key for i in store.all("genes")] == ["folder/a", "unmarked/a"]
    with pytest.raises(InvalidRequest, match="can hold no bytes"):
        put(store, "other/", b"abc")


def test_appending_goes_on_at_the_end(bucket: Path, store: ObjectStore) -> None:
    first = append(store, "log", 0, b"abc")
    assert first.etag == ABC
    second = append(store, "log", 3, b"def")
    assert (bucket / "log").read_bytes() == b"abcdef"
    assert second.record.kind == "Appendable"
    assert second.record.crc64 == put(store, "whole", b"abcdef").record.crc64
    with pytest.raises(WrongPosition, match="has 6 bytes") as caught:
        append(store, "log", 3, b"ghi")
    assert caught.value.length == 6
    with pytest.raises(WrongPosition, match="begin at 0"):
        append(store, "new", 3, b"ghi")


def test_nothing_is_appended_to_other_objects(bucket: Path, store: ObjectStore) -> None:
    put(store, "a")
    (bucket / "b").write_bytes(b"abc")
    for key in ("a", "b"):
        with pytest.raises(NotAppendable):
            append(store, key, 3, b"def")
    assert (bucket / "b").read_bytes() == b"abc"


def test_describing_changes_neither_bytes_nor_time(bucket: Path, store: ObjectStore) -> None:
    before = put(store, "a")
    after = store.replace_metadata("genes", "a", ObjectRecord(metadata={"sample": "B"}))
    assert after.record.metadata == {"sample": "B"}
    assert (after.etag, after.modified, after.record.crc64) == (
        before.etag,
        before.modified,
        before.record.crc64,
    )


def test_buckets_are_made_counted_and_removed_when_empty(
    root: Path, store: ObjectStore, shelves: BucketAdmin
) -> None:
    shelves.create("other")
    shelves.create("other")
    assert [info.name for info in shelves.all()] == ["genes", "other"]
    put(store, "x/a")
    (root / "genes" / "x" / "b").write_bytes(b"12")
    statistics = shelves.statistics("genes")
    assert (statistics.objects, statistics.size, statistics.uploads) == (2, 5, 0)
    with pytest.raises(BucketNotEmpty):
        shelves.remove("genes")
    store.remove("genes", "x/a")
    store.remove("genes", "x/b")
    assert shelves.statistics("genes").modified is None
    shelves.remove("genes")
    assert shelves.names() == ["other"]


def test_a_bucket_with_files_that_are_no_objects_stays(bucket: Path, shelves: BucketAdmin) -> None:
    (bucket / ".a.bam.part").write_bytes(b"a job writes it")
    with pytest.raises(BucketNotEmpty, match="files that are not objects"):
        shelves.remove("genes")
    assert (bucket / ".a.bam.part").exists()


def test_a_bucket_that_is_a_link_stays(
    root: Path, tmp_path: Path, store: ObjectStore, shelves: BucketAdmin
) -> None:
    (tmp_path / "disk").mkdir()
    (root / "linked").symlink_to(tmp_path / "disk")
    with pytest.raises(BucketNotEmpty, match="a link made by hand"):
        shelves.remove("linked")


def test_a_file_in_place_of_a_bucket_is_reported(root: Path, shelves: BucketAdmin) -> None:
    (root / "a-file").write_bytes(b"")
    with pytest.raises(BucketTaken):
        shelves.create("a-file")


def test_what_was_on_its_way_in_is_gone_after_a_crash(root: Path, bucket: Path) -> None:
    (bucket / INCOMING).mkdir(parents=True)
    (bucket / INCOMING / "tmpabcd1234").write_bytes(b"half")
    ObjectServices.open(root, IdSource())
    assert list((bucket / INCOMING).iterdir()) == []
