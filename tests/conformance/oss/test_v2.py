"""alibabacloud-oss-v2, the newer official SDK, with both of its signatures."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from api.oss.fixtures import KEY_ID, SECRET
from conformance.oss.conftest import collect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

Open = Callable[..., Any]
VERSIONS = ["v4", "v1"]


@pytest.fixture
def open_client(endpoint: str) -> Iterator[Open]:
    """CRC-64 is checked by default, both ways."""

    def open_client(version: str = "v4", secret: str = SECRET) -> Any:
        import alibabacloud_oss_v2 as oss

        config = oss.config.load_default()
        config.credentials_provider = oss.credentials.StaticCredentialsProvider(KEY_ID, secret)
        config.region = "cn-shenzhen"
        config.endpoint = endpoint
        config.signature_version = version
        config.retry_max_attempts = 1
        return oss.Client(config)

    yield open_client
    collect()


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_object_s_life(open_client: Open, bucket: Path, version: str) -> None:
    import alibabacloud_oss_v2 as oss

    client = open_client(version)
    key = "fastq/ü a+b~c_1.fq.gz"
    named = {"bucket": "genes", "key": key}

    def live() -> None:
        put = client.put_object(
            oss.PutObjectRequest(**named, body=b"@reads", metadata={"sample": "A 1"})
        )
        assert put.hash_crc64
        with client.get_object(oss.GetObjectRequest(**named)).body as body:
            assert body.content == b"@reads"
        part = client.get_object(oss.GetObjectRequest(**named, range_header="bytes=1-3"))
        with part.body as body:
            assert body.content == b"rea"
        head = client.head_object(oss.HeadObjectRequest(**named))
        assert (head.etag, head.content_length) == (put.etag, 6)
        assert head.metadata == {"sample": "A 1"}
        assert client.get_object_meta(oss.GetObjectMetaRequest(**named)).content_length == 6
        copied = client.copy_object(
            oss.CopyObjectRequest(bucket="genes", key="fastq/copy", source_key=key)
        )
        assert copied.etag == put.etag
        assert client.is_object_exist("genes", key)
        client.delete_object(oss.DeleteObjectRequest(**named))
        assert not client.is_object_exist("genes", key)

    await asyncio.to_thread(live)
    assert (bucket / "fastq" / "copy").read_bytes() == b"@reads"


@pytest.mark.parametrize("version", VERSIONS)
async def test_presigned_requests_need_no_key(
    open_client: Open, bucket: Path, version: str
) -> None:
    import alibabacloud_oss_v2 as oss
    import requests

    client = open_client(version)

    def use() -> None:
        with requests.Session() as session:
            put = client.presign(oss.PutObjectRequest(bucket="genes", key="a b.fq"))
            sent = session.request(put.method, put.url, headers=put.signed_headers, data=b"@reads")
            assert sent.status_code == 200
            get = client.presign(oss.GetObjectRequest(bucket="genes", key="a b.fq"))
            assert session.get(get.url).content == b"@reads"
            assert session.get(get.url.replace("a%20b", "a")).status_code == 403

    await asyncio.to_thread(use)
    assert (bucket / "a b.fq").read_bytes() == b"@reads"


@pytest.mark.parametrize("version", VERSIONS)
async def test_files_go_up_and_down_in_parts(
    open_client: Open, bucket: Path, reads: Path, tmp_path: Path, version: str
) -> None:
    import alibabacloud_oss_v2 as oss

    client = open_client(version)

    def transfer() -> None:
        up = client.uploader(part_size=200 << 10, parallel_num=2)
        sent = up.upload_file(oss.PutObjectRequest(bucket="genes", key="a.fq"), str(reads))
        assert sent.etag.endswith('-15"')
        copier = oss.Copier(client, part_size=1 << 20, multipart_copy_threshold=1)
        copier.copy(
            oss.CopyObjectRequest(
                bucket="genes", key="b.fq", source_bucket="genes", source_key="a.fq"
            )
        )
        down = client.downloader(part_size=300 << 10, parallel_num=2)
        down.download_file(oss.GetObjectRequest(bucket="genes", key="b.fq"), str(tmp_path / "down"))

    await asyncio.to_thread(transfer)
    assert (bucket / "a.fq").read_bytes() == reads.read_bytes()
    assert (tmp_path / "down").read_bytes() == reads.read_bytes()


async def test_uploads_are_listed_and_aborted(open_client: Open) -> None:
    import alibabacloud_oss_v2 as oss

    client = open_client()
    named = {"bucket": "genes", "key": "a+b c.bam"}

    def look() -> None:
        begun = client.initiate_multipart_upload(oss.InitiateMultipartUploadRequest(**named))
        assert begun.key == "a+b c.bam"
        of_upload = {**named, "upload_id": begun.upload_id}
        client.upload_part(oss.UploadPartRequest(**of_upload, part_number=3, body=b"abc"))
        parts = client.list_parts(oss.ListPartsRequest(**of_upload))
        assert [(part.part_number, part.size) for part in parts.parts] == [(3, 3)]
        uploads = client.list_multipart_uploads(oss.ListMultipartUploadsRequest(bucket="genes"))
        assert [upload.key for upload in uploads.uploads] == ["a+b c.bam"]
        client.abort_multipart_upload(oss.AbortMultipartUploadRequest(**of_upload))
        uploads = client.list_multipart_uploads(oss.ListMultipartUploadsRequest(bucket="genes"))
        assert not uploads.uploads

    await asyncio.to_thread(look)


async def test_appending(open_client: Open, bucket: Path) -> None:
    import alibabacloud_oss_v2 as oss

    client = open_client()

    def append() -> None:
        position = 0
        for piece in (b"abc", b"def"):
            position = client.append_object(
                oss.AppendObjectRequest(bucket="genes", key="log", position=position, body=piece)
            ).next_position
        assert position == 6
        with client.append_file(bucket="genes", key="log") as file:
            file.write(b"ghi")

    await asyncio.to_thread(append)
    assert (bucket / "log").read_bytes() == b"abcdefghi"


@pytest.mark.parametrize("version", VERSIONS)
async def test_listings_are_paged(open_client: Open, version: str) -> None:
    import alibabacloud_oss_v2 as oss

    client = open_client(version)

    def page() -> None:
        keys = ["a+b c.bam", "out/x", "out/é/1", "z"]
        for key in keys:
            client.put_object(oss.PutObjectRequest(bucket="genes", key=key, body=b""))
        first = [
            found.key
            for part in client.list_objects_paginator(limit=1).iter_page(
                oss.ListObjectsRequest(bucket="genes")
            )
            for found in part.contents
        ]
        second = [
            found.key
            for part in client.list_objects_v2_paginator(limit=2).iter_page(
                oss.ListObjectsV2Request(bucket="genes")
            )
            for found in part.contents
        ]
        assert first == second == keys
        folders = client.list_objects_v2(
            oss.ListObjectsV2Request(bucket="genes", prefix="out/", delimiter="/")
        )
        assert [found.prefix for found in folders.common_prefixes] == ["out/é/"]
        deleted = client.delete_multiple_objects(
            oss.DeleteMultipleObjectsRequest(
                bucket="genes",
                encoding_type="url",
                objects=[oss.DeleteObject(key=key) for key in keys],
            )
        )
        assert [found.key for found in deleted.deleted_objects] == keys

    await asyncio.to_thread(page)


@pytest.mark.parametrize("quiet", [False, True])
async def test_a_key_that_is_refused_is_not_among_the_deleted(
    open_client: Open, bucket: Path, quiet: bool
) -> None:
    import alibabacloud_oss_v2 as oss

    client = open_client("v4")

    def delete(*keys: str) -> list[str]:
        told = client.delete_multiple_objects(
            oss.DeleteMultipleObjectsRequest(
                bucket="genes",
                encoding_type="url",
                objects=[oss.DeleteObject(key=key) for key in keys],
                quiet=quiet,
            )
        )
        assert told.status_code == 200
        return [found.key for found in told.deleted_objects or []]

    for name in ("a+b c.bam", "z"):
        (bucket / name).write_text("abc")
    (bucket.parent / "secret").write_text("kept")
    deleted = await asyncio.to_thread(delete, "../secret", "a+b c.bam", "missing")
    assert deleted == ([] if quiet else ["a+b c.bam", "missing"])
    assert await asyncio.to_thread(delete, "../secret") == []
    assert await asyncio.to_thread(delete, "z") == ([] if quiet else ["z"])
    assert (bucket.parent / "secret").read_text() == "kept"
    assert not [name for name in ("a+b c.bam", "z") if (bucket / name).exists()]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_bucket_s_life(open_client: Open, version: str) -> None:
    import alibabacloud_oss_v2 as oss

    client = open_client(version)

    def live() -> None:
        client.put_bucket(oss.PutBucketRequest(bucket="new-one"))
        assert client.is_bucket_exist("new-one")
        assert not client.is_bucket_exist("missing")
        info = client.get_bucket_info(oss.GetBucketInfoRequest(bucket="new-one"))
        assert info.bucket_info.name == "new-one"
        stat = client.get_bucket_stat(oss.GetBucketStatRequest(bucket="new-one"))
        assert (stat.object_count, stat.storage) == (0, 0)
        location = client.get_bucket_location(oss.GetBucketLocationRequest(bucket="new-one"))
        assert location.location == "oss-wesemu"
        found = client.list_buckets(oss.ListBucketsRequest())
        assert [bucket.name for bucket in found.buckets] == ["genes", "new-one"]
        client.delete_bucket(oss.DeleteBucketRequest(bucket="new-one"))
        assert not client.is_bucket_exist("new-one")

    await asyncio.to_thread(live)


async def test_errors_carry_the_documented_codes(open_client: Open) -> None:
    import alibabacloud_oss_v2 as oss

    def code_of(call: Callable[[], object]) -> tuple[int, str]:
        with pytest.raises(oss.exceptions.OperationError) as failed:
            call()
        error = failed.value.unwrap()
        assert error.request_id
        return error.status_code, error.code

    def fail() -> None:
        client = open_client()
        missing = {"bucket": "genes", "key": "missing"}
        assert code_of(lambda: client.get_object(oss.GetObjectRequest(**missing))) == (
            404,
            "NoSuchKey",
        )
        assert code_of(lambda: client.head_object(oss.HeadObjectRequest(**missing))) == (
            404,
            "NoSuchKey",
        )
        assert code_of(
            lambda: client.put_object(oss.PutObjectRequest(bucket="missing", key="a", body=b""))
        ) == (404, "NoSuchBucket")
        for version in VERSIONS:
            other = open_client(version, "another secret")
            request = partial(other.list_buckets, oss.ListBucketsRequest())
            assert code_of(request) == (403, "SignatureDoesNotMatch")

    await asyncio.to_thread(fail)
