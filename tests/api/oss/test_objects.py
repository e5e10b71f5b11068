"""Objects: content, headers, conditions."""

import asyncio
import base64
import gzip
import hashlib
import re
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, web
from api.oss.fixtures import Client, oss_application, read, start_oss_server
from pytest_aiohttp import AiohttpClient
from structlog.testing import capture_logs

ABC = '"900150983CD24FB0D6963F7D28E17F72"'


async def test_an_object_comes_back_as_it_was_put(client: Client, bucket: Path) -> None:
    sent = {"Content-Type": "text/x-fastq", "Cache-Control": "no-cache", "x-oss-meta-Sample": "Ä"}
    put = await read(await client.put("/oss/genes/fastq/a.fq", data=b"abc", headers=sent))
    assert put.status == 200
    assert put.headers["ETag"] == ABC
    assert put.headers["x-oss-hash-crc64ecma"] == "3231342946509354535"
    assert re.fullmatch("[0-9A-F]{24}", put.headers["x-oss-request-id"])
    assert (bucket / "fastq" / "a.fq").read_bytes() == b"abc"
    for method in ("GET", "HEAD"):
        got = await read(await client.request(method, "/oss/genes/fastq/a.fq"))
        assert got.body == (b"abc" if method == "GET" else b"")
        assert got.headers["Content-Length"] == "3"
        assert got.headers["Content-Type"] == "text/x-fastq"
        assert got.headers["Cache-Control"] == "no-cache"
        assert got.headers["x-oss-meta-sample"] == "Ä"
        assert got.headers["ETag"] == ABC
        assert got.headers["x-oss-object-type"] == "Normal"
        assert got.headers["x-oss-request-id"]
        assert got.headers["Last-Modified"].endswith("GMT")


async def test_a_file_made_by_hand_is_an_object(client: Client, bucket: Path) -> None:
    (bucket / "a.vcf").write_bytes(b"abc")
    got = await read(await client.get("/oss/genes/a.vcf"))
    assert got.body == b"abc"
    assert got.headers["ETag"].endswith('-1"')
    assert "x-oss-hash-crc64ecma" not in got.headers


@pytest.mark.parametrize(
    ("wanted", "status", "body", "told"),
    [
        ("bytes=0-2", 206, b"012", "bytes 0-2/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-10", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=0-9", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 200, b"0123456789", None),
        ("bytes=3-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=\u0663-4", 200, b"0123456789", None),
    ],
)
async def test_a_range_is_answered_as_oss_does(
    client: Client, bucket: Path, wanted: str, status: int, body: bytes, told: str | None
) -> None:
    (bucket / "a").write_bytes(b"0123456789")
    got = await read(await client.get("/oss/genes/a", headers={"Range": wanted}))
    assert (got.status, got.body, got.headers.get("Content-Range")) == (status, body, told)
    if status == 200:
        strict = {"Range": wanted, "x-oss-range-behavior": "standard"}
        got = await read(await client.get("/oss/genes/a", headers=strict))
        assert (got.status, got.code) == (416, "InvalidRange")


@pytest.mark.parametrize(("wanted", "body"), [("bytes=8-99", b"89"), ("bytes=-30", b"0123456789")])
async def test_a_range_beyond_the_object_is_cut_only_if_the_client_says_so(
    client: Client, bucket: Path, wanted: str, body: bytes
) -> None:
    (bucket / "a").write_bytes(b"0123456789")
    whole = await read(await client.get("/oss/genes/a", headers={"Range": wanted}))
    assert (whole.status, whole.body) == (200, b"0123456789")
    strict = {"Range": wanted, "x-oss-range-behavior": "standard"}
    cut = await read(await client.get("/oss/genes/a", headers=strict))
    assert (cut.status, cut.body) == (206, body)


async def test_the_last_0_bytes_are_an_invalid_range(client: Client, bucket: Path) -> None:
    (bucket / "a").write_bytes(b"0123456789")
    got = await read(await client.get("/oss/genes/a", headers={"Range": "bytes=-0"}))
    assert (got.status, got.code) == (416, "InvalidRange")


async def test_a_download_of_another_version_is_not_continued(client: Client) -> None:
    await client.put("/oss/genes/a", data=b"abc")
    modified = (await client.head("/oss/genes/a")).headers["Last-Modified"]
    for condition, status in (
        (ABC, 206),
        (modified, 206),
        ('"another"', 200),
        (f"W/{ABC}", 200),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 200),
        ("no date", 200),
    ):
        headers = {"Range": "bytes=1-", "If-Range": condition}
        got = await read(await client.get("/oss/genes/a", headers=headers))
        assert (got.status, got.body) == (status, b"bc" if status == 206 else b"abc"), condition


async def test_the_md5_of_a_whole_object_comes_with_it(client: Client, bucket: Path) -> None:
    (bucket / "by-hand").write_bytes(b"abc")
    assert "Content-MD5" not in (await client.get("/oss/genes/by-hand")).headers
    for method, data in (("PUT", b"abc"), ("GET", None), ("HEAD", None)):
        got = await client.request(method, "/oss/genes/a", data=data)
        assert got.headers["Content-MD5"] == "kAFQmDzST7DWlj99KOF/cg=="
    part = await client.get("/oss/genes/a", headers={"Range": "bytes=1-"})
    assert "Content-MD5" not in part.headers
    await client.post("/oss/genes/log?append&position=0", data=b"abc")
    assert "Content-MD5" not in (await client.head("/oss/genes/log")).headers


async def test_an_empty_object_is_one(client: Client) -> None:
    put = await read(await client.put("/oss/genes/empty", data=b""))
    assert put.headers["x-oss-hash-crc64ecma"] == "0"
    got = await read(await client.get("/oss/genes/empty", headers={"Range": "bytes=0-"}))
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", "0")


async def test_conditions_hold_an_answer_back(client: Client) -> None:
    put = await read(await client.put("/oss/genes/a", data=b"abc"))
    got = await read(await client.get("/oss/genes/a"))
    modified = got.headers["Last-Modified"]
    for headers, status in (
        ({"If-Match": ABC}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-None-Match": put.headers["ETag"]}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
        ({"If-Unmodified-Since": modified}, 200),
        ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 412),
        ({"If-Modified-Since": "no date"}, 200),
        ({"If-Modified-Since": "Thu, 01 Jan 99999999999 00:00:00 GMT"}, 200),
        ({"If-Unmodified-Since": "Thu, 01 Jan 2026 00:00:00 +999999999999999"}, 200),
    ):
        got = await read(await client.get("/oss/genes/a", headers=headers))
        assert got.status == status, headers
        if status == 412:
            assert got.code == "PreconditionFailed"


async def test_a_query_may_ask_for_other_headers(client: Client) -> None:
    await client.put("/oss/genes/a", data=b"abc")
    got = await read(
        await client.get(
            "/oss/genes/a?response-content-type=text/plain&response-content-disposition=attachment"
        )
    )
    assert got.headers["Content-Type"] == "text/plain"
    assert got.headers["Content-Disposition"] == "attachment"
    evil = await read(await client.get("/oss/genes/a?response-content-type=a%0D%0Ab"))
    assert (evil.status, evil.code) == (400, "InvalidArgument")


async def test_an_object_cannot_act_as_a_page_of_this_server(client: Client) -> None:
    await client.put("/oss/genes/a.html", data=b"<script>", headers={"Content-Type": "text/html"})
    got = await read(await client.get("/oss/genes/a.html"))
    assert got.headers["Content-Security-Policy"] == "sandbox"
    assert got.headers["X-Content-Type-Options"] == "nosniff"


async def test_content_md5_is_checked(client: Client, bucket: Path) -> None:
    right = base64.b64encode(hashlib.md5(b"abc").digest()).decode()
    for md5, data, status in ((right, b"abc", 200), (right, b"abd", 400), ("x", b"abc", 400)):
        got = await read(
            await client.put(f"/oss/genes/{status}", data=data, headers={"Content-MD5": md5})
        )
        assert got.status == status
        if status == 400:
            assert got.code == "InvalidDigest"
    assert not (bucket / "400").exists()


async def test_a_length_is_needed(client: Client) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"PUT /oss/genes/b HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 411 " in head.splitlines()[0]
    writer.close()


async def test_a_body_without_a_known_length_is_taken(client: Client, bucket: Path) -> None:
    async def pieces() -> object:
        for _ in range(30):
            yield b"x" * 100_000

    got = await read(await client.put("/oss/genes/a", data=pieces()))
    assert got.status == 200
    assert (bucket / "a").read_bytes() == b"x" * 3_000_000
    assert got.headers["ETag"] == f'"{hashlib.md5(b"x" * 3_000_000).hexdigest().upper()}"'


async def test_an_upload_that_breaks_off_leaves_the_object_before(
    client: Client, bucket: Path
) -> None:
    await client.put("/oss/genes/a", data=b"before")
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"PUT /oss/genes/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
    await writer.drain()
    incoming = bucket / ".wesemu" / "incoming"
    while not await asyncio.to_thread(lambda: list(incoming.iterdir())):
        await asyncio.sleep(0.01)
    writer.close()
    while await asyncio.to_thread(lambda: list(incoming.iterdir())):
        await asyncio.sleep(0.01)
    assert (bucket / "a").read_bytes() == b"before"


async def test_an_upload_that_breaks_off_is_no_fault_of_the_server(root: Path) -> None:
    """aiohttp's own test server would cancel the handler, which `wesemu serve` does not."""
    app = await asyncio.to_thread(oss_application, root)
    runner = web.AppRunner(app)
    await runner.setup()
    with capture_logs() as logs:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"PUT /oss/genes/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
        await writer.drain()
        incoming = root / "genes" / ".wesemu" / "incoming"
        while not incoming.is_dir() or not list(incoming.iterdir()):
            await asyncio.sleep(0.01)
        writer.close()
        while list(incoming.iterdir()):
            await asyncio.sleep(0.01)
        await runner.cleanup()
    assert [log for log in logs if log["log_level"] == "error"] == []


async def test_a_file_that_is_truncated_while_it_is_sent_ends_the_connection(
    client: Client, bucket: Path
) -> None:
    """The rest cannot come: without the end, the client would wait for it."""
    with (bucket / "reads.fq").open("wb") as file:
        file.truncate(64 << 20)  # more than the sockets hold
    response = await client.get("/oss/genes/reads.fq")
    with (bucket / "reads.fq").open("r+b") as file:
        file.truncate(10)
    async with asyncio.timeout(30):
        with pytest.raises(ClientPayloadError):
            await response.read()


async def test_packed_bytes_are_kept_packed(client: Client, bucket: Path) -> None:
    data = gzip.compress(b"reads")
    got = await read(
        await client.put("/oss/genes/a", data=data, headers={"Content-Encoding": "gzip"})
    )
    assert got.status == 200
    assert (bucket / "a").read_bytes() == data
    head = await read(await client.head("/oss/genes/a"))
    assert head.headers["Content-Encoding"] == "gzip"


async def test_a_server_that_unpacks_says_so_and_keeps_nothing(
    aiohttp_client: AiohttpClient, root: Path
) -> None:
    client = await aiohttp_client(await start_oss_server(root, unpacking=True))
    got = await read(
        await client.put(
            "/oss/genes/a", data=gzip.compress(b"reads"), headers={"Content-Encoding": "gzip"}
        )
    )
    assert (got.status, got.code) == (501, "NotImplemented")
    assert not (root / "genes" / "a").exists()


async def test_one_request_brings_so_much_and_no_more(
    aiohttp_client: AiohttpClient, root: Path
) -> None:
    client = await aiohttp_client(await start_oss_server(root, limit=10))
    for data, status in ((b"x" * 10, 200), (b"x" * 11, 400)):
        got = await read(await client.put("/oss/genes/a", data=data))
        assert got.status == status
    assert got.code == "EntityTooLarge"


@pytest.mark.parametrize("key", ["a", "a/"])
async def test_overwriting_can_be_forbidden(client: Client, key: str) -> None:
    forbid = {"x-oss-forbid-overwrite": "true"}
    named = {"x-oss-meta-a": "first"}
    got = await read(await client.put(f"/oss/genes/{key}", headers=forbid | named))
    assert got.status == 200
    assert (await client.put("/oss/genes/empty")).status == 200
    copying = {"x-oss-copy-source": "/genes/empty"}
    itself = {"x-oss-copy-source": f"/genes/{key}", "x-oss-metadata-directive": "REPLACE"}
    for headers in ({}, copying, itself):
        got = await read(await client.put(f"/oss/genes/{key}", headers=forbid | headers))
        assert (got.status, got.code) == (409, "FileAlreadyExists")
    got = await read(await client.post(f"/oss/genes/{key}?uploads", headers=forbid))
    assert (got.status, got.code) == (409, "FileAlreadyExists")
    got = await read(await client.head(f"/oss/genes/{key}"))
    assert got.headers["x-oss-meta-a"] == "first"
    for headers in (copying, {"x-oss-forbid-overwrite": "false"}):
        assert (await client.put(f"/oss/genes/{key}", headers=headers)).status == 200


async def test_a_folder_that_is_no_object_is_not_overwritten(client: Client, bucket: Path) -> None:
    forbid = {"x-oss-forbid-overwrite": "true"}
    await client.put("/oss/genes/a/b", data=b"1")
    await client.put("/oss/genes/c/d", data=b"1")
    await client.delete("/oss/genes/c/d")
    assert (bucket / "c").is_dir()
    for key, status in (("a/", 200), ("a/", 409), ("c", 200), ("c", 409)):
        assert (await client.put(f"/oss/genes/{key}", headers=forbid)).status == status


async def test_deleting_twice_is_no_fault(client: Client) -> None:
    await client.put("/oss/genes/a", data=b"abc")
    for _ in range(2):
        assert (await client.delete("/oss/genes/a")).status == 204
    got = await read(await client.get("/oss/genes/a"))
    assert (got.status, got.code) == (404, "NoSuchKey")


async def test_a_head_tells_its_error_in_a_header(client: Client) -> None:
    got = await read(await client.head("/oss/genes/missing"))
    assert (got.status, got.body) == (404, b"")
    assert b"<Code>NoSuchKey</Code>" in base64.b64decode(got.headers["x-oss-err"])


async def test_a_copy_takes_bytes_and_metadata(client: Client, bucket: Path) -> None:
    await client.put("/oss/genes/a b+c", data=b"abc", headers={"x-oss-meta-sample": "A"})
    for source in ("/genes/a%20b%2Bc", "genes/a+b%2Bc"):
        got = await read(await client.put("/oss/genes/copy", headers={"x-oss-copy-source": source}))
        assert got.status == 200
        assert got.xml.findtext("ETag") == ABC
        assert (bucket / "copy").read_bytes() == b"abc"
        head = await client.head("/oss/genes/copy")
        assert head.headers["x-oss-meta-sample"] == "A"
        assert head.headers["x-oss-hash-crc64ecma"] == got.headers["x-oss-hash-crc64ecma"]


async def test_a_copy_onto_itself_changes_the_metadata(client: Client, bucket: Path) -> None:
    (bucket / "a").write_bytes(b"abc")
    before = await client.head("/oss/genes/a")
    headers = {
        "x-oss-copy-source": "/genes/a",
        "x-oss-metadata-directive": "REPLACE",
        "x-oss-meta-sample": "B",
    }
    assert (await client.put("/oss/genes/a", headers=headers)).status == 200
    after = await client.head("/oss/genes/a")
    assert after.headers["x-oss-meta-sample"] == "B"
    assert after.headers["ETag"] == before.headers["ETag"]
    assert after.headers["Last-Modified"] == before.headers["Last-Modified"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-oss-copy-source": "/genes/missing"}, 404, "NoSuchKey"),
        ({"x-oss-copy-source": "/missing/a"}, 404, "NoSuchBucket"),
        ({"x-oss-copy-source": "/genes/../secret"}, 400, "InvalidObjectName"),
        ({"x-oss-copy-source": "a"}, 400, "InvalidArgument"),
        (
            {"x-oss-copy-source": "/genes/a", "x-oss-copy-source-if-match": '"x"'},
            412,
            "PreconditionFailed",
        ),
        (
            {"x-oss-copy-source": "/genes/a", "x-oss-metadata-directive": "MERGE"},
            400,
            "InvalidArgument",
        ),
    ],
)
async def test_a_copy_that_cannot_be_is_refused(
    client: Client, headers: dict[str, str], status: int, code: str
) -> None:
    await client.put("/oss/genes/a", data=b"abc")
    got = await read(await client.put("/oss/genes/copy", headers=headers))
    assert (got.status, got.code) == (status, code)


async def test_appending_tells_where_to_go_on(client: Client, bucket: Path) -> None:
    first = await read(await client.post("/oss/genes/log?append&position=0", data=b"abc"))
    assert first.headers["x-oss-next-append-position"] == "3"
    second = await read(await client.post("/oss/genes/log?append&position=3", data=b"def"))
    assert second.headers["x-oss-next-append-position"] == "6"
    assert (bucket / "log").read_bytes() == b"abcdef"
    head = await client.head("/oss/genes/log")
    assert head.headers["x-oss-object-type"] == "Appendable"
    assert head.headers["x-oss-next-append-position"] == "6"
    wrong = await read(await client.post("/oss/genes/log?append&position=3", data=b"ghi"))
    assert (wrong.status, wrong.code) == (409, "PositionNotEqualToLength")
    assert wrong.headers["x-oss-next-append-position"] == "6"
    await client.put("/oss/genes/normal", data=b"abc")
    other = await read(await client.post("/oss/genes/normal?append&position=3", data=b"ghi"))
    assert (other.status, other.code) == (409, "ObjectNotAppendable")
    nowhere = await read(await client.post("/oss/genes/log?append", data=b"ghi"))
    assert (nowhere.status, nowhere.code) == (400, "MissingArgument")
    wrong = await read(await client.post("/oss/genes/log?append&position=x", data=b"ghi"))
    assert (wrong.status, wrong.code) == (400, "InvalidArgument")
    folder = await read(await client.post("/oss/genes/new/?append&position=0", data=b"ghi"))
    assert (folder.status, folder.code) == (409, "ObjectNotAppendable")
    assert not (bucket / "new").exists()


@pytest.mark.parametrize(
    "path",
    [
        "/oss/genes/..%2Fother%2Fa",
        "/oss/genes/%2Fetc%2Fpasswd",
        "/oss/genes//a",
        "/oss/genes/a/%2e%2e/%2e%2e/%2e%2e/secret",
        "/oss/genes/.wesemu/records/x",
        "/oss/genes/a%00b",
        "/oss/genes/%FF",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_no_key_leaves_its_bucket(client: Client, root: Path, method: str, path: str) -> None:
    (root.parent / "secret").write_bytes(b"secret")
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    writer.close()
    assert sorted(item.name for item in root.parent.rglob("*") if item.is_file()) == ["secret"]


async def test_what_is_not_emulated_is_refused_and_not_overlooked(
    client: Client, bucket: Path
) -> None:
    await client.put("/oss/genes/a", data=b"abc")
    for method, path in (
        ("PUT", "/oss/genes/a?tagging"),
        ("PUT", "/oss/genes/a?acl"),
        ("PUT", "/oss/genes/a?something-new"),
        ("GET", "/oss/genes/a?x-oss-process=image/resize"),
        ("GET", "/oss/genes/a?versionId=1"),
        ("DELETE", "/oss/genes/?lifecycle"),
        ("PUT", "/oss/genes/?website"),
        ("GET", "/oss/genes/?accessmonitor"),
        ("GET", "/oss/genes/a?legalHold"),
        ("POST", "/oss/genes/a?x-oss-dir"),
        ("POST", "/oss/genes/a?x-oss-delete&x-oss-delete-recursive=true"),
    ):
        got = await read(await client.request(method, path, data=b""))
        assert (got.status, got.code) == (501, "NotImplemented"), path
    callback = await read(
        await client.put("/oss/genes/b", data=b"", headers={"x-oss-callback": "x"})
    )
    assert callback.status == 501
    got = await read(await client.patch("/oss/genes/a"))
    assert (got.status, got.code) == (405, "MethodNotAllowed")
    assert (bucket / "a").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-oss-tagging": "a=1"}, 501),
        ({"x-oss-object-acl": "public-read"}, 501),
        ({"x-oss-object-worm-mode": "COMPLIANCE"}, 501),
        ({"x-oss-tagging-directive": "Replace", "x-oss-tagging": "a=1"}, 501),
        ({"x-oss-tagging-directive": "Other", "x-oss-copy-source": "/genes/a"}, 501),
        ({"x-oss-copy-source": "/genes/a", "x-oss-copy-source-version-id": "1"}, 501),
        ({"x-oss-copy-source": "/genes/a?versionId=1"}, 501),
        ({"x-oss-copy-source": "/genes/a?versionId=null"}, 200),
        ({"If-None-Match": "*"}, 501),
        ({"If-Modified-Since": "Sun, 01 Mar 2026 12:00:00 GMT"}, 501),
        ({"x-oss-server-side-encryption": "invalid"}, 400),
        ({"x-oss-server-side-encryption": "KMS"}, 200),
        ({"x-oss-tagging": ""}, 200),
        ({"x-oss-object-acl": "private"}, 200),
        ({"x-oss-object-acl": "default", "x-oss-storage-class": "IA"}, 200),
        ({"x-oss-tagging-directive": "Copy", "x-oss-copy-source": "/genes/a"}, 200),
        ({"x-oss-tagging-directive": "REPLACE", "x-oss-copy-source": "/genes/a"}, 200),
    ],
)
async def test_headers_that_would_change_a_write_are_refused_and_not_lost(
    client: Client, bucket: Path, headers: dict[str, str], status: int
) -> None:
    (bucket / "a").write_bytes(b"abc")
    got = await read(await client.put("/oss/genes/b", data=b"", headers=headers))
    assert got.status == status
    assert (bucket / "b").exists() == (status == 200)


async def test_parameters_without_effect_are_accepted(client: Client, bucket: Path) -> None:
    """Presigned URLs have them in the query."""
    url = "/oss/genes/a?x-oss-traffic-limit=819200&x-oss-request-payer=requester"
    assert (await client.put(url, data=b"abc")).status == 200
    assert (await read(await client.get(url))).body == b"abc"


async def test_the_version_null_is_the_object(client: Client) -> None:
    """So it is in a bucket that never had versions."""
    url = "/oss/genes/a?versionId=null"
    await client.put("/oss/genes/a", data=b"abc")
    assert (await read(await client.get(url))).body == b"abc"
    assert (await client.delete("/oss/genes/a?versionId=1")).status == 501
    assert (await client.delete(url)).status == 204
    assert (await client.head("/oss/genes/a")).status == 404


async def test_a_bucket_for_everybody_is_refused(client: Client) -> None:
    for url in ("/oss/new-bucket", "/oss/genes?acl"):
        for acl, status in (("public-read", 501), ("private", 200)):
            got = await read(await client.put(url, headers={"x-oss-acl": acl}))
            assert got.status == status
    assert (await client.put("/oss/missing?acl", headers={"x-oss-acl": "private"})).status == 404


async def test_an_object_for_everybody_is_refused(client: Client) -> None:
    await client.put("/oss/genes/a", data=b"abc")
    for acl, status in (("public-read", 501), ("private", 200), ("default", 200)):
        got = await read(await client.put("/oss/genes/a?acl", headers={"x-oss-object-acl": acl}))
        assert got.status == status
    missing = await client.put("/oss/genes/b?acl", headers={"x-oss-object-acl": "private"})
    assert missing.status == 404
    assert (await read(await client.get("/oss/genes/a"))).body == b"abc"


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/oss/genes/a", {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}),
        ("/genes/a", {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}),
        ("/genes/a", {"Authorization": "AWS AKIA:signature"}),
        ("/genes", {"x-amz-date": "20260301T120000Z"}),
        ("/?x-id=ListBuckets", {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
        ("/genes/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=x", {}),
        ("/genes/a?AWSAccessKeyId=x&Signature=y&Expires=1", {}),
    ],
)
async def test_an_s3_client_is_refused(
    client: Client, bucket: Path, method: str, path: str, headers: dict[str, str]
) -> None:
    got = await read(await client.request(method, path, headers=headers))
    assert got.status == 501
    assert method == "HEAD" or got.code == "NotImplemented"
    assert not (bucket / "a").exists()


async def test_a_link_that_leaves_the_bucket_is_not_followed(
    client: Client, bucket: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (bucket / "link").symlink_to(tmp_path / "secret")
    got = await read(await client.get("/oss/genes/link"))
    assert (got.status, got.code) == (400, "InvalidObjectName")


async def test_a_folder_that_cannot_be_read_is_denied(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wesemu.storage.objects import ObjectStore

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ObjectStore, "new_upload", denied)
    got = await read(await client.put("/oss/genes/a", data=b"abc"))
    assert (got.status, got.code) == (403, "AccessDenied")
    assert "Permission" not in got.body.decode()
