"""oss2, the older official SDK, with each of its three signatures."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api.oss.fixtures import KEY_ID, SECRET
from conformance.oss.conftest import collect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

Open = Callable[..., Any]
VERSIONS = ["v1", "v2", "v4"]


@pytest.fixture
def session() -> Iterator[Any]:
    import oss2

    session = oss2.Session()
    yield session
    session.session.close()
    collect()


@pytest.fixture
def open_bucket(endpoint: str, session: Any) -> Open:
    """A client of one bucket; CRC-64 is checked by default."""

    def open_bucket(name: str = "genes", *, version: str = "v4", **options: Any) -> Any:
        import oss2

        auth = oss2.make_auth(KEY_ID, options.pop("secret", SECRET), version)
        options = {"region": "cn-shenzhen", "session": session, **options}
        return oss2.Bucket(auth, options.pop("endpoint", endpoint), name, **options)

    return open_bucket


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_object_s_life(open_bucket: Open, bucket: Path, version: str) -> None:
    client = open_bucket(version=version)

    def live() -> None:
        key = "fastq/ü a+b~c_1.fq.gz"
        put = client.put_object(key, b"@reads", headers={"x-oss-meta-sample": "A 1"})
        assert put.crc is not None
        got = client.get_object(key)
        assert got.read() == b"@reads"
        assert got.headers["x-oss-meta-sample"] == "A 1"
        assert client.get_object(key, byte_range=(1, 3)).read() == b"rea"
        assert client.head_object(key).etag == put.etag
        assert client.get_object_meta(key).content_length == 6
        assert client.object_exists(key)
        copied = client.copy_object("genes", key, "fastq/copy")
        assert copied.etag == put.etag
        client.update_object_meta("fastq/copy", {"x-oss-meta-sample": "B"})
        assert client.head_object("fastq/copy").headers["x-oss-meta-sample"] == "B"
        client.delete_object(key)
        assert not client.object_exists(key)

    await asyncio.to_thread(live)
    assert (bucket / "fastq" / "copy").read_bytes() == b"@reads"


@pytest.mark.parametrize("version", VERSIONS)
async def test_presigned_urls_need_no_header(
    open_bucket: Open, session: Any, bucket: Path, version: str
) -> None:
    client = open_bucket(version=version)

    def use() -> None:
        put = session.session.put(client.sign_url("PUT", "fastq/a b.fq", 60), data=b"@reads")
        assert put.status_code == 200
        url = client.sign_url("GET", "fastq/a b.fq", 60, slash_safe=True)
        assert session.session.get(url).content == b"@reads"
        for broken in (url.replace("a%20b", "a"), client.sign_url("GET", "fastq/a b.fq", -1)):
            assert session.session.get(broken).status_code == 403

    await asyncio.to_thread(use)
    assert (bucket / "fastq" / "a b.fq").read_bytes() == b"@reads"


async def test_an_interrupted_upload_is_resumed(
    open_bucket: Open, bucket: Path, reads: Path, tmp_path: Path
) -> None:
    client = open_bucket()

    def upload() -> None:
        import oss2

        options: dict[str, Any] = {
            "store": oss2.ResumableStore(root=str(tmp_path)),
            "multipart_threshold": 1000,
            "part_size": 200 << 10,
        }
        client.timeout = 30
        sent = client.upload_part
        numbers: list[int] = []

        def upload_part(key: str, upload_id: str, number: int, *args: Any, **kwargs: Any) -> Any:
            numbers.append(number)
            if len(numbers) == 5:
                raise oss2.exceptions.RequestError(OSError("the line is cut"))
            return sent(key, upload_id, number, *args, **kwargs)

        client.upload_part = upload_part
        with pytest.raises(oss2.exceptions.RequestError):
            oss2.resumable_upload(client, "fastq/a.fq", str(reads), **options)
        (unfinished,) = oss2.MultipartUploadIterator(client)
        assert unfinished.key == "fastq/a.fq"
        assert len(list(oss2.PartIterator(client, "fastq/a.fq", unfinished.upload_id))) == 4
        numbers[:] = [0] * 10
        oss2.resumable_upload(client, "fastq/a.fq", str(reads), **options)
        assert numbers[10:] == list(range(5, 16))
        assert not list(oss2.MultipartUploadIterator(client))
        target = tmp_path / "down"
        oss2.resumable_download(
            client, "fastq/a.fq", str(target), part_size=200 << 10, multiget_threshold=1000
        )
        assert target.read_bytes() == reads.read_bytes()

    await asyncio.to_thread(upload)
    assert (bucket / "fastq" / "a.fq").read_bytes() == reads.read_bytes()


async def test_an_object_is_copied_part_by_part(
    open_bucket: Open, bucket: Path, reads: Path
) -> None:
    client = open_bucket()

    def copy() -> None:
        import oss2

        client.put_object_from_file("a.fq", str(reads))
        upload = client.init_multipart_upload("b.fq").upload_id
        half = reads.stat().st_size // 2
        parts = [
            oss2.models.PartInfo(
                number, client.upload_part_copy("genes", "a.fq", span, "b.fq", upload, number).etag
            )
            for number, span in ((1, (0, half - 1)), (2, (half, None)))
        ]
        client.complete_multipart_upload("b.fq", upload, parts)
        aborted = client.init_multipart_upload("c.fq").upload_id
        client.abort_multipart_upload("c.fq", aborted)

    await asyncio.to_thread(copy)
    assert (bucket / "b.fq").read_bytes() == reads.read_bytes()


async def test_appending_checks_the_whole_object_s_crc(open_bucket: Open) -> None:
    client = open_bucket()

    def append() -> None:
        import oss2

        first = client.append_object("log", 0, b"abc", init_crc=0)
        second = client.append_object("log", first.next_position, b"def", init_crc=first.crc)
        assert second.next_position == 6
        assert client.get_object("log").read() == b"abcdef"
        with pytest.raises(oss2.exceptions.PositionNotEqualToLength) as refused:
            client.append_object("log", 3, b"ghi")
        assert refused.value.next_position == 6

    await asyncio.to_thread(append)


@pytest.mark.parametrize("version", VERSIONS)
async def test_listings_are_paged(open_bucket: Open, version: str) -> None:
    client = open_bucket(version=version)

    def page() -> None:
        import oss2

        keys = ["a+b c.bam", "out/x", "out/é/1", "out/é/2", "z"]
        for key in keys:
            client.put_object(key, b"")
        first = [found.key for found in oss2.ObjectIterator(client, max_keys=1)]
        second = [found.key for found in oss2.ObjectIteratorV2(client, max_keys=2)]
        assert first == second == keys
        folders = [
            (found.key, found.is_prefix())
            for found in oss2.ObjectIterator(client, prefix="out/", delimiter="/", max_keys=1)
        ]
        assert folders == [("out/x", False), ("out/é/", True)]
        deleted = client.batch_delete_objects(keys).deleted_keys
        assert sorted(deleted) == sorted(keys)
        assert list(oss2.ObjectIterator(client, prefix="out/")) == []

    await asyncio.to_thread(page)


async def test_a_key_that_is_refused_is_not_among_the_deleted(
    open_bucket: Open, bucket: Path
) -> None:
    client = open_bucket()

    def delete() -> None:
        client.put_object("a+b c.bam", b"")
        told = client.batch_delete_objects(["../secret", "a+b c.bam", "missing", "é\\ü"])
        assert told.status == 200
        assert told.deleted_keys == ["a+b c.bam", "missing", "é\\ü"]
        assert client.batch_delete_objects(["../secret"]).deleted_keys == []

    (bucket.parent / "secret").write_text("kept")
    await asyncio.to_thread(delete)
    assert (bucket.parent / "secret").read_text() == "kept"
    assert not (bucket / "a+b c.bam").exists()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_bucket_s_life(
    open_bucket: Open, endpoint: str, session: Any, version: str
) -> None:
    client = open_bucket("new-one", version=version)

    def live() -> None:
        import oss2

        client.create_bucket(oss2.BUCKET_ACL_PRIVATE)
        assert client.get_bucket_info().name == "new-one"
        assert client.get_bucket_location().location == "oss-wesemu"
        assert client.get_bucket_acl().acl == "private"
        assert client.get_bucket_versioning().status is None
        client.put_object("a", b"abc")
        assert client.get_bucket_stat().storage_size_in_bytes == 3
        service = oss2.Service(client.auth, endpoint, region="cn-shenzhen", session=session)
        assert [found.name for found in oss2.BucketIterator(service)] == ["genes", "new-one"]
        with pytest.raises(oss2.exceptions.BucketNotEmpty):
            client.delete_bucket()
        client.delete_object("a")
        client.delete_bucket()
        with pytest.raises(oss2.exceptions.NoSuchBucket):
            client.get_bucket_info()

    await asyncio.to_thread(live)


async def test_errors_are_the_sdk_s_own_exceptions(open_bucket: Open) -> None:
    import oss2

    def fail() -> None:
        client = open_bucket()
        with pytest.raises(oss2.exceptions.NoSuchKey) as missing:
            client.get_object("missing")
        assert missing.value.request_id
        assert missing.value.details["RequestId"] == missing.value.request_id
        with pytest.raises(oss2.exceptions.NotFound):
            client.head_object("missing")
        with pytest.raises(oss2.exceptions.NoSuchUpload):
            client.list_parts("missing", "0" * 32)
        client.put_object("a", b"abc")
        with pytest.raises(oss2.exceptions.NotModified):
            client.get_object("a", headers={"If-None-Match": client.head_object("a").etag})
        with pytest.raises(oss2.exceptions.PreconditionFailed):
            client.get_object("a", headers={"If-Match": "x"})
        with pytest.raises(oss2.exceptions.ObjectNotAppendable):
            client.append_object("a", 3, b"def")
        for version in VERSIONS:
            other = open_bucket(version=version, secret="another")
            with pytest.raises(oss2.exceptions.SignatureDoesNotMatch):
                other.get_object("a")
        with pytest.raises(oss2.exceptions.AccessDenied):
            oss2.Bucket(
                oss2.AnonymousAuth(), client.endpoint, "genes", session=client.session
            ).get_object("a")

    await asyncio.to_thread(fail)


async def test_the_path_of_an_endpoint_does_not_matter(
    open_bucket: Open, endpoint: str, bucket: Path
) -> None:
    """The SDK drops it, so the prefix reaches the bucket by the root."""
    client = open_bucket(endpoint=f"{endpoint}/oss")
    await asyncio.to_thread(client.put_object, "a", b"abc")
    assert (bucket / "a").read_bytes() == b"abc"


async def test_a_host_name_means_the_bucket_s_own_host(
    open_bucket: Open, endpoint: str, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    known = socket.getaddrinfo

    def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
        name = "127.0.0.1" if host == "genes.wesemu.test" else host
        return known(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    client = open_bucket(endpoint=endpoint.replace("127.0.0.1", "wesemu.test"))
    await asyncio.to_thread(client.put_object, "gs/workflow", b"abc")
    assert (bucket / "gs" / "workflow").read_bytes() == b"abc"
