"""Streaming reader of multipart/form-data (RFC 7578, RFC 2046) with size limits.

aiohttp's reader strips leading slashes from file names, so "/etc/x" looks like "etc/x". It also
limits neither the preamble nor the number of parts.
"""

import re
from collections.abc import AsyncIterator
from urllib.parse import unquote

from aiohttp import web
from aiohttp.streams import StreamReader

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
_PREAMBLE_LIMIT = 16 << 10
_BOUNDARY_LIMIT = 70
_IDENTITY = frozenset({"", "binary", "7bit", "8bit", "identity"})


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
                    f"{self.name[:80]} is longer than {limit} bytes; send large data as a "
                    "workflow_attachment",
                    field=self.name,
                )
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"{self.name[:80]} is not UTF-8 (byte {error.start})", field=self.name
            ) from error


class FormReader:
    """Reads the parts of a body in order. Limits: `upload` bytes, `parts` parts."""

    def __init__(self, stream: StreamReader, boundary: str, *, upload: int, parts: int) -> None:
        if not 0 < len(boundary) <= _BOUNDARY_LIMIT or not boundary.isascii():
            raise InvalidRequest("the multipart boundary is missing or longer than 70 letters")
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary.encode()
        # The first delimiter has no line break if there is no preamble (RFC 2046, section 5.1.1).
        self._buffer = bytearray(b"\r\n")
        self._left = upload
        self._upload = upload
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[FormPart]:
        """Yield the parts. Raises InvalidRequest for a malformed body, HTTPRequestEntityTooLarge
        (413)."""
        await self._read_until(self._delimiter, _PREAMBLE_LIMIT, "preamble")
        number = 0
        while await self._has_next():
            number += 1
            if number > self._parts:
                raise InvalidRequest(f"the form has more than {self._parts} parts")
            part = await self._next(number)
            yield part
            async for _ in part.chunks:
                pass

    async def _has_next(self) -> bool:
        """Return whether a part follows the delimiter. "--" ends the form."""
        while len(self._buffer) < 2:
            await self._fill()
        if self._buffer.startswith(b"--"):
            return False
        padding = await self._read_until(b"\r\n", _PREAMBLE_LIMIT, "boundary line")
        if padding.strip(b" \t"):
            raise InvalidRequest("a multipart boundary is followed by other text on its line")
        return True

    async def _next(self, number: int) -> FormPart:
        self._buffer[:0] = b"\r\n"  # an empty header ends with a blank line, too
        block = await self._read_until(b"\r\n\r\n", _HEADERS_LIMIT, f"header of part {number}")
        headers = _parse_headers(block)
        for field in ("content-transfer-encoding", "content-encoding"):
            if headers.get(field, "").lower() not in _IDENTITY:
                raise InvalidRequest(
                    f"part {number} has a {field}, which is not supported; send it unencoded"
                )
        parameters = parse_disposition(headers.get("content-disposition", ""))
        if not parameters.get("name"):
            raise InvalidRequest(f"part {number} has no name in its Content-Disposition")
        return FormPart(parameters["name"], parameters.get("filename"), self._content())

    async def _content(self) -> AsyncIterator[bytes]:
        # Keep bytes that may be the start of a delimiter, which continues in the next chunk.
        keep = len(self._delimiter) - 1
        while (end := self._buffer.find(self._delimiter)) < 0:
            if (ready := len(self._buffer) - keep) > 0:
                yield bytes(self._buffer[:ready])
                del self._buffer[:ready]
            await self._fill()
        if end:
            yield bytes(self._buffer[:end])
        del self._buffer[: end + len(self._delimiter)]

    async def _read_until(self, mark: bytes, limit: int, what: str) -> bytes:
        while (end := self._buffer.find(mark, 0, limit)) < 0:
            if len(self._buffer) >= limit:
                raise InvalidRequest(f"the multipart {what} is longer than {limit} bytes")
            await self._fill()
        content = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return content

    async def _fill(self) -> None:
        chunk = await self._stream.readany()
        if not chunk:
            raise InvalidRequest("the multipart body ends before its closing boundary")
        self._left -= len(chunk)
        if self._left < 0:
            raise web.HTTPRequestEntityTooLarge(self._upload)
        self._buffer += chunk


def _parse_headers(block: bytes) -> dict[str, str]:
    """Return headers by lower-case name. Folded lines and lines without a colon are invalid."""
    headers: dict[str, str] = {}
    try:
        lines = block.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidRequest("the header of a part is not UTF-8") from error
    for line in filter(None, lines):
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise InvalidRequest(f"a part has the malformed header line {line[:80]!r}")
        headers[name.lower()] = value.strip()
    return headers
