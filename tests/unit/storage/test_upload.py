"""Uploads of results to a remote bucket: S3 (moto) and OSS (wesemu's own API)."""

import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.remote_buckets import SECRET, Side, settings_of

from wesemu.composition import connector, remote_bucket
from wesemu.errors import InputError, InvalidRequest, PermanentError, RemoteFault, TransientError
from wesemu.storage import remote
from wesemu.storage.cache import BlobCache, InputCache
from wesemu.storage.checksums import find_crc64
from wesemu.storage.download import HttpFetcher
from wesemu.storage.remote import RemoteBucket, RemoteBucketSettings, RemoteKey, RemoteStore
from wesemu.storage.remote_upload import RemoteUpload, Uploader
from wesemu.util.ssrf import AddressGuard

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::SyntaxWarning", "ignore::ResourceWarning"
)

MIB = 1 << 20
LARGE = bytes(range(256)) * (12 * MIB // 256)
PART = 5 * MIB


class Watched:
    """The real store; counts calls by name, and does something else first where told to."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self.calls: list[str] = []
        self.instead: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.instead:
                self.instead[name](*arguments)
            return getattr(self._store, name)(*arguments)

        return call


@pytest.fixture
async def store(side: Side) -> Watched:
    return Watched(await asyncio.to_thread(side.store))


@pytest.fixture
def bucket(store: Watched) -> RemoteBucket:
    return RemoteBucket(
        "genes", lambda: store, server="lab", prefix="/lab/7/", part_size=PART, delays=(0.0, 0.0)
    )


@pytest.fixture
def uploader(bucket: RemoteBucket) -> Uploader:
    return Uploader(bucket, find_crc64())


def upload(tmp_path: Path, content: bytes, key: str = "out/a.bam") -> RemoteUpload:
    path = tmp_path / "a.bam"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return RemoteUpload(path, key, len(content), digest, tmp_path / "uploads" / "a.json")


async def send(
    uploader: Uploader, order: RemoteUpload, report: Callable[[int, int | None], None]
) -> None:
    await (await uploader.begin(order, report)).finish()


def ignore(done: int, total: int | None) -> None:
    pass


@pytest.mark.parametrize("content", [b"", b"BAM", LARGE], ids=["empty", "small", "large"])
async def test_a_file_is_there_and_comes_back(
    side: Side, bucket: RemoteBucket, uploader: Uploader, tmp_path: Path, content: bytes
) -> None:
    told: list[int] = []
    await send(uploader, upload(tmp_path, content), lambda done, _: told.append(done))
    assert await asyncio.to_thread(side.keys) == ["lab/7/out/a.bam"]
    assert await asyncio.to_thread(side.get, "lab/7/out/a.bam") == content
    assert told == sorted(told)
    assert told[-1] == len(content)
    assert len(told) >= len(content) // PART
    fetcher = HttpFetcher(AddressGuard())  # the settings chose the address: nobody is in its way
    cache = InputCache(BlobCache(tmp_path / "cache", 1 << 30), fetcher, find_crc64())
    for cached in (False, True):
        source = RemoteKey(bucket, "out/a.bam")
        fetched = await cache.fetch(source, tmp_path / "back" / "a", ignore)
        assert fetched.cached is cached
        assert await asyncio.to_thread((tmp_path / "back" / "a").read_bytes) == content
    await cache.close()


@pytest.mark.parametrize("key", ["a b+c&d.fq", "ü/é%20#1?.fq", "x" * 200 + ".fq", "a=b;c'd,e.fq"])
async def test_any_key_that_is_a_path_can_be_fetched(
    side: Side, bucket: RemoteBucket, tmp_path: Path, key: str
) -> None:
    await asyncio.to_thread(side.put, f"lab/7/{key}", key.encode())
    cache = InputCache(BlobCache(tmp_path / "cache", 1 << 30), HttpFetcher(AddressGuard()))
    target = tmp_path / "run" / key.rpartition("/")[2]
    await cache.fetch(RemoteKey(bucket, key), target, ignore)
    assert await asyncio.to_thread(target.read_bytes) == key.encode()
    await cache.close()


async def test_what_broke_off_is_gone_on_with(
    side: Any, store: Watched, uploader: Uploader, tmp_path: Path
) -> None:
    def refuse_the_third(key: str, identity: str, number: int, *_: object) -> None:
        if number == 3:
            while len(store.parts(key, identity)) < 2:
                time.sleep(0.01)  # on a thread; the others are on their way
            raise PermanentError("answered 403 AccessDenied")

    store.instead["send"] = refuse_the_third
    order = upload(tmp_path, LARGE)
    with pytest.raises(InputError, match=r"out/a\.bam answered 403 Acc") as told:
        await send(uploader, order, ignore)
    assert "remote_buckets.genes" in told.value.message
    assert await asyncio.to_thread(side.uploads) == 1
    store.calls.clear()
    del store.instead["send"]
    await send(uploader, order, ignore)
    assert store.calls.count("begin") == 0
    assert store.calls.count("send") == 1, "parts that had arrived are not sent again"
    assert await asyncio.to_thread(side.get, "lab/7/out/a.bam") == LARGE
    assert not order.record.exists()


async def test_parts_of_an_older_file_are_not_kept(
    side: Side, store: Watched, uploader: Uploader, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise PermanentError("answered 403 AccessDenied")

    store.instead["complete"] = refuse
    with pytest.raises(InputError):
        await send(uploader, upload(tmp_path, LARGE), ignore)
    del store.instead["complete"]
    other = LARGE[::-1]
    await send(uploader, upload(tmp_path, other), ignore)
    assert await asyncio.to_thread(side.get, "lab/7/out/a.bam") == other


async def test_a_part_that_fails_is_sent_again(
    side: Side, store: Watched, uploader: Uploader, tmp_path: Path
) -> None:
    left = [TransientError("answered 503"), TransientError("cannot be reached")]

    def fail_twice(*_: object) -> None:
        if left:
            raise left.pop()

    store.instead["send"] = fail_twice
    await send(uploader, upload(tmp_path, LARGE), ignore)
    assert store.calls.count("send") == 3 + 2
    assert await asyncio.to_thread(side.get, "lab/7/out/a.bam") == LARGE


async def test_a_lost_answer_to_the_last_request_loses_nothing(
    side: Any, store: Watched, uploader: Uploader, tmp_path: Path
) -> None:
    """The service has the file whole, and does not know the upload any more. (moto and our own
    API would take the request a second time; others do not.)"""

    def lose_the_answer(*arguments: Any) -> None:
        if store.calls.count("complete") == 1:
            store._store.complete(*arguments)
            raise TransientError("cannot be reached (ReadTimeoutError)")
        raise PermanentError("answered 404 NoSuchUpload")

    store.instead["complete"] = lose_the_answer
    await send(uploader, upload(tmp_path, LARGE), ignore)
    assert store.calls.count("complete") == 2
    assert await asyncio.to_thread(side.get, "lab/7/out/a.bam") == LARGE
    assert store.calls.count("send") == 3


async def test_what_is_there_already_is_not_sent(
    store: Watched, uploader: Uploader, tmp_path: Path
) -> None:
    await send(uploader, upload(tmp_path, b"BAM"), ignore)
    await send(uploader, upload(tmp_path, b"BAM"), ignore)
    assert store.calls.count("put") == 1
    await send(uploader, upload(tmp_path, b"BAD"), ignore)
    assert store.calls.count("put") == 2


async def test_what_arrived_is_checked(
    side: Side, store: Watched, uploader: Uploader, tmp_path: Path
) -> None:
    """Somebody writes the key while the upload ends."""
    meddled = []

    def meddle(key: str) -> None:
        meddled.append(key)
        if len(meddled) == 2:
            # a file that no client uploaded has no checksum in our own API: its size tells
            side.put(key, b"BAD" if side.kind == "s3" else b"BA")

    store.instead["head"] = meddle
    told = "has another md5" if side.kind == "s3" else "has 2 bytes and not 3"
    with pytest.raises(RemoteFault, match=told):
        await send(uploader, upload(tmp_path, b"BAM"), ignore)


async def test_parts_that_nobody_goes_on_with_are_given_up(
    side: Any, store: Watched, uploader: Uploader, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise PermanentError("answered 403 AccessDenied")

    store.instead["complete"] = refuse
    order = upload(tmp_path, LARGE)
    with pytest.raises(InputError):
        await send(uploader, order, ignore)
    assert await asyncio.to_thread(side.uploads) == 1
    await uploader.abort(order.key, order.record)
    assert await asyncio.to_thread(side.uploads) == 0


@pytest.mark.parametrize("side", ["oss"], indirect=True)  # moto lets everybody in
async def test_wrong_credentials_are_reported_and_not_shown(side: Side, tmp_path: Path) -> None:
    values = settings_of(side, access_key_secret="not the right secret")
    wrong = RemoteBucketSettings.model_validate(values)
    bucket = remote_bucket("genes", wrong)
    with pytest.raises(InputError, match="answered 403 SignatureDoesNotMatch") as caught:
        await send(Uploader(bucket), upload(tmp_path, b"BAM"), ignore)
    told = f"{caught.value!r} {caught.value.message} {wrong!r} {caught.value.__cause__}"
    assert "not the right secret" not in told


async def test_a_missing_object_is_reported(bucket: RemoteBucket, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"oss://genes/no\.fq is not there"):
        await RemoteKey(bucket, "no.fq").describe()


@pytest.mark.parametrize("kind", ["s3", "oss"])
async def test_a_service_that_is_down_is_reported(kind: str, reserved_port: int) -> None:
    settings = {"type": kind, "endpoint": f"http://127.0.0.1:{reserved_port}"}
    settings |= {"access_key_id": "id", "access_key_secret": SECRET, "region": "r"}
    connect = connector("genes", RemoteBucketSettings.model_validate(settings))
    down = RemoteBucket("genes", connect, server="lab", delays=(0.0,))
    with pytest.raises(RemoteFault, match=r"cannot be reached.*2 attempts failed"):
        await down.find("a")


async def test_folders_are_listed(side: Side, bucket: RemoteBucket) -> None:
    for key in ("lab/7/S1/L1/a_1.fq.gz", "lab/7/S1/b.txt", "lab/7/S10/no.fq", "S1/no.fq"):
        await asyncio.to_thread(side.put, key, b"reads")
    assert sorted(await bucket.list_folder("S1")) == ["L1/a_1.fq.gz", "b.txt"]


async def test_a_folder_with_too_many_objects_is_refused(
    side: Side, bucket: RemoteBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MAX_KEYS", 2)
    for number in range(3):
        assert len(await bucket.list_folder("S1")) == number
        await asyncio.to_thread(side.put, f"lab/7/S1/{number}", b"reads")
    with pytest.raises(InputError, match=r"oss://genes/S1/ holds more than 2 objects"):
        await bucket.list_folder("S1")


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/x", "a//b", "a/./b", "a\nb", ""])
def test_no_key_leaves_its_prefix(key: str) -> None:
    def connect() -> RemoteStore:
        raise AssertionError("nobody is asked")

    with pytest.raises(InvalidRequest):
        RemoteBucket("genes", connect, server="lab", prefix="lab").check(key)


def test_no_package_of_an_extra_is_imported_with_the_server() -> None:
    extras = ("boto3", "oss2", "rocrate", "jwt")
    code = f"import sys, wesemu.app; print([n for n in {extras} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
