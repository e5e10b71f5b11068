"""Multipart uploads: parts in any order, restarts, one object."""

import hashlib
from pathlib import Path

import pytest

from wesemu.errors import (
    BucketNotEmpty,
    InvalidRequest,
    PartMissing,
    PartsUnordered,
    PartTooSmall,
    UploadNotFound,
)
from wesemu.runs.data_directory import IdSource
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.multipart import PART_MINIMUM, UploadPart
from wesemu.storage.object_records import ObjectRecord

BIG = bytes(range(256)) * (PART_MINIMUM // 256)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "buckets"
    (root / "genes").mkdir(parents=True)
    return root


@pytest.fixture
def objects(root: Path) -> ObjectServices:
    return ObjectServices.open(root, IdSource(seed=1))


def begin(objects: ObjectServices, key: str = "a.bam") -> str:
    return objects.uploads.begin("genes", key, ObjectRecord(metadata={"sample": "A"}))


def put(objects: ObjectServices, upload: str, number: int, data: bytes) -> UploadPart:
    with objects.store.new_upload("genes") as incoming:
        incoming.write(data)
        digests = incoming.finish()
        return objects.uploads.put_part("genes", "a.bam", upload, number, incoming, digests)


def test_parts_become_one_object(root: Path, objects: ObjectServices) -> None:
    upload = begin(objects)
    tail = put(objects, upload, 7, b"tail")
    head = put(objects, upload, 2, BIG)
    assert objects.uploads.parts("genes", "a.bam", upload) == [head, tail]
    named = [(2, head.etag), (7, tail.etag)]
    info = objects.uploads.complete("genes", "a.bam", upload, named)
    assert (root / "genes" / "a.bam").read_bytes() == BIG + b"tail"
    digests = hashlib.md5(BIG).hexdigest().upper() + hashlib.md5(b"tail").hexdigest().upper()
    assert info.etag == hashlib.md5(digests.encode()).hexdigest().upper() + "-2"
    assert info.record.kind == "Multipart"
    assert info.record.metadata == {"sample": "A"}
    with objects.store.new_upload("genes") as incoming:
        incoming.write(BIG + b"tail")
        assert info.record.crc64 == incoming.finish().crc64
    assert objects.uploads.all("genes") == []


def test_completing_again_answers_as_before(objects: ObjectServices) -> None:
    upload = begin(objects)
    put(objects, upload, 1, b"abc")
    first = objects.uploads.complete("genes", "a.bam", upload, None)
    assert objects.uploads.complete("genes", "a.bam", upload, None) == first
    with pytest.raises(UploadNotFound):
        objects.uploads.parts("genes", "a.bam", upload)


class Killed(BaseException):
    """As SIGKILL, after which nothing is tidied up."""


def test_a_server_that_is_killed_after_the_object_exists_does_not_join_fewer_parts(
    root: Path, objects: ObjectServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(objects)
    put(objects, upload, 1, BIG)
    put(objects, upload, 2, b"tail")

    def killed(folder: Path) -> None:
        next(folder.glob("00001.*")).unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("wesemu.storage.multipart.shutil.rmtree", killed)
        with pytest.raises(Killed):
            objects.uploads.complete("genes", "a.bam", upload, None)
    later = ObjectServices.open(root, IdSource(seed=2))
    later.uploads.complete("genes", "a.bam", upload, None)  # the client tries again
    assert (root / "genes" / "a.bam").read_bytes() == BIG + b"tail"
    assert later.buckets.statistics("genes").uploads == 0


def test_an_upload_that_was_not_made_completely_does_not_stay(
    root: Path, objects: ObjectServices
) -> None:
    """A full disk, or a kill, came before its description."""
    upload = begin(objects)
    (root / "genes/.wesemu/uploads" / upload / "upload.json").unlink()
    ObjectServices.open(root, IdSource(seed=2)).buckets.remove("genes")
    assert not (root / "genes").exists()


def test_a_part_sent_again_replaces_the_earlier_one(root: Path, objects: ObjectServices) -> None:
    upload = begin(objects)
    earlier = put(objects, upload, 1, b"abc")
    later = put(objects, upload, 1, b"defg")
    assert objects.uploads.parts("genes", "a.bam", upload) == [later]
    with pytest.raises(PartMissing, match="part 1"):
        objects.uploads.complete("genes", "a.bam", upload, [(1, earlier.etag)])
    objects.uploads.complete("genes", "a.bam", upload, [(1, later.etag)])
    assert (root / "genes" / "a.bam").read_bytes() == b"defg"


def test_an_upload_outlasts_the_server(root: Path, objects: ObjectServices) -> None:
    upload = begin(objects)
    part = put(objects, upload, 1, b"abc")
    again = ObjectServices.open(root, IdSource())
    assert again.uploads.parts("genes", "a.bam", upload) == [part]
    assert [found.id for found in again.uploads.all("genes")] == [upload]


def test_parts_are_wanted_in_order_and_large_enough(objects: ObjectServices) -> None:
    upload = begin(objects)
    first = put(objects, upload, 1, b"abc")
    second = put(objects, upload, 2, b"def")
    with pytest.raises(PartsUnordered):
        objects.uploads.complete("genes", "a.bam", upload, [(2, second.etag), (1, first.etag)])
    with pytest.raises(PartTooSmall, match=r"part 1 has 3 bytes; all but the last need 102400"):
        objects.uploads.complete("genes", "a.bam", upload, None)


def test_an_upload_without_parts_is_an_empty_object_if_its_client_says_so(
    root: Path, objects: ObjectServices
) -> None:
    upload = begin(objects)
    with pytest.raises(PartMissing, match="no part was uploaded"):
        objects.uploads.complete("genes", "a.bam", upload, None)
    info = objects.uploads.complete("genes", "a.bam", upload, [])
    assert (info.size, info.etag) == (0, "D41D8CD98F00B204E9800998ECF8427E-0")
    assert (root / "genes" / "a.bam").read_bytes() == b""


def test_uploaded_parts_are_not_forgotten(objects: ObjectServices) -> None:
    upload = begin(objects)
    put(objects, upload, 1, b"abc")
    with pytest.raises(PartMissing, match="no part is named; parts uploaded: 1"):
        objects.uploads.complete("genes", "a.bam", upload, [])


@pytest.mark.parametrize("upload", ["", "..", "../..", "0" * 32, "x" * 32])
def test_uploads_that_do_not_exist_are_refused(objects: ObjectServices, upload: str) -> None:
    for call in (objects.uploads.parts, objects.uploads.abort):
        with pytest.raises(UploadNotFound):
            call("genes", "a.bam", upload)
    with pytest.raises(UploadNotFound):
        objects.uploads.complete("genes", "a.bam", upload, None)


def test_an_upload_is_of_one_key(objects: ObjectServices) -> None:
    upload = begin(objects, "other.bam")
    with pytest.raises(UploadNotFound):
        objects.uploads.parts("genes", "a.bam", upload)


def test_an_aborted_upload_leaves_nothing(root: Path, objects: ObjectServices) -> None:
    upload = begin(objects)
    put(objects, upload, 1, b"abc")
    with pytest.raises(BucketNotEmpty):
        objects.buckets.remove("genes")
    objects.uploads.abort("genes", "a.bam", upload)
    objects.buckets.remove("genes")
    assert list(root.iterdir()) == []


def test_a_key_that_cannot_be_is_refused_at_the_beginning(objects: ObjectServices) -> None:
    with pytest.raises(InvalidRequest):
        begin(objects, "../a.bam")
