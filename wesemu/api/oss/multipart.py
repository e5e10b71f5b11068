"""The operations on multipart uploads."""

import asyncio
from collections.abc import Callable
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.connections import base_url
from wesemu.api.oss import xml
from wesemu.api.oss.objects import may_overwrite
from wesemu.api.oss.request import CALL
from wesemu.api.oss.streaming import (
    CRC64,
    SOURCE,
    checksums,
    incoming,
    opened_source,
    read_parts,
    receive,
    sent_record,
)
from wesemu.errors import InvalidRequest
from wesemu.storage.multipart import PART_NUMBERS, MultipartUpload, MultipartUploads, UploadPart
from wesemu.storage.objects import ObjectStore
from wesemu.util.text import whole_number

_PAGE = 1000


class MultipartHandlers:
    """Answers for the `uploads` into `store`."""

    def __init__(self, uploads: MultipartUploads, store: ObjectStore) -> None:
        self._uploads = uploads
        self._store = store

    async def begin(self, request: web.Request) -> web.Response:
        """InitiateMultipartUpload."""
        call = request[CALL]
        spelled = xml.spelling(call.query)
        record = sent_record(request)
        upload_id = await asyncio.to_thread(self._uploads.begin, call.bucket, call.key, record)
        return xml.answer(
            "InitiateMultipartUploadResult",
            xml.encoding(call.query),
            xml.element("Bucket", call.bucket),
            xml.element("Key", spelled(call.key)),
            xml.element("UploadId", upload_id),
        )

    async def put_part(self, request: web.Request) -> web.Response:
        """UploadPart, or UploadPartCopy where a source is named. Raises UploadNotFound."""
        call = request[CALL]
        number = _part_number(call.query["partNumber"])
        upload_id = call.query["uploadId"]
        await asyncio.to_thread(self._uploads.parts, call.bucket, call.key, upload_id)
        async with incoming(self._store, call.bucket) as target:
            if copied := SOURCE in request.headers:
                async with opened_source(self._store, request) as source:
                    await source.write(target)
                digests = await asyncio.to_thread(target.finish)
            else:
                digests = await receive(request, target)
            part = await asyncio.to_thread(
                self._uploads.put_part, call.bucket, call.key, upload_id, number, target, digests
            )
        response = _copied(part) if copied else web.Response()
        response.headers["ETag"] = f'"{part.etag}"'
        if part.crc64 is not None:
            response.headers[CRC64] = str(part.crc64)
        return response

    async def list_parts(self, request: web.Request) -> web.Response:
        """Raises UploadNotFound."""
        call = request[CALL]
        spelled = xml.spelling(call.query)
        most = xml.limit(call.query, "max-parts", _PAGE)
        marker = xml.number(call.query, "part-number-marker")
        upload_id = call.query["uploadId"]
        parts = await asyncio.to_thread(self._uploads.parts, call.bucket, call.key, upload_id)
        found = [part for part in parts if part.number > marker]
        shown = found[:most]
        return xml.answer(
            "ListPartsResult",
            xml.encoding(call.query),
            xml.element("Bucket", call.bucket),
            xml.element("Key", spelled(call.key)),
            xml.element("UploadId", upload_id),
            xml.element("PartNumberMarker", marker),
            xml.element("NextPartNumberMarker", shown[-1].number if shown else marker),
            xml.element("MaxParts", most),
            xml.element("IsTruncated", str(len(found) > most).lower()),
            [_listed_part(part) for part in shown],
        )

    async def complete(self, request: web.Request) -> web.Response:
        """CompleteMultipartUpload; `x-oss-complete-all: yes` takes all parts without naming any."""
        call = request[CALL]
        spelled = xml.spelling(call.query)
        everything = request.headers.get("x-oss-complete-all", "").lower() == "yes"
        named = None if everything else await read_parts(request)
        info = await asyncio.to_thread(
            self._uploads.complete,
            call.bucket,
            call.key,
            call.query["uploadId"],
            named,
            overwrite=may_overwrite(request),
        )
        response = xml.answer(
            "CompleteMultipartUploadResult",
            xml.encoding(call.query),
            xml.element("Location", f"{base_url(request)}/{call.bucket}/{spelled(call.key)}"),
            xml.element("Bucket", call.bucket),
            xml.element("Key", spelled(call.key)),
            xml.element("ETag", f'"{info.etag}"'),
        )
        response.headers.update(checksums(info))
        return response

    async def abort(self, request: web.Request) -> web.Response:
        """Raises UploadNotFound."""
        call = request[CALL]
        upload_id = call.query["uploadId"]
        await asyncio.to_thread(self._uploads.abort, call.bucket, call.key, upload_id)
        return web.Response(status=204)

    async def list_uploads(self, request: web.Request) -> web.Response:
        call = request[CALL]
        query = call.query
        spelled = xml.spelling(query)
        most = xml.limit(query, "max-uploads", _PAGE)
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        key_marker, id_marker = query.get("key-marker", ""), query.get("upload-id-marker", "")
        uploads = [
            upload
            for upload in await asyncio.to_thread(self._uploads.all, call.bucket)
            if upload.key.startswith(prefix) and _is_behind(upload, key_marker, id_marker)
        ]
        found = [upload for upload in uploads if not _common(upload.key, prefix, delimiter)]
        common = {_common(upload.key, prefix, delimiter) for upload in uploads} - {""}
        last = found[most - 1] if len(found) > most else None
        return xml.answer(
            "ListMultipartUploadsResult",
            xml.encoding(query),
            xml.element("Bucket", call.bucket),
            xml.element("KeyMarker", spelled(key_marker)),
            xml.element("UploadIdMarker", id_marker),
            xml.element("NextKeyMarker", spelled(last.key) if last else ""),
            xml.element("NextUploadIdMarker", last.id if last else ""),
            xml.element("Prefix", spelled(prefix)),
            xml.element("Delimiter", spelled(delimiter)),
            xml.element("MaxUploads", most),
            xml.element("IsTruncated", str(last is not None).lower()),
            [_listed_upload(upload, spelled) for upload in found[:most]],
            xml.common_prefixes(spelled(name) for name in sorted(common)),
        )


def _part_number(text: str) -> int:
    number = whole_number(text)
    if number is None or number not in PART_NUMBERS:
        raise InvalidRequest(f"partNumber is a number from 1 to 10000, not {text[:40]!r}")
    return number


def _listed_part(part: UploadPart) -> Element:
    return xml.element(
        "Part",
        xml.element("PartNumber", part.number),
        xml.element("LastModified", xml.time(part.modified)),
        xml.element("ETag", f'"{part.etag}"'),
        xml.element("HashCrc64ecma", "" if part.crc64 is None else part.crc64),
        xml.element("Size", part.size),
    )


def _listed_upload(upload: MultipartUpload, spelled: Callable[[str], str]) -> Element:
    return xml.element(
        "Upload",
        xml.element("Key", spelled(upload.key)),
        xml.element("UploadId", upload.id),
        xml.element("StorageClass", "Standard"),
        xml.element("Initiated", xml.time(upload.started)),
    )


def _copied(part: UploadPart) -> web.Response:
    return xml.answer(
        "CopyPartResult",
        xml.element("LastModified", xml.time(part.modified)),
        xml.element("ETag", f'"{part.etag}"'),
    )


def _is_behind(upload: MultipartUpload, key_marker: str, id_marker: str) -> bool:
    """Without an id the uploads of the marker's own key are passed over."""
    if id_marker:
        return (upload.key, upload.id) > (key_marker, id_marker)
    return upload.key > key_marker


def _common(key: str, prefix: str, delimiter: str) -> str:
    end = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: end + len(delimiter)] if end >= 0 else ""
