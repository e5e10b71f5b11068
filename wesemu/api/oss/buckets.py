"""The operations on buckets, and on many objects of one."""

import asyncio
from collections.abc import Callable, Mapping
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.oss import xml
from wesemu.api.oss.errors import refusal
from wesemu.api.oss.objects import access_control
from wesemu.api.oss.request import CALL
from wesemu.api.oss.streaming import read_deletion
from wesemu.errors import WesemuError
from wesemu.storage.bucket_admin import BucketAdmin, BucketInfo
from wesemu.storage.listing import KeyPage
from wesemu.storage.objects import ObjectInfo, ObjectStore

REGION = "oss-wesemu"
"""Where every bucket is said to lie."""

_PAGE = 100


class BucketHandlers:
    """Answers for the buckets of `shelves` and the listings of `store`."""

    def __init__(self, shelves: BucketAdmin, store: ObjectStore) -> None:
        self._shelves = shelves
        self._store = store

    async def list_buckets(self, request: web.Request) -> web.Response:
        """GetService."""
        query = request[CALL].query
        most = xml.limit(query, "max-keys", _PAGE)
        prefix, marker = query.get("prefix", ""), query.get("marker", "")
        found = [
            info
            for info in await asyncio.to_thread(self._shelves.all)
            if info.name.startswith(prefix) and info.name > marker
        ]
        shown = found[:most]
        more = len(found) > most
        return xml.answer(
            "ListAllMyBucketsResult",
            xml.element("Prefix", prefix),
            xml.element("Marker", marker),
            xml.element("MaxKeys", most),
            xml.element("IsTruncated", str(more).lower()),
            [xml.element("NextMarker", shown[-1].name)] if more else [],
            xml.owner(request),
            xml.element("Buckets", *(_bucket(request, info) for info in shown)),
        )

    async def create(self, request: web.Request) -> web.Response:
        bucket = request[CALL].bucket
        await asyncio.to_thread(self._shelves.create, bucket)
        return web.Response(headers={"Location": f"/{bucket}"})

    async def info(self, request: web.Request) -> web.Response:
        info = await asyncio.to_thread(self._shelves.info, request[CALL].bucket)
        bucket = _bucket(request, info)
        bucket.append(xml.owner(request))
        bucket.append(xml.element("AccessControlList", xml.element("Grant", "private")))
        bucket.append(xml.element("DataRedundancyType", "LRS"))
        return xml.answer("BucketInfo", bucket)

    async def statistics(self, request: web.Request) -> web.Response:
        found = await asyncio.to_thread(self._shelves.statistics, request[CALL].bucket)
        modified = 0 if found.modified is None else int(found.modified.timestamp())
        return xml.answer(
            "BucketStat",
            xml.element("Storage", found.size),
            xml.element("ObjectCount", found.objects),
            xml.element("MultipartUploadCount", found.uploads),
            xml.element("LiveChannelCount", 0),
            xml.element("LastModifiedTime", modified),
            xml.element("StandardStorage", found.size),
            xml.element("StandardObjectCount", found.objects),
        )

    async def location(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return xml.answer("LocationConstraint", REGION)

    async def acl(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return access_control(request, "private")

    async def versioning(self, request: web.Request) -> web.Response:
        """Empty, as of a bucket for which it was never enabled."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return xml.answer("VersioningConfiguration")

    async def delete(self, request: web.Request) -> web.Response:
        """Raises BucketNotEmpty."""
        await asyncio.to_thread(self._shelves.remove, request[CALL].bucket)
        return web.Response(status=204)

    async def delete_many(self, request: web.Request) -> web.Response:
        """DeleteMultipleObjects. Where no object is, it is as good as deleted; what is refused is
        told as S3 tells it, in `Error` elements, since OSS documents none."""
        call = request[CALL]
        spelled = xml.spelling(call.query)
        await asyncio.to_thread(self._store.folder, call.bucket)
        keys, quiet = await read_deletion(request)
        refused = await asyncio.to_thread(self._remove_all, call.bucket, keys)
        if quiet and not refused:
            return web.Response()
        deleted = [] if quiet else [key for key in keys if key not in refused]
        return xml.answer(
            "DeleteResult",
            xml.encoding(call.query),
            [xml.element("Deleted", xml.element("Key", spelled(key))) for key in deleted],
            [_refused(spelled(key), *why) for key, why in refused.items()],
        )

    async def list_objects(self, request: web.Request) -> web.Response:
        """GetBucket (ListObjects), version 1 or 2."""
        call = request[CALL]
        query = call.query
        second = query.get("list-type") == "2"
        most = xml.limit(query, "max-keys", _PAGE)
        spelled = xml.spelling(query)
        after = _after(query) if second else query.get("marker", "")
        found, infos = await asyncio.to_thread(
            self._store.page,
            call.bucket,
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            after=after,
            limit=most,
        )
        with_owner = not second or query.get("fetch-owner") == "true"
        return xml.answer(
            "ListBucketResult",
            xml.element("Name", call.bucket),
            xml.element("Prefix", spelled(query.get("prefix", ""))),
            xml.element("MaxKeys", most),
            xml.element("Delimiter", spelled(query.get("delimiter", ""))),
            xml.encoding(query),
            _position(query, found, spelled) if second else _marker(query, found, spelled),
            xml.element("IsTruncated", str(found.after is not None).lower()),
            [_contents(request, info, spelled, with_owner) for info in infos],
            xml.common_prefixes(spelled(prefix) for prefix in found.prefixes),
        )

    def _remove_all(self, bucket: str, keys: list[str]) -> dict[str, tuple[str, str]]:
        """Code and message for each key that is refused; the server's own faults are raised."""
        refused: dict[str, tuple[str, str]] = {}
        for key in keys:
            try:
                self._store.remove(bucket, key)
            except (WesemuError, OSError) as error:
                why = refusal(error)
                if why is None or why[0] >= 500:
                    raise
                refused[key] = why[1:]
        return refused


def _refused(key: str, code: str, message: str) -> Element:
    return xml.element(
        "Error",
        xml.element("Key", key),
        xml.element("Code", code),
        xml.element("Message", message),
    )


def _bucket(request: web.Request, info: BucketInfo) -> Element:
    host = request.headers.get("Host", "")
    return xml.element(
        "Bucket",
        xml.element("Name", info.name),
        xml.element("Location", REGION),
        xml.element("Region", REGION.removeprefix("oss-")),
        xml.element("CreationDate", xml.time(info.created)),
        xml.element("ExtranetEndpoint", host),
        xml.element("IntranetEndpoint", host),
        xml.element("StorageClass", "Standard"),
    )


def _contents(
    request: web.Request, info: ObjectInfo, spelled: Callable[[str], str], with_owner: bool
) -> Element:
    contents = xml.element(
        "Contents",
        xml.element("Key", spelled(info.key)),
        xml.element("LastModified", xml.time(info.modified)),
        xml.element("ETag", f'"{info.etag}"'),
        xml.element("Type", info.record.kind),
        xml.element("Size", info.size),
        xml.element("StorageClass", "Standard"),
    )
    if with_owner:
        contents.append(xml.owner(request))
    return contents


def _after(query: Mapping[str, str]) -> str:
    word = query.get("continuation-token", "")
    return xml.place(word) if word else query.get("start-after", "")


def _marker(
    query: Mapping[str, str], found: KeyPage, spelled: Callable[[str], str]
) -> list[Element]:
    elements = [xml.element("Marker", spelled(query.get("marker", "")))]
    if found.after is not None:
        elements.append(xml.element("NextMarker", spelled(found.after)))
    return elements


def _position(
    query: Mapping[str, str], found: KeyPage, spelled: Callable[[str], str]
) -> list[Element]:
    word = query.get("continuation-token", "")
    elements = [
        xml.element("StartAfter", spelled(query.get("start-after", ""))),
        xml.element("KeyCount", len(found.keys) + len(found.prefixes)),
    ]
    if word:
        elements.append(xml.element("ContinuationToken", spelled(word)))
    if found.after is not None:
        following = spelled(xml.token(found.after))
        elements.append(xml.element("NextContinuationToken", following))
    return elements
