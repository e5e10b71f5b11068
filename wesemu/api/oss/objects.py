"""Operations on objects and multipart uploads (OSS API, "Object operations")."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from urllib.parse import quote
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.connections import base_url
from wesemu.api.oss import responses
from wesemu.api.oss.request import CALL, OssRequest
from wesemu.api.oss.streaming import (
    CRC64,
    SOURCE,
    ObjectResponse,
    check_conditions,
    checksums,
    md5_header,
    object_headers,
    open_source,
    range_applies,
    read_parts,
    read_small_body,
    receive,
    record_from_headers,
    requested_range,
    response_overrides,
    source_name,
)
from wesemu.errors import InvalidRequest
from wesemu.storage.multipart import PART_NUMBERS, MultipartUpload, MultipartUploads, UploadPart
from wesemu.storage.object_records import ObjectInfo, ObjectRecord
from wesemu.storage.objects import ObjectStore, open_object, open_upload
from wesemu.util.cancellation import finish_in_thread
from wesemu.util.text import whole_number


class ObjectHandlers:
    """Handles the operations on objects of `store`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, request: web.Request) -> web.Response:
        """PutObject, or CopyObject with `x-oss-copy-source`."""
        if SOURCE in request.headers:
            return await self._copy(request)
        call = request[CALL]
        record, overwrite = record_from_headers(request), may_overwrite(request)
        await asyncio.to_thread(self._store.check, call.bucket, call.key, overwrite=overwrite)
        async with open_upload(self._store, call.bucket) as target:
            digests = await receive(request, target)
            record = replace(record, etag=digests.etag, crc64=digests.crc64)
            info = await finish_in_thread(
                self._store.put, call.bucket, call.key, target, record, overwrite=overwrite
            )
        return web.Response(headers=checksums(info) | md5_header(info.etag))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GetObject; HeadObject is the same without the body."""
        call = request[CALL]
        info, file = await open_object(self._store, call.bucket, call.key)
        with ExitStack() as opened:  # close the file if a check raises
            opened.enter_context(file)
            check_conditions(request.headers, info)
            span = None
            if range_applies(request.headers, info):
                span = requested_range(request.headers, info.size)
            headers = object_headers(info) | response_overrides(call)
            if span is not None:
                last = sum(span) - 1
                headers["Content-Range"] = f"bytes {span[0]}-{last}/{info.size}"
                headers.pop("Content-MD5", None)  # that of the whole object
            opened.pop_all()
        status = 200 if span is None else 206
        return ObjectResponse(file, span or (0, info.size), status, headers)

    async def meta(self, request: web.Request) -> web.StreamResponse:
        """GetObjectMeta: a HEAD with few headers."""
        call = request[CALL]
        info, file = await open_object(self._store, call.bucket, call.key)
        names = ("ETag", "Last-Modified", "x-oss-hash-crc64ecma")
        headers = {name: value for name, value in object_headers(info).items() if name in names}
        return ObjectResponse(file, (0, info.size), 200, headers)

    async def delete(self, request: web.Request) -> web.Response:
        """DeleteObject. A missing object is also a success."""
        call = request[CALL]
        await finish_in_thread(self._store.remove, call.bucket, call.key)
        return web.Response(status=204)

    async def append(self, request: web.Request) -> web.Response:
        """AppendObject. Raises WrongPosition or NotAppendable."""
        call = request[CALL]
        position = call.query.get("position")
        if position is None:
            raise responses.OssRefused(
                400, "MissingArgument", "send position: the object's length, or 0 for a new object"
            )
        if not position.isascii() or not position.isdecimal():
            raise InvalidRequest("position must be the offset of the first byte, a whole number")
        record = record_from_headers(request)
        await asyncio.to_thread(self._store.check, call.bucket, call.key)
        async with open_upload(self._store, call.bucket) as target:
            digests = await receive(request, target)
            info = await finish_in_thread(
                self._store.append,
                call.bucket,
                call.key,
                int(position[:20]),
                target,
                digests,
                record,
            )
        headers = checksums(info) | {"x-oss-next-append-position": str(info.size)}
        return web.Response(headers=headers)

    async def acl(self, request: web.Request) -> web.Response:
        """GetObjectAcl. Objects have no ACL of their own."""
        call = request[CALL]
        await asyncio.to_thread(self._store.find, call.bucket, call.key)
        return access_control(request, "default")

    async def set_acl(self, request: web.Request) -> web.Response:
        """PutObjectAcl. `x-oss-object-acl: default` and `private` change nothing; other values are
        not emulated."""
        call = request[CALL]
        await asyncio.to_thread(self._store.find, call.bucket, call.key)
        if "x-oss-object-acl" not in request.headers:
            raise responses.not_implemented("an ACL without the header x-oss-object-acl")
        return web.Response()

    async def _copy(self, request: web.Request) -> web.Response:
        call = request[CALL]
        replaces, overwrite = _replaces_metadata(request), may_overwrite(request)
        await asyncio.to_thread(self._store.check, call.bucket, call.key, overwrite=overwrite)
        if source_name(request) == (call.bucket, call.key):
            return await self._copy_onto_itself(request, replaces)
        async with (
            open_source(self._store, request) as source,
            open_upload(self._store, call.bucket) as target,
        ):
            await source.write(target)
            digests = await asyncio.to_thread(target.finish)
            kept = record_from_headers(request) if replaces else source.info.record
            record = ObjectRecord(
                etag=digests.etag, crc64=digests.crc64, headers=kept.headers, metadata=kept.metadata
            )
            info = await finish_in_thread(
                self._store.put, call.bucket, call.key, target, record, overwrite=overwrite
            )
        return _copied(info)

    async def _copy_onto_itself(self, request: web.Request, replaces: bool) -> web.Response:
        """Copy an object onto itself, which replaces its metadata."""
        call = request[CALL]
        async with open_source(self._store, request) as source:
            record = record_from_headers(request) if replaces else source.info.record
            info = await finish_in_thread(
                self._store.replace_metadata, call.bucket, call.key, record
            )
        return _copied(info)


def may_overwrite(request: web.Request) -> bool:
    return request.headers.get("x-oss-forbid-overwrite", "").lower() != "true"


def access_control(request: web.Request, grant: str) -> web.Response:
    return responses.answer(
        "AccessControlPolicy",
        responses.owner(request),
        responses.element("AccessControlList", responses.element("Grant", grant)),
    )


def _copied(info: ObjectInfo) -> web.Response:
    response = responses.answer(
        "CopyObjectResult",
        responses.element("LastModified", responses.time(info.modified)),
        responses.element("ETag", f'"{info.etag}"'),
    )
    response.headers.update(checksums(info))
    return response


def _replaces_metadata(request: web.Request) -> bool:
    directive = request.headers.get("x-oss-metadata-directive", "COPY").upper()
    if directive not in ("COPY", "REPLACE"):
        raise InvalidRequest("x-oss-metadata-directive must be COPY or REPLACE")
    return directive == "REPLACE"


_PAGE = 1000


class MultipartHandlers:
    """Handles the multipart `uploads` into `store`."""

    def __init__(self, uploads: MultipartUploads, store: ObjectStore) -> None:
        self._uploads = uploads
        self._store = store

    async def begin(self, request: web.Request) -> web.Response:
        """InitiateMultipartUpload."""
        call = request[CALL]
        address = _address(call)
        record, overwrite = record_from_headers(request), may_overwrite(request)
        upload_id = await finish_in_thread(
            self._uploads.begin, call.bucket, call.key, record, overwrite=overwrite
        )
        return responses.answer(
            "InitiateMultipartUploadResult",
            responses.encoding_type(call.query),
            address,
            responses.element("UploadId", upload_id),
        )

    async def put_part(self, request: web.Request) -> web.Response:
        """UploadPart, or UploadPartCopy with `x-oss-copy-source`. Raises UploadNotFound."""
        call = request[CALL]
        number = _part_number(call.query["partNumber"])
        upload_id = call.query["uploadId"]
        # check the upload id before reading the body
        await asyncio.to_thread(self._uploads.parts, call.bucket, call.key, upload_id)
        async with open_upload(self._store, call.bucket) as target:
            if copied := SOURCE in request.headers:
                async with open_source(self._store, request) as source:
                    await source.write(target)
                digests = await asyncio.to_thread(target.finish)
            else:
                digests = await receive(request, target)
            part = await finish_in_thread(
                self._uploads.put_part, call.bucket, call.key, upload_id, number, target, digests
            )
        response = _copied_part(part) if copied else web.Response(headers=md5_header(part.etag))
        response.headers["ETag"] = f'"{part.etag}"'
        if part.crc64 is not None:
            response.headers[CRC64] = str(part.crc64)
        return response

    async def list_parts(self, request: web.Request) -> web.Response:
        """ListParts. Raises UploadNotFound."""
        call = request[CALL]
        address = _address(call)
        limit = responses.limit(call.query, "max-parts", _PAGE)
        marker = responses.number(call.query, "part-number-marker")
        upload_id = call.query["uploadId"]
        parts = await asyncio.to_thread(self._uploads.parts, call.bucket, call.key, upload_id)
        parts_after = [part for part in parts if part.number > marker]
        page = parts_after[:limit]
        return responses.answer(
            "ListPartsResult",
            responses.encoding_type(call.query),
            address,
            responses.element("UploadId", upload_id),
            responses.element("StorageClass", "Standard"),
            responses.element("PartNumberMarker", marker),
            responses.element("NextPartNumberMarker", page[-1].number if page else marker),
            responses.element("MaxParts", limit),
            responses.element("IsTruncated", str(len(parts_after) > limit).lower()),
            [_listed_part(part) for part in page],
        )

    async def complete(self, request: web.Request) -> web.Response:
        """CompleteMultipartUpload. `x-oss-complete-all: yes` uses all uploaded parts."""
        call = request[CALL]
        address = _address(call)
        everything = request.headers.get("x-oss-complete-all", "").lower() == "yes"
        parts = None if everything else await read_parts(request)
        if everything and await read_small_body(request):
            raise InvalidRequest("x-oss-complete-all: yes means all parts; send no body with it")
        info = await finish_in_thread(
            self._uploads.complete,
            call.bucket,
            call.key,
            call.query["uploadId"],
            parts,
            overwrite=may_overwrite(request),
        )
        path = quote(f"{call.bucket}/{call.key}", errors="surrogateescape")
        response = responses.answer(
            "CompleteMultipartUploadResult",
            responses.encoding_type(call.query),
            responses.element("Location", f"{base_url(request)}/{path}"),
            address,
            responses.element("ETag", f'"{info.etag}"'),
        )
        response.headers.update(checksums(info))
        return response

    async def abort(self, request: web.Request) -> web.Response:
        """AbortMultipartUpload. Raises UploadNotFound."""
        call = request[CALL]
        upload_id = call.query["uploadId"]
        await finish_in_thread(self._uploads.abort, call.bucket, call.key, upload_id)
        return web.Response(status=204)

    async def list_uploads(self, request: web.Request) -> web.Response:
        """ListMultipartUploads."""
        call = request[CALL]
        query = call.query
        encode = responses.key_encoder(query)
        limit = responses.limit(query, "max-uploads", _PAGE)
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        key_marker, id_marker = query.get("key-marker", ""), query.get("upload-id-marker", "")
        # uploads, and the common prefixes of several
        entries: dict[tuple[str, str], MultipartUpload | None] = {}
        for upload in await asyncio.to_thread(self._uploads.all, call.bucket):
            if not upload.key.startswith(prefix) or not _is_after(upload, key_marker, id_marker):
                continue
            common = _common(upload.key, prefix, delimiter)
            if not common:
                entries[upload.key, upload.id] = upload
            elif common != key_marker:  # else it was on an earlier page
                entries[common, ""] = None
        page = list(entries.items())[:limit]
        last_key, last_id = page[-1][0] if page else ("", "")  # also of the last page
        return responses.answer(
            "ListMultipartUploadsResult",
            responses.encoding_type(query),
            responses.element("Bucket", call.bucket),
            responses.element("KeyMarker", encode(key_marker)),
            responses.element("UploadIdMarker", id_marker),
            responses.element("NextKeyMarker", encode(last_key)),
            responses.element("NextUploadIdMarker", last_id),
            responses.element("Prefix", encode(prefix)),
            responses.element("Delimiter", encode(delimiter)),
            responses.element("MaxUploads", limit),
            responses.element("IsTruncated", str(len(entries) > limit).lower()),
            [_listed_upload(upload, encode) for _, upload in page if upload is not None],
            responses.common_prefixes(encode(name) for (name, _), each in page if each is None),
        )


def _part_number(text: str) -> int:
    number = whole_number(text)
    if number is None or number not in PART_NUMBERS:
        raise InvalidRequest(f"partNumber must be a number from 1 to 10000, not {text[:40]!r}")
    return number


def _listed_part(part: UploadPart) -> Element:
    return responses.element(
        "Part",
        responses.element("PartNumber", part.number),
        responses.element("LastModified", responses.time(part.modified)),
        responses.element("ETag", f'"{part.etag}"'),
        responses.element("HashCrc64ecma", "" if part.crc64 is None else part.crc64),
        responses.element("Size", part.size),
    )


def _listed_upload(upload: MultipartUpload, encode: Callable[[str], str]) -> Element:
    return responses.element(
        "Upload",
        responses.element("Key", encode(upload.key)),
        responses.element("UploadId", upload.id),
        responses.element("StorageClass", "Standard"),
        responses.element("Initiated", responses.time(upload.started)),
    )


def _address(call: OssRequest) -> list[Element]:
    """Return bucket and key. Raises InvalidRequest for an unknown `encoding-type`."""
    return [
        responses.element("Bucket", call.bucket),
        responses.element("Key", responses.key_encoder(call.query)(call.key)),
    ]


def _copied_part(part: UploadPart) -> web.Response:
    return responses.answer(
        "CopyPartResult",
        responses.element("LastModified", responses.time(part.modified)),
        responses.element("ETag", f'"{part.etag}"'),
    )


def _is_after(upload: MultipartUpload, key_marker: str, id_marker: str) -> bool:
    """Return whether an upload comes after the markers.

    Without `upload-id-marker`, all uploads of the key `key-marker` are skipped.
    """
    if id_marker:
        return (upload.key, upload.id) > (key_marker, id_marker)
    return upload.key > key_marker


def _common(key: str, prefix: str, delimiter: str) -> str:
    end = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: end + len(delimiter)] if end >= 0 else ""
