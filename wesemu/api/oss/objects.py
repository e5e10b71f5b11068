"""Operations on objects (OSS API, "Object operations")."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace

from aiohttp import web

from wesemu.api.oss import xml
from wesemu.api.oss.request import CALL
from wesemu.api.oss.streaming import (
    SOURCE,
    ObjectResponse,
    check_conditions,
    checksums,
    object_headers,
    open_source,
    receive,
    record_from_headers,
    requested_range,
    response_overrides,
    source_name,
    upload_file,
)
from wesemu.errors import InvalidRequest, ObjectExists
from wesemu.storage.objects import ObjectInfo, ObjectRecord, ObjectStore


class ObjectHandlers:
    """Handles the operations on objects of `store`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, request: web.Request) -> web.Response:
        """PutObject, or CopyObject with `x-oss-copy-source`."""
        if SOURCE in request.headers:
            return await self._copy(request)
        call = request[CALL]
        record = record_from_headers(request)
        await asyncio.to_thread(self._store.check, call.bucket, call.key)
        async with upload_file(self._store, call.bucket) as target:
            digests = await receive(request, target)
            record = replace(record, etag=digests.etag, crc64=digests.crc64)
            info = await asyncio.to_thread(
                self._store.put,
                call.bucket,
                call.key,
                target,
                record,
                overwrite=may_overwrite(request),
            )
        return web.Response(headers=checksums(info))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GetObject; HeadObject is the same without the body."""
        call = request[CALL]
        info, file = await asyncio.to_thread(self._store.open, call.bucket, call.key)
        with ExitStack() as opened:  # close the file if a check raises
            opened.enter_context(file)
            check_conditions(request.headers, info)
            span = requested_range(request.headers, info.size)
            headers = object_headers(info) | response_overrides(call)
            if span is not None:
                last = sum(span) - 1
                headers["Content-Range"] = f"bytes {span[0]}-{last}/{info.size}"
            opened.pop_all()
        status = 200 if span is None else 206
        return ObjectResponse(file, span or (0, info.size), status, headers)

    async def meta(self, request: web.Request) -> web.StreamResponse:
        """GetObjectMeta: a HEAD with few headers."""
        call = request[CALL]
        info, file = await asyncio.to_thread(self._store.open, call.bucket, call.key)
        names = ("ETag", "Last-Modified", "x-oss-hash-crc64ecma")
        headers = {name: value for name, value in object_headers(info).items() if name in names}
        return ObjectResponse(file, (0, info.size), 200, headers)

    async def delete(self, request: web.Request) -> web.Response:
        """DeleteObject. A missing object is also a success."""
        call = request[CALL]
        await asyncio.to_thread(self._store.remove, call.bucket, call.key)
        return web.Response(status=204)

    async def append(self, request: web.Request) -> web.Response:
        """AppendObject. Raises WrongPosition or NotAppendable."""
        call = request[CALL]
        position = call.query.get("position", "")
        if not position.isascii() or not position.isdecimal():
            raise InvalidRequest("position must be the offset of the first byte, a whole number")
        record = record_from_headers(request)
        await asyncio.to_thread(self._store.check, call.bucket, call.key)
        async with upload_file(self._store, call.bucket) as target:
            digests = await receive(request, target)
            info = await asyncio.to_thread(
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

    async def _copy(self, request: web.Request) -> web.Response:
        call = request[CALL]
        replaces = _replaces_metadata(request)
        if source_name(request) == (call.bucket, call.key):
            return await self._copy_onto_itself(request, replaces)
        await asyncio.to_thread(self._store.check, call.bucket, call.key)
        async with (
            open_source(self._store, request) as source,
            upload_file(self._store, call.bucket) as target,
        ):
            await source.write(target)
            digests = await asyncio.to_thread(target.finish)
            kept = record_from_headers(request) if replaces else source.info.record
            record = ObjectRecord(
                etag=digests.etag,
                crc64=digests.crc64,
                headers=kept.headers,
                metadata=kept.metadata,
            )
            info = await asyncio.to_thread(
                self._store.put,
                call.bucket,
                call.key,
                target,
                record,
                overwrite=may_overwrite(request),
            )
        return _copied(info)

    async def _copy_onto_itself(self, request: web.Request, replaces: bool) -> web.Response:
        """Copy an object onto itself, which replaces its metadata. Raises ObjectExists."""
        call = request[CALL]
        async with open_source(self._store, request) as source:
            if not may_overwrite(request):
                raise ObjectExists(f"{call.key!r} exists, and the request forbids overwriting it")
            record = record_from_headers(request) if replaces else source.info.record
            info = await asyncio.to_thread(
                self._store.replace_metadata, call.bucket, call.key, record
            )
        return _copied(info)


def may_overwrite(request: web.Request) -> bool:
    return request.headers.get("x-oss-forbid-overwrite", "").lower() != "true"


def access_control(request: web.Request, grant: str) -> web.Response:
    return xml.answer(
        "AccessControlPolicy",
        xml.owner(request),
        xml.element("AccessControlList", xml.element("Grant", grant)),
    )


def _copied(info: ObjectInfo) -> web.Response:
    response = xml.answer(
        "CopyObjectResult",
        xml.element("LastModified", xml.time(info.modified)),
        xml.element("ETag", f'"{info.etag}"'),
    )
    response.headers.update(checksums(info))
    return response


def _replaces_metadata(request: web.Request) -> bool:
    directive = request.headers.get("x-oss-metadata-directive", "COPY").upper()
    if directive not in ("COPY", "REPLACE"):
        raise InvalidRequest("x-oss-metadata-directive must be COPY or REPLACE")
    return directive == "REPLACE"
