"""Buckets and their listings."""

import base64
import errno
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from api.oss.fixtures import Answer, Client, read
from structlog.testing import capture_logs

from wesemu.errors import DiskFull
from wesemu.storage.bucket_admin import BucketAdmin
from wesemu.storage.objects import ObjectStore


def texts(answer: Answer, path: str) -> list[str | None]:
    return [found.text for found in answer.xml.findall(path)]


def deletion(*keys: str, quiet: bool = False) -> tuple[bytes, dict[str, str]]:
    root = ET.Element("Delete")
    ET.SubElement(root, "Quiet").text = str(quiet).lower()
    for key in keys:
        ET.SubElement(ET.SubElement(root, "Object"), "Key").text = key
    body = ET.tostring(root)
    return body, {"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()}


async def test_buckets_are_made_described_and_removed(client: Client, root: Path) -> None:
    for _ in range(2):
        assert (await client.put("/oss/new-one")).status == 200
    assert (root / "new-one").is_dir()
    info = await read(await client.get("/oss/new-one?bucketInfo"))
    assert info.xml.findtext("Bucket/Name") == "new-one"
    assert info.xml.findtext("Bucket/AccessControlList/Grant") == "private"
    for feature in ("AccessMonitor", "CrossRegionReplication", "TransferAcceleration"):
        assert info.xml.findtext(f"Bucket/{feature}") == "Disabled"
    assert (await client.delete("/oss/new-one")).status == 204
    assert not (root / "new-one").exists()
    gone = await read(await client.get("/oss/new-one?bucketInfo"))
    assert (gone.status, gone.code) == (404, "NoSuchBucket")


async def test_a_data_directory_in_a_bucket_survives_its_removal(
    client: Client, bucket: Path
) -> None:
    for name in ("runs/a/request.json", "buckets/genes/a.fq"):
        (bucket / ".wesemu" / name).parent.mkdir(parents=True)
        (bucket / ".wesemu" / name).write_text("mine")
    got = await read(await client.delete("/oss/genes"))
    assert (got.status, got.code) == (409, "BucketNotEmpty")
    assert (bucket / ".wesemu/runs/a/request.json").is_file()


def test_only_unfinished_objects_are_swept(tmp_path: Path) -> None:
    genes, linked = tmp_path / "genes", tmp_path / "linked"
    incoming = genes / ".wesemu" / "incoming"
    elsewhere = tmp_path / "Elsewhere" / "incoming"
    for folder in (incoming, linked, elsewhere):
        folder.mkdir(parents=True)
    (linked / ".wesemu").symlink_to(elsewhere.parent)
    for path in (incoming / "tmpab_12cd3", incoming / "thesis.tex", elsewhere / "tmpab_12cd3"):
        path.write_text("")
    BucketAdmin(tmp_path, ObjectStore(tmp_path, None)).clean_up()
    assert [path.name for path in incoming.iterdir()] == ["thesis.tex"]
    assert (elsewhere / "tmpab_12cd3").is_file()


async def test_an_object_is_not_taken_for_a_new_bucket(client: Client, root: Path) -> None:
    """The Java SDK sends objects to `/<key>` if its endpoint counts as a CNAME."""
    for body, code in ((b"reads", "MalformedXML"), (b"<Delete/>", "MalformedXML")):
        got = await read(await client.put("/oss/reads.fq", data=body))
        assert (got.status, got.code) == (400, code)
        got = await read(await client.put("/oss/reads", data=body))
        assert (got.status, got.code) == (400, code)
    assert not (root / "reads").exists()
    body = b"<CreateBucketConfiguration><StorageClass>IA</StorageClass></CreateBucketConfiguration>"
    assert (await client.put("/oss/reads", data=body)).status == 200
    assert (await client.put("/oss/reads", data=_no_chunks())).status == 200


async def _no_chunks() -> AsyncIterator[bytes]:
    """The Go SDK 2 sends a chunked body without chunks where it has nothing to send."""
    return
    yield b""


async def test_a_bucket_with_objects_stays(client: Client, bucket: Path) -> None:
    (bucket / "a").write_bytes(b"abc")
    got = await read(await client.delete("/oss/genes"))
    assert (got.status, got.code) == (409, "BucketNotEmpty")
    assert (bucket / "a").exists()


@pytest.mark.parametrize("name", ["Genes", "ab", "a_b", "-ab", "a.b"])
async def test_names_that_no_bucket_can_have_are_refused(client: Client, name: str) -> None:
    for method in ("PUT", "GET", "DELETE"):
        got = await read(await client.request(method, f"/oss/{name}/"))
        assert (got.status, got.code) == (400, "InvalidBucketName")


async def test_a_name_that_a_file_has_is_taken(client: Client, root: Path) -> None:
    (root / "a-file").write_bytes(b"")
    got = await read(await client.put("/oss/a-file"))
    assert (got.status, got.code) == (409, "BucketAlreadyExists")


async def test_all_buckets_are_listed_page_by_page(client: Client, root: Path) -> None:
    for name in ("alpha", "beta-1", "beta-2", "beta-3"):
        (root / name).mkdir()
    got = await read(await client.get("/oss/?prefix=beta&max-keys=2"))
    assert texts(got, "Buckets/Bucket/Name") == ["beta-1", "beta-2"]
    assert got.xml.findtext("IsTruncated") == "true"
    marker = got.xml.findtext("NextMarker")
    got = await read(await client.get(f"/oss?prefix=beta&max-keys=2&marker={marker}"))
    assert texts(got, "Buckets/Bucket/Name") == ["beta-3"]
    assert got.xml.findtext("IsTruncated") == "false"


async def test_what_is_in_a_bucket_is_counted(client: Client, bucket: Path) -> None:
    (bucket / "x").mkdir()
    (bucket / "x" / "a").write_bytes(b"abc")
    await client.put("/oss/genes/b", data=b"de")
    await client.post("/oss/genes/c?uploads")
    got = await read(await client.get("/oss/genes?stat"))
    assert got.xml.findtext("Storage") == "5"
    assert got.xml.findtext("ObjectCount") == "2"
    assert got.xml.findtext("MultipartUploadCount") == "1"


async def test_the_small_questions_about_a_bucket(client: Client) -> None:
    location = await read(await client.get("/oss/genes?location"))
    assert location.xml.text == "oss-wesemu"
    acl = await read(await client.get("/oss/genes?acl"))
    assert acl.xml.findtext("AccessControlList/Grant") == "private"
    versioning = await read(await client.get("/oss/genes?versioning"))
    assert (versioning.xml.tag, len(versioning.xml)) == ("VersioningConfiguration", 0)
    head = await client.head("/oss/genes")
    assert (head.status, head.headers["x-oss-bucket-region"]) == (200, "oss-wesemu")
    assert (await client.head("/oss/missing")).status == 404
    for name in ("location", "acl", "versioning", "stat", "uploads"):
        missing = await read(await client.get(f"/oss/missing?{name}"))
        assert (missing.status, missing.code) == (404, "NoSuchBucket")


@pytest.fixture
def filled(bucket: Path) -> Path:
    for key in ("a b+c", "fastq/a_1.fq", "fastq/a_2.fq", "out/é.bam", "z"):
        (bucket / key).parent.mkdir(exist_ok=True)
        (bucket / key).write_bytes(b"abc")
    return bucket


async def test_version_1_lists_by_markers(client: Client, filled: Path) -> None:
    got = await read(await client.get("/oss/genes/?delimiter=/&max-keys=2"))
    assert texts(got, "Contents/Key") == ["a b+c"]
    assert texts(got, "CommonPrefixes/Prefix") == ["fastq/"]
    assert got.xml.findtext("NextMarker") == "fastq/"
    assert got.xml.findtext("Contents/Size") == "3"
    assert got.xml.findtext("Contents/Owner/ID") == "local"
    got = await read(await client.get("/oss/genes/?delimiter=/&max-keys=2&marker=fastq/"))
    assert texts(got, "CommonPrefixes/Prefix") == ["out/"]
    assert texts(got, "Contents/Key") == ["z"]
    assert got.xml.findtext("IsTruncated") == "false"
    assert got.xml.find("NextMarker") is None


async def test_version_2_lists_by_tokens(client: Client, filled: Path) -> None:
    url = "/oss/genes/?list-type=2&prefix=fastq/&max-keys=1"
    got = await read(await client.get(url))
    assert texts(got, "Contents/Key") == ["fastq/a_1.fq"]
    assert got.xml.findtext("KeyCount") == "1"
    assert got.xml.find("Contents/Owner") is None
    token = got.xml.findtext("NextContinuationToken")
    got = await read(await client.get(f"{url}&continuation-token={token}&fetch-owner=true"))
    assert texts(got, "Contents/Key") == ["fastq/a_2.fq"]
    assert texts(got, "Contents/Owner/ID") == ["local"]
    assert got.xml.findtext("IsTruncated") == "false"
    got = await read(await client.get("/oss/genes/?list-type=2&start-after=out/"))
    assert texts(got, "Contents/Key") == ["out/é.bam", "z"]


async def test_names_are_percent_encoded_when_asked_for(client: Client, filled: Path) -> None:
    got = await read(await client.get("/oss/genes/?encoding-type=url&delimiter=/"))
    assert got.xml.findtext("EncodingType") == "url"
    assert texts(got, "Contents/Key") == ["a%20b%2Bc", "z"]
    assert texts(got, "CommonPrefixes/Prefix") == ["fastq%2F", "out%2F"]
    got = await read(await client.get("/oss/genes/?encoding-type=url&prefix=out/"))
    assert texts(got, "Contents/Key") == ["out%2F%C3%A9.bam"]


async def test_documents_have_no_namespace(client: Client, filled: Path) -> None:
    for path in ("/oss", "/oss/genes", "/oss/genes?bucketInfo", "/oss/missing"):
        got = await read(await client.get(path))
        assert b"xmlns" not in got.body
        assert got.headers["Content-Type"] == "application/xml"


@pytest.mark.parametrize(
    "query",
    [
        "max-keys=0",
        "max-keys=1001",
        "max-keys=x",
        "encoding-type=base64",
        "list-type=2&continuation-token=%21",
    ],
)
async def test_parameters_that_cannot_be_are_refused(client: Client, query: str) -> None:
    got = await read(await client.get(f"/oss/genes/?{query}"))
    assert (got.status, got.code) == (400, "InvalidArgument")


async def test_many_objects_are_deleted_at_once(client: Client, filled: Path) -> None:
    body, headers = deletion("z", "missing", "fastq", "out/é.bam")
    url = "/oss/genes/?delete&encoding-type=url"
    got = await read(await client.post(url, data=body, headers=headers))
    assert texts(got, "Deleted/Key") == ["z", "missing", "fastq", "out%2F%C3%A9.bam"]
    assert texts(got, "Error/Key") == []
    assert not (filled / "z").exists()
    body, headers = deletion("a b+c", "missing", quiet=True)
    got = await read(await client.post("/oss/genes/?delete", data=body, headers=headers))
    assert (got.status, got.body) == (200, b"")
    assert sorted(p.name for p in filled.rglob("*") if p.is_file()) == ["a_1.fq", "a_2.fq"]


@pytest.mark.parametrize("quiet", [False, True])
async def test_keys_that_are_refused_are_not_called_deleted(
    client: Client, filled: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    (filled.parent / "secret").write_text("kept")
    (filled / "link").symlink_to(filled.parent)
    (filled / "locked").mkdir()
    remove = ObjectStore.remove

    def denied(store: ObjectStore, bucket: str, key: str) -> None:
        if key == "out/x":
            raise PermissionError(errno.EACCES, "not yours")
        remove(store, bucket, key)

    def locked(_: Path) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(ObjectStore, "remove", denied)
    monkeypatch.setattr(Path, "rmdir", locked)
    body, headers = deletion(
        "../secret", "z", "link/secret", ".wesemu/objects", "out/x", "locked/", "a b+c",
        quiet=quiet,
    )  # fmt: skip
    url = "/oss/genes/?delete&encoding-type=url"
    got = await read(await client.post(url, data=body, headers=headers))
    assert got.status == 200
    assert texts(got, "Deleted/Key") == ([] if quiet else ["z", "a%20b%2Bc"])
    assert dict(zip(texts(got, "Error/Key"), texts(got, "Error/Code"), strict=True)) == {
        "..%2Fsecret": "InvalidObjectName",
        "link%2Fsecret": "InvalidObjectName",
        ".wesemu%2Fobjects": "InvalidObjectName",
        "out%2Fx": "AccessDenied",
        "locked%2F": "AccessDenied",
    }
    messages = texts(got, "Error/Message")
    assert (len(messages), all(messages)) == (5, True)
    assert (filled.parent / "secret").read_text() == "kept"
    assert not (filled / "z").exists()


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "the disk is broken"), DiskFull("no room")])
async def test_a_deletion_that_the_disk_fails_is_an_error(
    client: Client, filled: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(ObjectStore, "remove", broken)
    body, headers = deletion("z")
    with capture_logs():
        got = await read(await client.post("/oss/genes/?delete", data=body, headers=headers))
    assert (got.status, got.code) == (500, "InternalError")
    assert (filled / "z").exists()


async def test_versions_are_not_deleted_as_if_they_were_the_object(
    client: Client, filled: Path
) -> None:
    for version, status in (("CAEQExiBgID", 501), ("null", 200)):
        document = f"<Delete><Object><Key>z</Key><VersionId>{version}</VersionId></Object></Delete>"
        body = document.encode()
        headers = {"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()}
        got = await client.post("/oss/genes/?delete", data=body, headers=headers)
        assert got.status == status
        assert (filled / "z").exists() == (status == 501)


async def test_a_deletion_has_to_be_sent_as_documented(client: Client, filled: Path) -> None:
    def signed(body: bytes) -> dict[str, str]:
        return {"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()}

    good, _ = deletion("z")
    for body, headers, code in (
        (good, {}, "MissingArgument"),
        (good, signed(b"other"), "InvalidDigest"),
        (b"<Delete>", signed(b"<Delete>"), "MalformedXML"),
        (b"<Other/>", signed(b"<Other/>"), "MalformedXML"),
        (b"<Delete></Delete>", signed(b"<Delete></Delete>"), "MalformedXML"),
        (b"<!DOCTYPE Delete>" + good, signed(b"<!DOCTYPE Delete>" + good), "MalformedXML"),
        (b"\xff\xfe", signed(b"\xff\xfe"), "MalformedXML"),
    ):
        got = await read(await client.post("/oss/genes/?delete", data=body, headers=headers))
        assert (got.status, got.code) == (400, code)
    assert (filled / "z").exists()
