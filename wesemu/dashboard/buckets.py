"""The pages of the buckets: list, objects of one folder, preview of a FASTQ, uploads by form."""

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from urllib.parse import quote, urlencode

from wesemu.api.wes.multipart import FormPart, FormReader
from wesemu.dashboard.pages import WebPage, iso
from wesemu.genomics.fastq_file import GZIP_MAGIC, HEAD_BYTES, looks_like
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.buckets import is_reads
from wesemu.storage.object_records import ObjectInfo, ObjectRecord
from wesemu.storage.objects import ObjectStore, open_upload
from wesemu.util.block_writer import write_blocks
from wesemu.util.cancellation import finish_in_thread

_PAGE = 200
_LONGEST_PREFIX = 4096

_READ_BYTES = 256 << 10
_MOST_TEXT = 1 << 20
_SHOWN_RECORDS = 8


def overview(objects: ObjectServices) -> WebPage:
    """Return the names of the buckets."""
    found: list[JsonValue] = [
        {"name": info.name, "created": iso(info.created)} for info in objects.buckets.all()
    ]
    return WebPage("buckets.html", "Buckets", {"buckets": found})


def objects(objects: ObjectServices, bucket: str, query: Mapping[str, str]) -> WebPage:
    """Return the folders and objects below `prefix`, at most 200; `after` continues.

    Raises BucketNotFound.
    """
    prefix, after = query.get("prefix", ""), query.get("after", "")
    listing, infos = objects.store.page(
        bucket, prefix=prefix, delimiter="/", after=after, limit=_PAGE
    )
    following = None
    if listing.after is not None:
        following = f"?{urlencode({'prefix': prefix, 'after': listing.after})}"
    content: dict[str, JsonValue] = {
        "bucket": bucket,
        "prefix": prefix,
        "parents": [
            {"name": part, "prefix": "/".join(prefix.split("/")[: number + 1]) + "/"}
            for number, part in enumerate(prefix.split("/")[:-1])
        ],
        "folders": [
            {"name": name.removeprefix(prefix), "prefix": name} for name in listing.prefixes
        ],
        "objects": [_entry(info, bucket, prefix) for info in infos if info.key != prefix],
        "next": following,
    }
    return WebPage("objects.html", bucket, content)


def preview(objects: ObjectServices, bucket: str, query: Mapping[str, str]) -> WebPage:
    """Return the first records of the FASTQ `key`, its read lengths, and how many reads it has.

    Reads only the beginning of the file. Raises BucketNotFound, ObjectNotFound, InvalidRequest.
    """
    key = query.get("key", "")
    info, file = objects.store.open(bucket, key)
    with file:
        try:
            head = _head(file, info.size)
            found = _records(head)
            error = None
        except ValueError as reason:
            found, error = [], str(reason)
    content: JsonObject = {
        "bucket": bucket,
        "key": key,
        "url": f"oss://{bucket}/{key}",
        "download": f"/ui/objects/{quote(bucket)}/{quote(key)}",
        "size": info.size,
        "error": error,
        "records": [
            {"name": name, "sequence": sequence, "quality": quality}
            for name, sequence, quality in found[:_SHOWN_RECORDS]
        ],
        **(_estimate(found, head, info.size) if found else {}),
    }
    return WebPage("preview.html", key, content)


@dataclass(frozen=True, slots=True)
class _Head:
    """The beginning of a file as text, and the bytes of the file that contain it."""

    text: bytes
    size: int
    is_whole: bool


_Record = tuple[str, str, str]
"""Name, sequence and qualities."""


def _head(file: FileIO, size: int) -> _Head:
    """Return the beginning of a file as text. Raises ValueError for damaged gzip data."""
    data = file.read(_READ_BYTES) or b""
    if not data.startswith(GZIP_MAGIC):
        return _Head(data, len(data), len(data) == size)
    text, rest = b"", data
    # bgzip and joined files have several members
    while rest.startswith(GZIP_MAGIC) and len(text) < _MOST_TEXT:
        member = zlib.decompressobj(wbits=31)
        try:
            text += member.decompress(rest, _MOST_TEXT - len(text))
        except zlib.error as error:
            raise ValueError(f"the gzip data is damaged: {error}") from error
        rest = member.unused_data if member.eof else member.unconsumed_tail
        if not member.eof:
            break
    return _Head(text, len(data) - len(rest), member.eof and not rest and len(data) == size)


def _records(head: _Head) -> list[_Record]:
    """Return the whole records. Raises ValueError if the text is not FASTQ."""
    lines = [line.rstrip("\r") for line in head.text.decode("ascii", "replace").split("\n")]
    if not head.is_whole:
        lines = lines[:-1]  # it may be cut
    found: list[_Record] = []
    for first in range(0, len(lines) - 3, 4):
        name, sequence, plus, quality = lines[first : first + 4]
        is_record = name.startswith("@") and plus.startswith("+") and len(sequence) == len(quality)
        if not is_record and not found:
            raise ValueError(
                f"this is not FASTQ; it looks like {looks_like(head.text[:HEAD_BYTES])}"
            )
        if not is_record:
            raise ValueError(f"record {len(found) + 1} is not a FASTQ record: {name[:80]!r}")
        found.append((name, sequence, quality))
    if not found:
        raise ValueError("the file has no whole record at its beginning")
    return found


def _estimate(found: list[_Record], head: _Head, size: int) -> JsonObject:
    """Return read lengths, and the numbers of reads and bases: exact for small files."""
    lengths = [len(sequence) for _, sequence, _ in found]
    reads = len(found)
    if not head.is_whole:
        # names, bases, qualities, three more signs and four ends of lines
        text = sum(len(name) + 2 * len(sequence) + 5 for name, sequence, _ in found)
        reads = round(size * len(head.text) / head.size * len(found) / text)
    mean = sum(lengths) / len(lengths)
    return {
        "lengths": {"least": min(lengths), "most": max(lengths), "mean": round(mean, 1)},
        "reads": reads,
        "bases": round(reads * mean),
        "exact": head.is_whole,
    }


async def receive(store: ObjectStore, bucket: str, form: FormReader) -> str:
    """Store the files of a form below its field `prefix`, which comes first. Return the prefix.

    Raises InvalidRequest, BucketNotFound, TooLarge, and HTTPRequestEntityTooLarge (413).
    """
    prefix = ""
    async for part in form:
        if part.name == "prefix":
            prefix = await part.text(_LONGEST_PREFIX)
        elif part.filename:
            await _store(store, bucket, prefix + part.filename, part)
    return prefix


async def _store(store: ObjectStore, bucket: str, key: str, part: FormPart) -> None:
    """Store a file. The object appears when the part is complete."""
    await asyncio.to_thread(store.check, bucket, key)
    async with open_upload(store, bucket) as upload:
        await write_blocks(part.chunks, [upload.store, upload.digest], upload.sync)
        digests = await asyncio.to_thread(upload.finish)
        record = ObjectRecord(etag=digests.etag, crc64=digests.crc64)
        await finish_in_thread(store.put, bucket, key, upload, record)


def _entry(info: ObjectInfo, bucket: str, prefix: str) -> JsonValue:
    return {
        "name": info.key.removeprefix(prefix),
        "key": info.key,
        "url": f"oss://{bucket}/{info.key}",
        "reads": is_reads(info.key),
        "size": info.size,
        "modified": iso(info.modified),
        "etag": info.etag,
    }
