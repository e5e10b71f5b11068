"""Object data in requests and responses: conditions and ranges (RFC 9110, sections 13 and 14), copy
sources, headers and bodies, and the XML documents that clients send."""

import asyncio
import base64
import binascii
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from wesemu.api.base import parse_time, truncated
from wesemu.api.oss.request import OssRequest
from wesemu.api.oss.responses import OssRefused, not_implemented
from wesemu.errors import DigestMismatch, InvalidRequest
from wesemu.storage.object_records import ObjectInfo, ObjectRecord
from wesemu.storage.objects import ObjectStore, open_object
from wesemu.storage.upload_file import Digests, UploadFile
from wesemu.util.block_writer import write_blocks
from wesemu.util.text import whole_number

# Conditions and ranges

COPY = "x-oss-copy-source-"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_NO_BYTES = re.compile(r"bytes=-0+")


def check_conditions(headers: Mapping[str, str], info: ObjectInfo, *, prefix: str = "") -> None:
    """Check `If-…` headers; with `prefix=COPY`, those of a copy's source (CopyObject). Raises
    OssRefused: 304 if the client has this version already, 412 if the object has changed."""
    match = headers.get(f"{prefix}If-Match")
    # RFC 9110, section 13.2.2: an ETag condition replaces the date condition
    if match is not None and not _matches(match, info):
        raise _precondition_failed("If-Match")
    since = _parse_date(headers.get(f"{prefix}If-Unmodified-Since"))
    if match is None and since is not None and info.modified.replace(microsecond=0) > since:
        raise _precondition_failed("If-Unmodified-Since")
    unmatched = headers.get(f"{prefix}If-None-Match")
    since = _parse_date(headers.get(f"{prefix}If-Modified-Since"))
    if unmatched is not None:
        same = _matches(unmatched, info)
    else:
        same = since is not None and info.modified.replace(microsecond=0) <= since
    if same:
        raise OssRefused(304, "NotModified", "Not Modified", headers={"ETag": f'"{info.etag}"'})


def requested_range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """Return offset and length in bytes, or None for the whole object.

    A range that is invalid or ends beyond the object means the whole object, as in OSS. With
    `x-oss-range-behavior: standard`, the rules are those of HTTP: the end is cut, and an invalid
    range raises OssRefused (416), as the last 0 bytes (`bytes=-0`) always do.
    """
    sent = headers.get("Range")
    if sent is None:
        return None
    standard = headers.get("x-oss-range-behavior", "").lower() == "standard"
    match = _RANGE.fullmatch(sent.strip())
    span = match and _span(match[1], match[2], size)
    if match and span and (standard or _is_within(match[1], match[2], size)):
        return span
    if not standard and not _NO_BYTES.fullmatch(sent.strip()):
        return None
    raise OssRefused(
        416,
        "InvalidRange",
        "The requested range cannot be satisfied",
        details={"ActualObjectSize": str(size), "RangeHeader": sent[:200]},
        headers={"Content-Range": f"bytes */{size}"},
    )


def range_applies(headers: Mapping[str, str], info: ObjectInfo) -> bool:
    """Return whether If-Range, if it was sent, names this version (RFC 9110, section 13.1.5).

    If it does not, a client that continues a download would mix two versions.
    """
    condition = headers.get("If-Range", "").strip()
    if not condition or condition.startswith(('"', "W/")):
        return condition in ("", f'"{info.etag}"')
    return _parse_date(condition) == info.modified.replace(microsecond=0)


def copied_range(sent: str, size: int) -> tuple[int, int]:
    """Return the range of UploadPartCopy, which must lie in the source. Raises OssRefused."""
    match = _RANGE.fullmatch(sent.strip())
    span = match and match[1] and _span(match[1], match[2], size)
    if not match or not span or not _is_within(match[1], match[2], size):
        raise OssRefused(
            400,
            "InvalidArgument",
            f"x-oss-copy-source-range {sent[:80]!r} is not a range within {size} bytes",
        )
    return span


def _span(first: str, last: str, size: int) -> tuple[int, int] | None:
    if first:
        begin = int(first[:20])
        end = min(int(last[:20]), size - 1) if last else size - 1
    elif last and int(last[:20]):
        begin, end = max(size - int(last[:20]), 0), size - 1
    else:
        return None
    return (begin, end - begin + 1) if begin <= end < size else None


def _is_within(first: str, last: str, size: int) -> bool:
    """Return whether the range asks for no byte beyond the object."""
    return not last or int(last[:20]) <= (size - 1 if first else size)


def _matches(tags: str, info: ObjectInfo) -> bool:
    return tags.strip() == "*" or info.etag in [tag.strip().strip('"') for tag in tags.split(",")]


def _parse_date(text: str | None) -> datetime | None:
    try:
        return parse_time(text or "")
    except ValueError:
        return None


def _precondition_failed(name: str) -> OssRefused:
    return OssRefused(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold.",
        details={"Condition": name},
    )


# Copy sources (`x-oss-copy-source`)

SOURCE = f"{COPY[:-1]}"
UNVERSIONED = "null"
"""The version id of an object in a bucket without versions."""

_STEP = 16 << 20


@dataclass(frozen=True, slots=True)
class CopySource:
    """The open source of a copy. `span` is offset and length in bytes."""

    info: ObjectInfo
    descriptor: int
    span: tuple[int, int]

    async def write(self, target: UploadFile) -> None:
        """Copy the span to `target`. Raises TooLarge."""
        offset, length = self.span
        target.expect(length)
        end = offset + length
        for begin in range(offset, end, _STEP):
            size = min(_STEP, end - begin)
            await asyncio.to_thread(target.copy, self.descriptor, begin, size)


def source_name(request: web.Request) -> tuple[str, str]:
    """Return bucket and key of the source. A plus sign is a space, as the Go SDK sends it.

    Raises InvalidRequest, and OssRefused for a version of the source.
    """
    sent, _, query = request.headers[SOURCE].partition("?")
    if query not in ("", f"versionId={UNVERSIONED}"):
        raise not_implemented(f"{SOURCE} with {query[:80]}")
    bucket, _, key = unquote_plus(sent, errors="surrogateescape").removeprefix("/").partition("/")
    if not bucket or not key:
        raise InvalidRequest(f"{SOURCE} is {sent[:80]!r}, not /<bucket>/<key>")
    return bucket, key


@asynccontextmanager
async def open_source(store: ObjectStore, request: web.Request) -> AsyncIterator[CopySource]:
    """Open the source of a copy. Raises InvalidRequest, BucketNotFound, ObjectNotFound, or
    OssRefused if a condition fails."""
    info, file = await open_object(store, *source_name(request))
    with file:
        check_conditions(request.headers, info, prefix=COPY)
        sent = request.headers.get(f"{SOURCE}-range")
        span = (0, info.size) if sent is None else copied_range(sent, info.size)
        yield CopySource(info, file.fileno(), span)


# Headers and bodies of objects

META = "x-oss-meta-"
CRC64 = "x-oss-hash-crc64ecma"
_CHUNK = 1 << 20
_KEPT = (
    "Content-Type",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Expires",
)


def record_from_headers(request: web.Request) -> ObjectRecord:
    """Return the headers and metadata to store with an object. Raises InvalidRequest."""
    headers = {name: _clean(request.headers[name]) for name in _KEPT if name in request.headers}
    metadata = {
        name.lower().removeprefix(META): _clean(value)
        for name, value in request.headers.items()
        if name.lower().startswith(META)
    }
    return ObjectRecord(headers=headers, metadata=metadata)


async def body(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the request's body in chunks. Raises OssRefused if the connection breaks."""
    try:
        # Chunks this large also raise aiohttp's limit, at which it pauses the socket.
        async for chunk in request.content.iter_chunked(_CHUNK):
            yield chunk
    except (ConnectionError, web.RequestPayloadError) as error:
        raise OssRefused(
            400, "RequestTimeout", "The connection was closed before the end of the body."
        ) from error


async def receive(request: web.Request, target: UploadFile) -> Digests:
    """Write the body to `target` in chunks and check its Content-MD5. Raises TooLarge,
    DigestMismatch, OssRefused."""
    if request.content_length is None and "Transfer-Encoding" not in request.headers:
        raise OssRefused(
            411, "MissingContentLength", "You must provide the Content-Length HTTP header."
        )
    target.expect(request.content_length or 0)
    md5 = content_md5(request)
    await write_blocks(body(request), [target.store, target.digest], target.sync)
    # aiohttp has decompressed the body: storing it would change the object
    if "Content-Encoding" in request.headers and _was_decompressed(request):
        raise not_implemented("an object with a Content-Encoding")
    return await asyncio.to_thread(target.finish, md5=md5)


def content_md5(request: web.Request) -> bytes | None:
    """Return the 16 bytes of Content-MD5, or None. Raises OssRefused."""
    sent = request.headers.get("Content-MD5")
    if sent is None:
        return None
    try:
        md5 = base64.b64decode(sent, validate=True)
    except (binascii.Error, ValueError):
        md5 = b""
    if len(md5) != 16:
        raise OssRefused(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
    return md5


def object_headers(info: ObjectInfo) -> dict[str, str]:
    """Return the headers of an object's response, with or without a body."""
    record = info.record
    headers = {
        "Content-Type": "application/octet-stream",
        **record.headers,
        **{f"{META}{name}": value for name, value in record.metadata.items()},
        **checksums(info),
        "Last-Modified": format_datetime(info.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "x-oss-object-type": record.kind,
        "x-oss-storage-class": "Standard",
        # An uploaded HTML page must not act with the credentials of the user who views it.
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    if record.kind == "Appendable":
        headers["x-oss-next-append-position"] = str(info.size)
    elif record.kind == "Normal":
        headers |= md5_header(info.etag)
    return headers


def md5_header(etag: str) -> dict[str, str]:
    """Return Content-MD5 for the ETag of a Normal object or a part, if that is an MD5."""
    if "-" in etag:
        return {}
    return {"Content-MD5": base64.b64encode(bytes.fromhex(etag)).decode()}


def checksums(info: ObjectInfo) -> dict[str, str]:
    """Return the ETag and, if it is known, the CRC-64."""
    crc = info.record.crc64
    return {"ETag": f'"{info.etag}"'} | ({} if crc is None else {CRC64: str(crc)})


def response_overrides(call: OssRequest) -> dict[str, str]:
    """Return the headers that GetObject's query overrides (`response-content-type` …). Raises
    InvalidRequest."""
    return {
        name: _clean(call.query[f"response-{name.lower()}"])
        for name in _KEPT
        if f"response-{name.lower()}" in call.query
    }


class ObjectResponse(web.StreamResponse):
    """Sends a span of an open file and closes the file. A HEAD gets no body."""

    def __init__(
        self, file: io.FileIO, span: tuple[int, int], status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status=status, headers=headers)
        self._object = file
        self._offset, length = span
        self.content_length = length

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        try:
            writer = await super().prepare(request)
            if request.method != "HEAD":
                await self._send(self.content_length or 0)
            await self.write_eof()
        finally:
            self._object.close()
        return writer

    async def release(self) -> None:
        """Close the file of a response that is not sent."""
        self._object.close()

    async def _send(self, length: int) -> None:
        """Send `length` bytes. Raises ConnectionError if the file has become shorter meanwhile."""
        offset, end = self._offset, self._offset + length
        while offset < end:
            size = min(_CHUNK, end - offset)
            chunk = await asyncio.to_thread(os.pread, self._object.fileno(), size, offset)
            if not chunk:
                raise truncated()
            await self.write(chunk)
            offset += len(chunk)


def _was_decompressed(request: web.Request) -> bool:
    """Return whether aiohttp decompressed the body (see `auto_decompress` of its runner)."""
    return getattr(request.content, "total_compressed_bytes", None) is not None


def _clean(value: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value):
        raise InvalidRequest(f"the header value {value[:80]!r} contains control characters")
    return value


# XML documents in requests

_LIMIT = 4 << 20
_KEYS_LIMIT = 1000
_MAX_DEPTH = 20
_PIECE = 64 << 10
_MAX_ELEMENTS = 100_000


async def read_parts(request: web.Request) -> list[tuple[int, str]]:
    """Read CompleteMultipartUpload's document: part numbers and ETags without quotes. Raises
    OssRefused, DigestMismatch."""
    root = await _read_document(request, "CompleteMultipartUpload")
    return [
        (_number(_text(part, "PartNumber")), _text(part, "ETag").strip('"').upper())
        for part in root.iter("Part")
    ]


async def read_deletion(request: web.Request) -> tuple[list[str], bool]:
    """Read DeleteMultipleObjects's document: the keys, and whether the response is quiet. Raises
    OssRefused, DigestMismatch."""
    if "Content-MD5" not in request.headers:
        raise OssRefused(400, "MissingArgument", "Missing Some Required Arguments: Content-MD5.")
    root = await _read_document(request, "Delete")
    if any(version.text not in (None, UNVERSIONED) for version in root.iter("VersionId")):
        raise not_implemented("DeleteMultipleObjects with VersionId")
    keys = [_text(entry, "Key") for entry in root.iter("Object")]
    if not 0 < len(keys) <= _KEYS_LIMIT:
        raise _malformed(f"a request must delete 1 to {_KEYS_LIMIT} objects, not {len(keys)}")
    return keys, (root.findtext("Quiet") or "").strip() == "true"


async def check_document(request: web.Request, tag: str) -> None:
    """Read a document that may be missing. Raises OssRefused, DigestMismatch."""
    if sent := await read_small_body(request):
        await asyncio.to_thread(_parse, sent, tag)


async def _read_document(request: web.Request, tag: str) -> Element:
    """Return the root of a request's document. Raises OssRefused, DigestMismatch."""
    return await asyncio.to_thread(_parse, await read_small_body(request), tag)


async def read_small_body(request: web.Request) -> bytes:
    """Return a body that is no object's data. Raises OssRefused, DigestMismatch."""
    sent = bytearray()
    async for chunk in body(request):
        sent += chunk
        if len(sent) > _LIMIT:
            raise _malformed(f"longer than {_LIMIT} bytes")
    md5 = content_md5(request)
    if md5 is not None and md5 != hashlib.md5(sent, usedforsecurity=False).digest():
        raise DigestMismatch("the document does not match Content-MD5")
    return bytes(sent)


class _BoundedBuilder(ET.TreeBuilder):
    """Rejects documents that are deeper or larger than OSS's own."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._elements = 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._depth += 1
        self._elements += 1
        if self._depth > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            raise _malformed("it is nested too deeply, or has too many elements")
        return super().start(tag, attrs)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag)


def _parse(sent: bytes, tag: str) -> Element:
    """Parse a document. A DOCTYPE is rejected first: its entities could expand without bound."""
    try:
        text = sent.decode()
        if "<!DOCTYPE" in text:
            raise _malformed("a document type is not allowed")
        parser = ET.XMLParser(target=_BoundedBuilder())  # noqa: S314 - nothing could expand
        for begin in range(0, len(text), _PIECE):
            parser.feed(text[begin : begin + _PIECE])
        root: Element = parser.close()
    except UnicodeDecodeError as error:
        raise _malformed("it is not UTF-8") from error
    except ET.ParseError as error:
        line, column = error.position
        raise _malformed(f"it is not XML from line {line}, column {column + 1} on") from error
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    if root.tag != tag:
        raise _malformed(f"the root is {root.tag[:80]!r}, not {tag!r}")
    return root


def _text(parent: Element, tag: str) -> str:
    text = parent.findtext(tag)
    if text is None:
        raise _malformed(f"{parent.tag} without {tag}")
    return text


def _number(text: str) -> int:
    number = whole_number(text.strip())
    if number is None:
        raise _malformed(f"{text[:80]!r} is not the number of a part")
    return number


def _malformed(what: str) -> OssRefused:
    return OssRefused(
        400, "MalformedXML", f"The XML that you provided is invalid for this operation: {what}."
    )
