"""The pages of the buckets: list, objects of one folder, and uploads by form."""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlencode

from wesemu.api.wes.multipart import FormPart, FormReader
from wesemu.dashboard.pages import WebPage, iso
from wesemu.runs.model import JsonValue
from wesemu.storage.bucket_admin import ObjectServices
from wesemu.storage.objects import ObjectInfo, ObjectRecord, ObjectStore
from wesemu.util.block_writer import write_blocks

_PAGE = 200
_LONGEST_PREFIX = 4096


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
    upload = await asyncio.to_thread(store.new_upload, bucket)
    try:
        await write_blocks(part.chunks, [upload.store, upload.digest], upload.sync)
        digests = await asyncio.to_thread(upload.finish)
        record = ObjectRecord(etag=digests.etag, crc64=digests.crc64)
        await asyncio.to_thread(store.put, bucket, key, upload, record)
    finally:
        await asyncio.to_thread(upload.close)


def _entry(info: ObjectInfo, bucket: str, prefix: str) -> JsonValue:
    return {
        "name": info.key.removeprefix(prefix),
        "key": info.key,
        "url": f"oss://{bucket}/{info.key}",
        "size": info.size,
        "modified": iso(info.modified),
        "etag": info.etag,
    }
