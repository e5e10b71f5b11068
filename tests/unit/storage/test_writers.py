"""Concurrent writers of one key: each gets the info of its own write; readers see whole objects."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wesemu.errors import WrongPosition
from wesemu.runs.data_directory import IdSource
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.buckets import RECORDS
from wesemu.storage.checksums import find_crc64
from wesemu.storage.object_records import ObjectRecord

WRITERS, ROUNDS = 6, 25
KEY = "runs/a.bam"


@pytest.fixture
def objects(tmp_path: Path) -> ObjectServices:
    (tmp_path / "buckets" / "genes").mkdir(parents=True)
    return ObjectServices.open(tmp_path / "buckets", IdSource(seed=1))


def content(writer: int, number: int) -> bytes:
    """Always of one size, so that nothing but the bytes tells two of them apart."""
    return f"{writer:04}{number:04}".encode() * 16


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest().upper()


def put(objects: ObjectServices, data: bytes) -> tuple[str, int | None, int]:
    with objects.store.new_upload("genes") as incoming:
        incoming.write(data)
        digests = incoming.finish()
        record = ObjectRecord(etag=digests.etag, crc64=digests.crc64)
        info = objects.store.put("genes", KEY, incoming, record)
    return info.etag, info.record.crc64, info.size


def complete(objects: ObjectServices, data: bytes) -> tuple[str, int | None, int]:
    upload = objects.uploads.begin("genes", KEY, ObjectRecord())
    with objects.store.new_upload("genes") as incoming:
        incoming.write(data)
        objects.uploads.put_part("genes", KEY, upload, 1, incoming, incoming.finish())
    info = objects.uploads.complete("genes", KEY, upload, None)
    return info.etag, info.record.crc64, info.size


def expected_multipart(data: bytes) -> str:
    return md5(md5(data).encode()) + "-1"


@pytest.mark.parametrize(
    ("write", "etag"), [(put, md5), (complete, expected_multipart)], ids=["put", "multipart"]
)
def test_a_writer_gets_the_digests_of_its_own_object(
    objects: ObjectServices,
    write: Callable[[ObjectServices, bytes], tuple[str, int | None, int]],
    etag: Callable[[bytes], str],
) -> None:
    crc64 = find_crc64()
    assert crc64 is not None

    def run(writer: int) -> None:
        for number in range(ROUNDS):
            data = content(writer, number)
            assert write(objects, data) == (etag(data), crc64(data, 0), len(data))

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(run, range(WRITERS)))


def test_bytes_and_etag_are_of_one_object(objects: ObjectServices) -> None:
    put(objects, content(0, 0))
    stopped = threading.Event()

    def write(writer: int) -> None:
        for number in range(ROUNDS):
            put(objects, content(writer, number))

    def read(_: int) -> int:
        seen = 0
        while not stopped.is_set():
            info, file = objects.store.open("genes", KEY)
            with file:
                assert info.etag == md5(file.read())
            assert not objects.store.find("genes", KEY).etag.endswith("-1")
            seen += 1
        return seen

    with ThreadPoolExecutor(WRITERS + 2) as pool:
        readers = [pool.submit(read, number) for number in range(2)]
        list(pool.map(write, range(WRITERS)))
        stopped.set()
        assert all(reader.result() for reader in readers)


def test_of_several_appends_at_one_place_one_is_taken(objects: ObjectServices) -> None:
    def append(writer: int, position: int) -> int | None:
        with objects.store.new_upload("genes") as incoming:
            incoming.write(content(writer, position))
            digests = incoming.finish()
            try:
                info = objects.store.append(
                    "genes", KEY, position, incoming, digests, ObjectRecord()
                )
            except WrongPosition:
                return None
        return info.size

    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(10):
            position = 128 * number
            sizes = list(pool.map(append, range(WRITERS), [position] * WRITERS))
            assert sorted(filter(None, sizes)) == [position + 128]
    assert objects.store.find("genes", KEY).size == 1280


def test_a_part_sent_by_several_at_once_is_one_of_theirs(objects: ObjectServices) -> None:
    upload = objects.uploads.begin("genes", KEY, ObjectRecord())

    def send(writer: int) -> None:
        for number in range(ROUNDS):
            data = content(writer, number)
            with objects.store.new_upload("genes") as incoming:
                incoming.write(data)
                part = objects.uploads.put_part(
                    "genes", KEY, upload, 1, incoming, incoming.finish()
                )
            assert part.etag == md5(data)
            assert len(objects.uploads.parts("genes", KEY, upload)) == 1

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(send, range(WRITERS)))


def test_another_file_of_the_same_size_and_time_is_another_object(
    tmp_path: Path, objects: ObjectServices
) -> None:
    put(objects, content(1, 1))
    path = tmp_path / "buckets/genes" / KEY
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(content(2, 2))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert objects.store.find("genes", KEY).etag.endswith("-1")


def test_a_bucket_that_was_copied_keeps_its_records(
    tmp_path: Path, objects: ObjectServices
) -> None:
    etag, _, _ = put(objects, content(1, 1))
    shutil.copytree(tmp_path / "buckets/genes", tmp_path / "buckets/copy")
    assert objects.store.find("copy", KEY).etag == etag


def test_records_of_earlier_versions_count(tmp_path: Path, objects: ObjectServices) -> None:
    etag, _, _ = put(objects, content(1, 1))
    (record,) = (tmp_path / "buckets/genes" / RECORDS).glob("*/*.json")
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"file": told["file"][:3]}))
    assert objects.store.find("genes", KEY).etag == etag
