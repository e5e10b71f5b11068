"""The XML documents that clients send."""

import asyncio
import hashlib
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.oss.content import body, content_md5
from wesemu.api.oss.errors import Refused
from wesemu.objects.errors import DigestMismatch

_LIMIT = 4 << 20
_KEYS_LIMIT = 1000
_DEEPEST = 20
_PIECE = 64 << 10
_MOST_ELEMENTS = 100_000


async def read_parts(request: web.Request) -> list[tuple[int, str]]:
    """CompleteMultipartUpload: part numbers with their ETags, without quotes.

    Raises Refused, DigestMismatch.
    """
    root = await _document(request, "CompleteMultipartUpload")
    return [
        (_number(_text(part, "PartNumber")), _text(part, "ETag").strip('"').upper())
        for part in root.iter("Part")
    ]


async def read_deletion(request: web.Request) -> tuple[list[str], bool]:
    """Delete: the keys, and whether the answer is to be quiet.

    Raises Refused, DigestMismatch.
    """
    if "Content-MD5" not in request.headers:
        raise Refused(400, "MissingArgument", "Missing Some Required Arguments: Content-MD5.")
    root = await _document(request, "Delete")
    keys = [_text(found, "Key") for found in root.iter("Object")]
    if not 0 < len(keys) <= _KEYS_LIMIT:
        raise _malformed(f"a request deletes 1 to {_KEYS_LIMIT} objects, not {len(keys)}")
    return keys, (root.findtext("Quiet") or "").strip() == "true"


async def _document(request: web.Request, tag: str) -> Element:
    sent = bytearray()
    async for chunk in body(request):
        sent += chunk
        if len(sent) > _LIMIT:
            raise _malformed(f"longer than {_LIMIT} bytes")
    md5 = content_md5(request)
    if md5 is not None and md5 != hashlib.md5(sent, usedforsecurity=False).digest():
        raise DigestMismatch("the document that came is another than Content-MD5 says")
    return await asyncio.to_thread(_parsed, bytes(sent), tag)


class _BoundedBuilder(ET.TreeBuilder):
    """Refuses documents that are deeper or larger than any of OSS's."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._elements = 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._depth += 1
        self._elements += 1
        if self._depth > _DEEPEST or self._elements > _MOST_ELEMENTS:
            raise _malformed("it is nested too deeply, or has too many elements")
        return super().start(tag, attrs)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag)


def _parsed(sent: bytes, tag: str) -> Element:
    """A document type is refused before anything of it is expanded."""
    try:
        text = sent.decode()
        if "<!DOCTYPE" in text:
            raise _malformed("a document type is not taken")
        parser = ET.XMLParser(target=_BoundedBuilder())  # noqa: S314 - nothing could expand
        for begin in range(0, len(text), _PIECE):
            parser.feed(text[begin : begin + _PIECE])
        root: Element = parser.close()
    except UnicodeDecodeError as error:
        raise _malformed("it is not UTF-8") from error
    except ET.ParseError as error:
        line, column = error.position
        raise _malformed(f"it is no XML from line {line}, column {column + 1} on") from error
    for found in root.iter():
        found.tag = found.tag.rpartition("}")[2]
    if root.tag != tag:
        raise _malformed(f"the root is {root.tag[:80]!r}, not {tag!r}")
    return root


def _text(parent: Element, tag: str) -> str:
    text = parent.findtext(tag)
    if text is None:
        raise _malformed(f"{parent.tag} without {tag}")
    return text


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise _malformed(f"{text[:80]!r} is no number")
    return int(text[:20])


def _malformed(what: str) -> Refused:
    return Refused(
        400, "MalformedXML", f"The XML that you provided is not as the operation has it: {what}."
    )
