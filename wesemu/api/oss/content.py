"""An object's headers on their way in and out, and its bytes."""

import asyncio
import base64
import binascii
import io
import os
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import format_datetime

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from wesemu.api.oss.call import Call
from wesemu.api.oss.errors import Refused, not_implemented
from wesemu.errors import InvalidRequest
from wesemu.objects.incoming import Digests, Incoming
from wesemu.objects.places import ObjectInfo
from wesemu.objects.records import ObjectRecord
from wesemu.objects.store import ObjectStore

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


def sent_record(request: web.Request) -> ObjectRecord:
    """The headers and metadata that are kept with an object. Raises InvalidRequest."""
    headers = {name: _clean(request.headers[name]) for name in _KEPT if name in request.headers}
    metadata = {
        name.lower().removeprefix(META): _clean(value)
        for name, value in request.headers.items()
        if name.lower().startswith(META)
    }
    return ObjectRecord(headers=headers, metadata=metadata)


@asynccontextmanager
async def incoming(store: ObjectStore, bucket: str) -> AsyncIterator[Incoming]:
    made = await asyncio.to_thread(store.incoming, bucket)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


async def body(request: web.Request) -> AsyncIterator[bytes]:
    """The request's body as it comes. Raises Refused when it breaks off."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (ConnectionError, web.RequestPayloadError) as error:
        raise Refused(
            400, "RequestTimeout", "The connection was closed before all bytes had come."
        ) from error


async def receive(request: web.Request, target: Incoming) -> Digests:
    """The request's body, never all of it in memory, checked against its Content-MD5.

    Raises TooLarge, DigestMismatch, Refused.
    """
    if request.content_length is None and "Transfer-Encoding" not in request.headers:
        raise Refused(
            411, "MissingContentLength", "You must provide the Content-Length HTTP header."
        )
    target.expect(request.content_length or 0)
    md5 = content_md5(request)
    buffer = bytearray()
    async for chunk in body(request):
        buffer += chunk
        if len(buffer) >= _CHUNK:
            await asyncio.to_thread(target.write, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(target.write, bytes(buffer))
    if "Content-Encoding" in request.headers and _was_unpacked(request):
        raise not_implemented("an object with a Content-Encoding")
    return await asyncio.to_thread(target.finish, md5=md5)


def content_md5(request: web.Request) -> bytes | None:
    """The 16 bytes of the header, if there is one. Raises Refused."""
    sent = request.headers.get("Content-MD5")
    if sent is None:
        return None
    try:
        md5 = base64.b64decode(sent, validate=True)
    except (binascii.Error, ValueError):
        md5 = b""
    if len(md5) != 16:
        raise Refused(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
    return md5


def described(info: ObjectInfo) -> dict[str, str]:
    """The headers that tell of an object, whether or not its bytes follow."""
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
        # An object that somebody uploaded must not act in the name of who looks at it.
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    if record.kind == "Appendable":
        headers["x-oss-next-append-position"] = str(info.size)
    return headers


def checksums(info: ObjectInfo) -> dict[str, str]:
    """ETag and, where it is known, CRC-64."""
    crc = info.record.crc64
    return {"ETag": f'"{info.etag}"'} | ({} if crc is None else {CRC64: str(crc)})


def overridden(call: Call) -> dict[str, str]:
    """The headers that the query asks for (`response-content-type` …). Raises InvalidRequest."""
    return {
        name: _clean(call.query[f"response-{name.lower()}"])
        for name in _KEPT
        if f"response-{name.lower()}" in call.query
    }


class ObjectResponse(web.StreamResponse):
    """Sends a part of an open file, and closes it; nothing of it for a HEAD."""

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
        self._object.close()

    async def _send(self, length: int) -> None:
        end = self._offset + length
        for offset in range(self._offset, end, _CHUNK):
            size = min(_CHUNK, end - offset)
            await self.write(await asyncio.to_thread(os.pread, self._object.fileno(), size, offset))


def _was_unpacked(request: web.Request) -> bool:
    """As aiohttp does, unless its runner was made with auto_decompress=False."""
    return getattr(request.content, "total_compressed_bytes", None) is not None


def _clean(value: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value):
        raise InvalidRequest(f"the header value {value[:80]!r} is no text that could be sent back")
    return value
