"""Operations on buckets, the listings of objects, and DeleteMultipleObjects (OSS API, "Bucket
operations")."""

import asyncio
from collections.abc import Callable, Mapping
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.oss import responses
from wesemu.api.oss.objects import access_control
from wesemu.api.oss.request import CALL
from wesemu.api.oss.responses import refusal
from wesemu.api.oss.streaming import check_document, read_deletion
from wesemu.errors import WesemuError
from wesemu.storage.bucket_admin import BucketAdmin, BucketInfo
from wesemu.storage.listing import KeyPage
from wesemu.storage.object_records import ObjectInfo
from wesemu.storage.objects import ObjectStore
from wesemu.util.cancellation import finish_in_thread

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
        limit = responses.limit(query, "max-keys", _PAGE)
        prefix, marker = query.get("prefix", ""), query.get("marker", "")
        buckets = [
            info
            for info in await asyncio.to_thread(self._buckets.all)
            if info.name.startswith(prefix) and info.name > marker
        ]
        page = buckets[:limit]
        is_truncated = len(buckets) > limit
        return responses.answer(
            "ListAllMyBucketsResult",
            responses.element("Prefix", prefix),
            responses.element("Marker", marker),
            responses.element("MaxKeys", limit),
            responses.element("IsTruncated", str(is_truncated).lower()),
            [responses.element("NextMarker", page[-1].name)] if is_truncated else [],
            responses.owner(request),
            responses.element("Buckets", *(_bucket(request, info) for info in page)),
        )

    async def create(self, request: web.Request) -> web.Response:
        """PutBucket. Raises OssRefused for a body that is not CreateBucketConfiguration: a client
        that leaves the bucket out of its address sends an object there."""
        await check_document(request, "CreateBucketConfiguration")
        bucket = request[CALL].bucket
        await finish_in_thread(self._buckets.create, bucket)
        return web.Response(headers={"Location": f"/{bucket}"})

    async def head(self, request: web.Request) -> web.Response:
        """HeadBucket, which `getBucketMetadata` of the Java SDK requests."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return web.Response(headers={"x-oss-bucket-region": REGION})

    async def info(self, request: web.Request) -> web.Response:
        """GetBucketInfo."""
        info = await asyncio.to_thread(self._buckets.info, request[CALL].bucket)
        bucket = _bucket(request, info)
        bucket.append(responses.owner(request))
        bucket.append(responses.element("AccessControlList", responses.element("Grant", "private")))
        bucket.append(responses.element("DataRedundancyType", "LRS"))
        for feature in ("AccessMonitor", "CrossRegionReplication", "TransferAcceleration"):
            bucket.append(responses.element(feature, "Disabled"))
        return responses.answer("BucketInfo", bucket)

    async def statistics(self, request: web.Request) -> web.Response:
        """GetBucketStat."""
        statistics = await asyncio.to_thread(self._buckets.statistics, request[CALL].bucket)
        modified = 0 if statistics.modified is None else int(statistics.modified.timestamp())
        return responses.answer(
            "BucketStat",
            responses.element("Storage", statistics.size),
            responses.element("ObjectCount", statistics.objects),
            responses.element("MultipartUploadCount", statistics.uploads),
            responses.element("LiveChannelCount", 0),
            responses.element("LastModifiedTime", modified),
            responses.element("StandardStorage", statistics.size),
            responses.element("StandardObjectCount", statistics.objects),
        )

    async def location(self, request: web.Request) -> web.Response:
        """GetBucketLocation."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return responses.answer("LocationConstraint", REGION)

    async def acl(self, request: web.Request) -> web.Response:
        """GetBucketAcl."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return access_control(request, "private")

    async def set_acl(self, request: web.Request) -> web.Response:
        """PutBucketAcl. `x-oss-acl: private` changes nothing; other values are not emulated."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        if "x-oss-acl" not in request.headers:
            raise responses.not_implemented("an ACL without the header x-oss-acl")
        return web.Response()

    async def versioning(self, request: web.Request) -> web.Response:
        """GetBucketVersioning. Empty, like for a bucket that never had versioning enabled."""
        await asyncio.to_thread(self._store.folder, request[CALL].bucket)
        return responses.answer("VersioningConfiguration")

    async def delete(self, request: web.Request) -> web.Response:
        """DeleteBucket. Raises BucketNotEmpty."""
        await finish_in_thread(self._buckets.remove, request[CALL].bucket)
        return web.Response(status=204)

    async def delete_many(self, request: web.Request) -> web.Response:
        """DeleteMultipleObjects. Missing objects count as deleted. OSS documents no format for keys
        that cannot be deleted; they are listed in `Error` elements, like in S3."""
        call = request[CALL]
        encode = responses.key_encoder(call.query)
        await asyncio.to_thread(self._store.folder, call.bucket)
        keys, quiet = await read_deletion(request)
        refused = await finish_in_thread(self._remove_all, call.bucket, keys)
        if quiet and not refused:
            return web.Response()
        deleted = [] if quiet else [key for key in keys if key not in refused]
        return responses.answer(
            "DeleteResult",
            responses.encoding_type(call.query),
            [
                responses.element("Deleted", responses.element("Key", encode(key)))
                for key in deleted
            ],
            [_refused(encode(key), *why) for key, why in refused.items()],
        )

    async def list_objects(self, request: web.Request) -> web.Response:
        """ListObjects (GetBucket), or ListObjectsV2 with `list-type=2`."""
        call = request[CALL]
        query = call.query
        second = query.get("list-type") == "2"
        limit = responses.limit(query, "max-keys", _PAGE)
        encode = responses.key_encoder(query)
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
        return responses.answer(
            "ListBucketResult",
            responses.element("Name", call.bucket),
            responses.element("Prefix", encode(query.get("prefix", ""))),
            responses.element("MaxKeys", limit),
            responses.element("Delimiter", encode(query.get("delimiter", ""))),
            responses.encoding_type(query),
            _position(query, page, encode) if second else _marker(query, page, encode),
            responses.element("IsTruncated", str(page.after is not None).lower()),
            [_contents(request, info, encode, with_owner) for info in infos],
            responses.common_prefixes(encode(prefix) for prefix in page.prefixes),
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
    return responses.element(
        "Error",
        responses.element("Key", key),
        responses.element("Code", code),
        responses.element("Message", message),
    )


def _bucket(request: web.Request, info: BucketInfo) -> Element:
    host = request.headers.get("Host", "")
    return responses.element(
        "Bucket",
        responses.element("Name", info.name),
        responses.element("Location", REGION),
        responses.element("Region", REGION.removeprefix("oss-")),
        responses.element("CreationDate", responses.time(info.created)),
        responses.element("ExtranetEndpoint", host),
        responses.element("IntranetEndpoint", host),
        responses.element("StorageClass", "Standard"),
    )


def _contents(
    request: web.Request, info: ObjectInfo, encode: Callable[[str], str], with_owner: bool
) -> Element:
    contents = responses.element(
        "Contents",
        responses.element("Key", encode(info.key)),
        responses.element("LastModified", responses.time(info.modified)),
        responses.element("ETag", f'"{info.etag}"'),
        responses.element("Type", info.record.kind),
        responses.element("Size", info.size),
        responses.element("StorageClass", "Standard"),
    )
    if with_owner:
        contents.append(responses.owner(request))
    return contents


def _after(query: Mapping[str, str]) -> str:
    token = query.get("continuation-token", "")
    return responses.decode_token(token) if token else query.get("start-after", "")


def _marker(query: Mapping[str, str], page: KeyPage, encode: Callable[[str], str]) -> list[Element]:
    elements = [responses.element("Marker", encode(query.get("marker", "")))]
    if page.after is not None:
        elements.append(responses.element("NextMarker", encode(page.after)))
    return elements


def _position(
    query: Mapping[str, str], page: KeyPage, encode: Callable[[str], str]
) -> list[Element]:
    token = query.get("continuation-token", "")
    elements = [
        responses.element("StartAfter", encode(query.get("start-after", ""))),
        responses.element("KeyCount", len(page.keys) + len(page.prefixes)),
    ]
    if token:
        elements.append(responses.element("ContinuationToken", encode(token)))
    if page.after is not None:
        following = encode(responses.encode_token(page.after))
        elements.append(responses.element("NextContinuationToken", following))
    return elements
