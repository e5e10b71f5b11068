"""Buckets and objects of the server, by plain requests to `/oss/` (docs/oss.md)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as ET

from wesemu.client.transport import ClientError, Transport, path_part
from wesemu.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of a listing. `size` is in bytes, `modified` in UTC."""

    key: str
    size: int
    modified: datetime


class AsyncBucket:
    """One bucket. It need not exist yet. Each method raises ClientError.

    Requests carry the client's bearer token and no signature. A server whose only credentials are
    access keys refuses them: use an OSS SDK there.
    """

    def __init__(self, transport: Transport, name: str) -> None:
        self._transport = transport
        self.name = name

    async def create(self) -> None:
        """Create the bucket. An existing bucket stays unchanged."""
        await self._transport.send("PUT", self._path())

    async def put(self, key: str, content: bytes | str | Path) -> str:
        """Write an object: bytes, text as UTF-8, or the file at a Path. Return its location."""
        await self._transport.send("PUT", self._path(key), data=encoded(content))
        return self.url(key)

    async def get(self, key: str) -> bytes:
        """Return the content of an object."""
        return b"".join([chunk async for chunk in self._transport.chunks(self._path(key))])

    async def download(self, key: str, target: Path | str) -> Path:
        """Write an object to the file `target`, or into the folder `target`. Return the file."""
        return await self._transport.download(self._path(key), target, key)

    async def list(self, prefix: str = "") -> list[ObjectEntry]:
        """Return the objects whose keys start with `prefix`, in the order of the keys."""
        return [entry async for entry in self._entries(prefix)]

    async def delete(self, key: str) -> None:
        """Remove an object. A missing object is not an error."""
        await self._transport.send("DELETE", self._path(key))

    def url(self, key: str) -> str:
        """Return the location of an object, as runs take it."""
        return f"oss://{self.name}/{key}"

    async def _entries(self, prefix: str) -> AsyncIterator[ObjectEntry]:
        query = {"list-type": "2", "max-keys": "1000", "prefix": prefix}
        while True:
            page = _parse(await self._transport.send("GET", self._path(), query=query))
            for entry in page.iter("Contents"):
                yield _entry(entry)
            query["continuation-token"] = _text(page, "NextContinuationToken")
            if not query["continuation-token"]:
                return

    def _path(self, key: str | None = None) -> str:
        """Return the path of an object, or without `key` that of the bucket. Raise InvalidRequest
        for a key with which the path would lead to something else."""
        folder = f"/oss/{path_part(self.name)}/"
        if key is None:
            return folder
        if not key or not {".", ".."}.isdisjoint(key.split("/")):
            raise InvalidRequest(
                f"{key!r} cannot be a key: it is empty, or a part of it is '.' or '..'"
            )
        return folder + quote(key)


def encoded(content: bytes | str | Path) -> bytes | Path:
    """Return text as UTF-8, and other content unchanged."""
    return content.encode() if isinstance(content, str) else content


async def bucket_names(transport: Transport) -> list[str]:
    """Return the names of all buckets. Raise ClientError."""
    names: list[str] = []
    query = {"max-keys": "1000", "marker": ""}
    while True:
        page = _parse(await transport.send("GET", "/oss/", query=query))
        names += [_text(bucket, "Name") for bucket in page.iter("Bucket")]
        query["marker"] = _text(page, "NextMarker")
        if not query["marker"]:
            return names


def _parse(content: bytes) -> ET.Element:
    try:
        return ET.fromstring(content)  # noqa: S314 - the caller chose this server
    except ET.ParseError as error:
        raise ClientError(
            "the server answered a listing with something that is not XML; is it a wesemu server?"
        ) from error


def _entry(element: ET.Element) -> ObjectEntry:
    key = _text(element, "Key")
    try:
        size = int(_text(element, "Size"))
        modified = datetime.fromisoformat(_text(element, "LastModified"))
    except ValueError as error:
        raise ClientError(
            f"the server lists the object {key[:80]!r} without size and time; "
            "is it a wesemu server?"
        ) from error
    return ObjectEntry(key, size, modified)


def _text(element: ET.Element, tag: str) -> str:
    return element.findtext(tag) or ""
