"""Multipart uploads over HTTP."""

import base64
from pathlib import Path

import pytest
from api.oss.fixtures import Client, read

BIG = b"0123456789" * 10_240


async def begin(client: Client, key: str = "a.bam", **headers: str) -> str:
    got = await read(await client.post(f"/oss/genes/{key}?uploads", headers=headers))
    assert got.status == 200
    return str(got.xml.findtext("UploadId"))


async def put(client: Client, upload: str, number: int, data: bytes) -> str:
    url = f"/oss/genes/a.bam?partNumber={number}&uploadId={upload}"
    got = await read(await client.put(url, data=data))
    assert got.status == 200
    md5 = base64.b64decode(got.headers["Content-MD5"])
    assert got.headers["ETag"] == f'"{md5.hex().upper()}"'
    return got.headers["ETag"]


def naming(*parts: tuple[int, str]) -> bytes:
    named = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in parts
    )
    return f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()


async def test_parts_become_an_object(client: Client, bucket: Path) -> None:
    upload = await begin(client, **{"x-oss-meta-sample": "A"})
    tail = await put(client, upload, 2, b"tail")
    head = await put(client, upload, 1, BIG)
    url = f"/oss/genes/a.bam?uploadId={upload}"
    got = await read(await client.post(url, data=naming((1, head), (2, tail))))
    assert got.status == 200
    etag = got.headers["ETag"]
    assert etag.endswith('-2"')
    assert got.xml.findtext("ETag") == etag
    assert got.xml.findtext("Key") == "a.bam"
    assert (bucket / "a.bam").read_bytes() == BIG + b"tail"
    head_of = await client.head("/oss/genes/a.bam")
    assert head_of.headers["ETag"] == etag
    assert head_of.headers["x-oss-object-type"] == "Multipart"
    assert head_of.headers["x-oss-meta-sample"] == "A"
    again = await read(await client.post(url, data=naming((1, head), (2, tail))))
    assert again.headers["ETag"] == etag


async def test_all_parts_can_be_taken_without_naming_them(client: Client, bucket: Path) -> None:
    upload = await begin(client)
    await put(client, upload, 1, b"abc")
    url = f"/oss/genes/a.bam?uploadId={upload}"
    everything = {"x-oss-complete-all": "yes"}
    both = await read(await client.post(url, headers=everything, data=naming((1, "x"))))
    assert (both.status, both.code) == (400, "InvalidArgument")
    got = await client.post(url, headers=everything)
    assert got.status == 200
    assert (bucket / "a.bam").read_bytes() == b"abc"


async def test_an_interrupted_upload_can_be_looked_through(client: Client) -> None:
    upload = await begin(client)
    for number in (1, 2, 3):
        await put(client, upload, number, b"x" * number)
    url = f"/oss/genes/a.bam?uploadId={upload}"
    got = await read(await client.get(f"{url}&max-parts=2"))
    assert [part.findtext("PartNumber") for part in got.xml.iter("Part")] == ["1", "2"]
    assert [part.findtext("Size") for part in got.xml.iter("Part")] == ["1", "2"]
    assert got.xml.findtext("StorageClass") == "Standard"
    assert got.xml.findtext("IsTruncated") == "true"
    marker = got.xml.findtext("NextPartNumberMarker")
    got = await read(await client.get(f"{url}&part-number-marker={marker}"))
    assert [part.findtext("PartNumber") for part in got.xml.iter("Part")] == ["3"]
    assert got.xml.findtext("IsTruncated") == "false"


async def test_unfinished_uploads_are_listed(client: Client) -> None:
    for key in ("b/1", "a", "b/2", "c", "a"):
        await begin(client, key)
    got = await read(await client.get("/oss/genes/?uploads&delimiter=/"))
    assert [found.findtext("Key") for found in got.xml.iter("Upload")] == ["a", "a", "c"]
    assert [found.findtext("Prefix") for found in got.xml.iter("CommonPrefixes")] == ["b/"]
    got = await read(await client.get("/oss/genes/?uploads&max-uploads=1"))
    assert got.xml.findtext("IsTruncated") == "true"
    key, upload = got.xml.findtext("NextKeyMarker"), got.xml.findtext("NextUploadIdMarker")
    url = f"/oss/genes/?uploads&key-marker={key}&upload-id-marker={upload}"
    got = await read(await client.get(url))
    found = [upload.findtext("Key") for upload in got.xml.iter("Upload")]
    assert found == ["a", "b/1", "b/2", "c"]
    assert (got.xml.findtext("IsTruncated"), got.xml.findtext("NextKeyMarker")) == ("false", "c")
    got = await read(await client.get("/oss/genes/?uploads&key-marker=a&prefix=b"))
    assert [upload.findtext("Key") for upload in got.xml.iter("Upload")] == ["b/1", "b/2"]


async def test_pages_of_uploads_have_each_prefix_once(client: Client) -> None:
    for key in ("b/1", "a", "b/2", "c/1", "d"):
        await begin(client, key)
    query = {"uploads": "", "delimiter": "/", "max-uploads": "1"}
    found: list[str | None] = []
    while query:
        got = await read(await client.get("/oss/genes/", params=query))
        found += [each.findtext("Key") for each in got.xml.iter("Upload")]
        found += [each.findtext("Prefix") for each in got.xml.iter("CommonPrefixes")]
        query["key-marker"] = got.xml.findtext("NextKeyMarker")
        query["upload-id-marker"] = got.xml.findtext("NextUploadIdMarker")
        if got.xml.findtext("IsTruncated") == "false":
            query = {}
    assert found == ["a", "b/", "c/", "d"]


async def test_a_part_can_be_copied_from_an_object(client: Client, bucket: Path) -> None:
    (bucket / "source").write_bytes(b"0123456789")
    upload = await begin(client)
    url = f"/oss/genes/a.bam?partNumber=1&uploadId={upload}"
    headers = {"x-oss-copy-source": "/genes/source", "x-oss-copy-source-range": "bytes=2-4"}
    got = await read(await client.put(url, headers=headers))
    assert got.xml.findtext("ETag") == got.headers["ETag"]
    await client.post(f"/oss/genes/a.bam?uploadId={upload}", data=naming((1, got.headers["ETag"])))
    assert (bucket / "a.bam").read_bytes() == b"234"
    for wrong in ("bytes=2-10", "bytes=-4", "bytes=4-2", "2-4", f"bytes=2-{'9' * 5000}"):
        upload = await begin(client)
        got = await read(
            await client.put(
                f"/oss/genes/a.bam?partNumber=1&uploadId={upload}",
                headers=headers | {"x-oss-copy-source-range": wrong},
            )
        )
        assert (got.status, got.code) == (400, "InvalidArgument")


async def test_an_upload_of_no_parts_is_an_empty_object(client: Client, bucket: Path) -> None:
    """`uploadFile` of the Java SDK sends an empty file so."""
    upload = await begin(client)
    done = await read(await client.post(f"/oss/genes/a.bam?uploadId={upload}", data=naming()))
    assert (done.status, done.xml.findtext("Key")) == (200, "a.bam")
    assert (bucket / "a.bam").read_bytes() == b""


async def test_a_condition_does_not_keep_an_upload_from_beginning(client: Client) -> None:
    """The cloud refuses conditions of PutObject only."""
    assert await begin(client, **{"If-Modified-Since": "Sun, 01 Mar 2026 12:00:00 GMT"})


async def test_the_location_of_a_new_object_is_a_url(client: Client) -> None:
    upload = await begin(client, "out/a%20b+%C3%BC.bam")
    url = f"/oss/genes/out/a%20b+%C3%BC.bam?uploadId={upload}"
    wrong = await read(await client.post(f"{url}&encoding-type=x", data=naming()))
    assert (wrong.status, wrong.code) == (400, "InvalidArgument")
    done = await read(await client.post(url, data=naming()))
    location = done.xml.findtext("Location")
    assert location == f"http://127.0.0.1:{client.port}/genes/out/a%20b%2B%C3%BC.bam"


async def test_an_aborted_upload_is_gone(client: Client) -> None:
    upload = await begin(client)
    url = f"/oss/genes/a.bam?uploadId={upload}"
    assert (await client.delete(url)).status == 204
    for method in ("GET", "DELETE"):
        got = await read(await client.request(method, url))
        assert (got.status, got.code) == (404, "NoSuchUpload")
    got = await read(await client.put(f"{url}&partNumber=1", data=b"abc"))
    assert (got.status, got.code) == (404, "NoSuchUpload")
    got = await read(await client.post(url, data=naming((1, "x"))))
    assert (got.status, got.code) == (404, "NoSuchUpload")


async def test_parts_that_do_not_fit_are_refused(client: Client, bucket: Path) -> None:
    upload = await begin(client)
    one = await put(client, upload, 1, b"abc")
    two = await put(client, upload, 2, b"def")
    for body, code in (
        (naming((1, one), (2, one)), "InvalidPart"),
        (naming((1, one), (3, two)), "InvalidPart"),
        (naming((2, two), (1, one)), "InvalidPartOrder"),
        (naming((1, one), (1, one)), "InvalidPartOrder"),
        (naming((1, one), (2, two)), "EntityTooSmall"),
        (naming((1, one)).replace(b">1<", b">" + b" " * 30 + b"7<"), "InvalidPart"),
        (naming((1, one)).replace(b">1<", b">" + b"9" * 5000 + b"<"), "MalformedXML"),
        (b"<CompleteMultipartUpload/>", "InvalidPart"),
        (naming().replace(b"></", b"><Part></Part></"), "MalformedXML"),
        (b"not XML", "MalformedXML"),
    ):
        got = await read(await client.post(f"/oss/genes/a.bam?uploadId={upload}", data=body))
        assert (got.status, got.code) == (400, code)
    assert not (bucket / "a.bam").exists()


@pytest.mark.parametrize("number", ["0", "10001", "x", "-1", ""])
async def test_part_numbers_are_from_1_to_10000(client: Client, number: str) -> None:
    upload = await begin(client)
    got = await read(
        await client.put(f"/oss/genes/a.bam?partNumber={number}&uploadId={upload}", data=b"")
    )
    assert (got.status, got.code) == (400, "InvalidArgument")


async def test_a_completed_upload_may_not_overwrite_if_so_wished(
    client: Client, bucket: Path
) -> None:
    upload = await begin(client)
    (bucket / "a.bam").write_bytes(b"before")
    etag = await put(client, upload, 1, b"abc")
    got = await read(
        await client.post(
            f"/oss/genes/a.bam?uploadId={upload}",
            data=naming((1, etag)),
            headers={"x-oss-forbid-overwrite": "true"},
        )
    )
    assert (got.status, got.code) == (409, "FileAlreadyExists")
    assert (bucket / "a.bam").read_bytes() == b"before"
