"""Streaming reader of multipart/form-data (RFC 7578, RFC 2046) with size limits.

aiohttp's reader strips leading slashes from file names, so "/etc/x" looks like "etc/x". It also
does not limit the number of parts.
"""

import re
from collections.abc import AsyncIterator
from email.message import Message
from urllib.parse import unquote

from aiohttp import web
from aiohttp.streams import StreamReader
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from wesemu.errors import InvalidRequest

# Content-Disposition (RFC 7578, section 4.2; RFC 6266; RFC 8187)

_PARAMETER = re.compile(
    r"""\s*;\s*(?:(?P<key>[^\s=;"]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s;"]*)))?"""
)


def parse_disposition(header: str) -> dict[str, str]:
    """Return the parameters; `filename*` replaces `filename`.

    File names are percent-decoded, because clients write "/" as "%2F". Raises InvalidRequest for
    anything but well-formed form-data.
    """
    kind, _, _ = header.partition(";")
    if kind.strip().lower() != "form-data":
        raise _malformed(header)
    parameters: dict[str, str] = {}
    position = len(kind)
    while position < len(header.rstrip()):
        match = _PARAMETER.match(header, position)
        if match is None:
            raise _malformed(header)
        position = match.end()
        if (key := (match["key"] or "").lower()) in parameters:
            raise _malformed(header)
        if key:
            parameters[key] = _value(match)
    if "filename*" in parameters:
        parameters["filename"] = _extended(parameters.pop("filename*"), header)
    elif "filename" in parameters:
        parameters["filename"] = _decode(parameters["filename"], "utf-8", header)
    return parameters


def _value(match: re.Match[str]) -> str:
    r"""Unescape quotes and backslashes only: old browsers send "C:\name" unescaped."""
    if match["quoted"] is not None:
        return re.sub(r'\\(["\\])', r"\1", match["quoted"])
    return match["bare"] or ""


def _extended(value: str, header: str) -> str:
    charset, _, rest = value.partition("'")
    _, quote, encoded = rest.partition("'")
    if not quote or charset.lower() not in ("utf-8", "iso-8859-1"):
        raise _malformed(header)
    return _decode(encoded, charset, header)


def _decode(value: str, charset: str, header: str) -> str:
    try:
        return unquote(value, charset, errors="strict")
    except UnicodeDecodeError as error:
        raise _malformed(header) from error


def _malformed(header: str) -> InvalidRequest:
    return InvalidRequest(f"the Content-Disposition {header[:80]!r} is not well-formed form-data")


# Body

_HEADERS_LIMIT = 16 << 10
_BOUNDARY_LIMIT = 70
_CHUNK = 1 << 20
"""Bytes. Above twice as many, aiohttp pauses the socket; its own limit slows large uploads."""

_IDENTITY = frozenset({"", "binary", "7bit", "8bit", "identity"})

_Events = AsyncIterator[MultipartSegment | bytes | None]


class FormPart:
    """One part. `filename` is None if the Content-Disposition has none.

    Read `chunks` once, and before the next part.
    """

    def __init__(self, name: str, filename: str | None, chunks: AsyncIterator[bytes]) -> None:
        self.name = name
        self.filename = filename
        self.chunks = chunks

    async def text(self, limit: int) -> str:
        """Return the content. Raises InvalidRequest beyond `limit` bytes or for invalid UTF-8."""
        content = bytearray()
        async for chunk in self.chunks:
            content += chunk
            if len(content) > limit:
                raise InvalidRequest(
                    f"it is longer than {limit} bytes; send large data as a workflow_attachment",
                    field=self.name,
                )
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"it is not UTF-8 (byte {error.start})", field=self.name
            ) from error


class FormReader:
    """Reads the parts of a body in order. Limits: `upload` bytes, `parts` parts."""

    def __init__(self, stream: StreamReader, boundary: str, *, upload: int, parts: int) -> None:
        if not 0 < len(boundary) <= _BOUNDARY_LIMIT or not boundary.isascii():
            raise InvalidRequest("the multipart boundary is missing or longer than 70 letters")
        stream.set_read_chunk_size(_CHUNK)
        self._stream = stream
        self._parser = PushMultipartParser(boundary, max_header_size=_HEADERS_LIMIT)
        self._upload = upload
        self._parts = parts
        self._number = 0

    @classmethod
    def of(cls, request: web.Request, *, upload: int, parts: int) -> "FormReader":
        """Return the reader of a request's body. Raises InvalidRequest without a boundary."""
        header = Message()
        header["Content-Type"] = request.headers.get("Content-Type", "")
        return cls(request.content, header.get_boundary(""), upload=upload, parts=parts)

    async def __aiter__(self) -> AsyncIterator[FormPart]:
        """Yield the parts. Raises InvalidRequest for a malformed body, HTTPRequestEntityTooLarge
        (413)."""
        events = self._events()
        async for segment in events:
            assert isinstance(segment, MultipartSegment)
            self._number += 1
            if self._number > self._parts:
                raise InvalidRequest(f"the form has more than {self._parts} parts")
            part = self._part(segment, events)
            yield part
            async for _ in part.chunks:
                pass

    async def _events(self) -> _Events:
        """Yield each part's header, its content in chunks, and None at its end."""
        left = self._upload
        try:
            while chunk := await self._stream.readany():
                left -= len(chunk)
                if left < 0:
                    raise web.HTTPRequestEntityTooLarge(self._upload)
                for event in self._parser.parse(chunk):
                    yield event
        except MultipartError as error:
            where = f"after part {self._number}" if self._number else "before its first part"
            raise InvalidRequest(f"the multipart body is malformed {where}: {error}") from error
        try:
            self._parser.close()
        except MultipartError as error:
            raise InvalidRequest("the multipart body ends before its closing boundary") from error

    def _part(self, segment: MultipartSegment, events: _Events) -> FormPart:
        headers: dict[str, str] = {}
        for name, value in segment.headerlist:
            if headers.setdefault(name.lower(), value.strip()) != value.strip():
                raise InvalidRequest(
                    f"part {self._number} has two different headers {name[:80]}; send one of them"
                )
        for field in ("content-transfer-encoding", "content-encoding"):
            if headers.get(field, "").lower() not in _IDENTITY:
                raise InvalidRequest(
                    f"part {self._number} has a {field}, which is not supported; send it unencoded"
                )
        parameters = parse_disposition(headers["content-disposition"])
        if not parameters.get("name"):
            raise InvalidRequest(f"part {self._number} has no name in its Content-Disposition")
        return FormPart(parameters["name"], parameters.get("filename"), _content(events))


async def _content(events: _Events) -> AsyncIterator[bytes]:
    """Yield the rest of a part's content."""
    async for chunk in events:
        if not isinstance(chunk, bytes):
            return
        yield chunk
