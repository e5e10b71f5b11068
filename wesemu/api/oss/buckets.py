"""Operations on buckets, the listings of objects, and DeleteMultipleObjects (OSS API, "Bucket
operations")."""

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
"""The region of all buckets."""

_PAGE = 100


class BucketHandlers:
    """Handles the operations on buckets; `buckets` manages them, `store` lists objects."""

    def __init__(self, buckets: BucketAdmin, store: ObjectStore) -> None:
        self._buckets = buckets
        self._store = store

    async def list_buckets(self, request: web.Request) -> web.Response:
        """ListBuckets (GetService)."""
        query = request[CALL].query
        limit = xml.limit(query, "max-keys", _PAGE)
        prefix, marker = query.get("prefix", ""), query.get("marker", "")
        buckets = [
            info
            for info in await asyncio.to_thread(self._buckets.all)
            if info.name.startswith(prefix) and info.name > marker
        ]
        page = buckets[:limit]
        is_truncated = len(buckets) > limit
        return xml.answer(
            "ListAllMyBucketsResult",
            xml.element("Prefix", prefix),
            xml.element("Marker", marker),
            xml.element("MaxKeys", limit),
            xml.element("IsTruncated", str(is_truncated).lower()),
            [xml.element("NextMarker", page[-1].name)] if is_truncated else [],
            xml.owner(request),
            xml.element("Buckets", *(_bucket(request, info) for info in page)),
        )

    async def create(self, request: web.Request) -> web.Response:
        """PutBucket."""
        bucket = request[CALL].bucket
        await asyncio.to_thread(self._buckets.create, bucket)
        return web.Response(headers={"Location": f"/{bucket}"})

    async def info(self, request: web.Request) -> web.Response:
        """GetBucketInfo."""
        info = await asyncio.to_thread(self._buckets.info, request[CALL].bucket)
        bucket = _bucket(request, info)
        bucket.append(xml.owner(request))
        bucket.append(xml.element("AccessControlList", xml.element("Grant", "private")))
        bucket.append(xml.element("DataRedundancyType", "LRS"))
        return xml.answer("BucketInfo", bucket)

    async def statistics(self, request: web.Request) -> web.Response:
        """GetBucketStat."""
        statistics = await asyncio.to_thread(self._buckets.statistics, request[CALL].bucket)
        modified = 0 if statistics.modified is None else int(statistics.modified.timestamp())
        return xml.answer(
            "BucketStat",
            xml.element("Storage", statistics.size),
            xml.element("ObjectCount", statistics.objects),
            xml.element("MultipartUploadCount", statistics.uploads),
            xml.element("LiveChannelCount", 0),
            xml.element("LastModifiedTime", modified),
            xml.element("StandardStorage", statistics.size),
            xml.element("StandardObjectCount", statistics.objects),
        )

    async def location(self, request: web.Request) -> web.Response:
        """GetBucketLocation."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return xml.answer("LocationConstraint", REGION)

    async def acl(self, request: web.Request) -> web.Response:
        """GetBucketAcl."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return access_control(request, "private")

    async def versioning(self, request: web.Request) -> web.Response:
        """GetBucketVersioning. Empty, like for a bucket that never had versioning enabled."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return xml.answer("VersioningConfiguration")

    async def delete(self, request: web.Request) -> web.Response:
        """DeleteBucket. Raises BucketNotEmpty."""
        await asyncio.to_thread(self._buckets.remove, request[CALL].bucket)
        return web.Response(status=204)

    async def delete_many(self, request: web.Request) -> web.Response:
        """DeleteMultipleObjects. Missing objects count as deleted. OSS documents no format for keys
        that cannot be deleted; they are listed in `Error` elements, like in S3."""
        call = request[CALL]
        encode = xml.key_encoder(call.query)
        await asyncio.to_thread(self._store.folder, call.bucket)
        keys, quiet = await read_deletion(request)
        refused = await asyncio.to_thread(self._remove_all, call.bucket, keys)
        if quiet and not refused:
            return web.Response()
        deleted = [] if quiet else [key for key in keys if key not in refused]
        return xml.answer(
            "DeleteResult",
            xml.encoding_type(call.query),
            [xml.element("Deleted", xml.element("Key", encode(key))) for key in deleted],
            [_refused(encode(key), *why) for key, why in refused.items()],
        )

    async def list_objects(self, request: web.Request) -> web.Response:
        """ListObjects (GetBucket), or ListObjectsV2 with `list-type=2`."""
        call = request[CALL]
        query = call.query
        second = query.get("list-type") == "2"
        limit = xml.limit(query, "max-keys", _PAGE)
        encode = xml.key_encoder(query)
        after = _after(query) if second else query.get("marker", "")
        page, infos = await asyncio.to_thread(
            self._store.page,
            call.bucket,
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            after=after,
            limit=limit,
        )
        with_owner = not second or query.get("fetch-owner") == "true"
        return xml.answer(
            "ListBucketResult",
            xml.element("Name", call.bucket),
            xml.element("Prefix", encode(query.get("prefix", ""))),
            xml.element("MaxKeys", limit),
            xml.element("Delimiter", encode(query.get("delimiter", ""))),
            xml.encoding_type(query),
            _position(query, page, encode) if second else _marker(query, page, encode),
            xml.element("IsTruncated", str(page.after is not None).lower()),
            [_contents(request, info, encode, with_owner) for info in infos],
            xml.common_prefixes(encode(prefix) for prefix in page.prefixes),
        )

    def _remove_all(self, bucket: str, keys: list[str]) -> dict[str, tuple[str, str]]:
        """Remove objects; return code and message for each refused key.

        Raises errors of status 500 and above.
        """
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
    request: web.Request, info: ObjectInfo, encode: Callable[[str], str], with_owner: bool
) -> Element:
    contents = xml.element(
        "Contents",
        xml.element("Key", encode(info.key)),
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
    token = query.get("continuation-token", "")
    return xml.decode_token(token) if token else query.get("start-after", "")


def _marker(query: Mapping[str, str], page: KeyPage, encode: Callable[[str], str]) -> list[Element]:
    elements = [xml.element("Marker", encode(query.get("marker", "")))]
    if page.after is not None:
        elements.append(xml.element("NextMarker", encode(page.after)))
    return elements


def _position(
    query: Mapping[str, str], page: KeyPage, encode: Callable[[str], str]
) -> list[Element]:
    token = query.get("continuation-token", "")
    elements = [
        xml.element("StartAfter", encode(query.get("start-after", ""))),
        xml.element("KeyCount", len(page.keys) + len(page.prefixes)),
    ]
    if token:
        elements.append(xml.element("ContinuationToken", encode(token)))
    if page.after is not None:
        following = encode(xml.encode_token(page.after))
        elements.append(xml.element("NextContinuationToken", following))
    return elements
