"""The operations on one object."""

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
    described,
    incoming,
    opened_source,
    overridden,
    receive,
    sent_record,
    source_name,
    wanted_range,
)
from wesemu.errors import InvalidRequest
from wesemu.storage.objects import ObjectInfo, ObjectRecord, ObjectStore


class ObjectHandlers:
    """Answers for the objects of `store`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, request: web.Request) -> web.Response:
        """PutObject, or CopyObject where a source is named."""
        if SOURCE in request.headers:
            return await self._copy(request)
        call = request[CALL]
        record = sent_record(request)
        await asyncio.to_thread(self._store.check, call.bucket, call.key)
        async with incoming(self._store, call.bucket) as target:
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
        """GetObject, and HeadObject, which is the same without the bytes."""
        call = request[CALL]
        info, file = await asyncio.to_thread(self._store.open, call.bucket, call.key)
        with ExitStack() as opened:
            opened.enter_context(file)
            check_conditions(request.headers, info)
            span = wanted_range(request.headers, info.size)
            headers = described(info) | overridden(call)
            if span is not None:
                last = sum(span) - 1
                headers["Content-Range"] = f"bytes {span[0]}-{last}/{info.size}"
            opened.pop_all()
        status = 200 if span is None else 206
        return ObjectResponse(file, span or (0, info.size), status, headers)

    async def meta(self, request: web.Request) -> web.StreamResponse:
        """GetObjectMeta: a HEAD that tells little."""
        call = request[CALL]
        info, file = await asyncio.to_thread(self._store.open, call.bucket, call.key)
        told = ("ETag", "Last-Modified", "x-oss-hash-crc64ecma")
        headers = {name: value for name, value in described(info).items() if name in told}
        return ObjectResponse(file, (0, info.size), 200, headers)

    async def delete(self, request: web.Request) -> web.Response:
        """That there is no such object is a success too."""
        call = request[CALL]
        await asyncio.to_thread(self._store.remove, call.bucket, call.key)
        return web.Response(status=204)

    async def append(self, request: web.Request) -> web.Response:
        """Raises WrongPosition, NotAppendable."""
        call = request[CALL]
        position = call.query.get("position", "")
        if not position.isascii() or not position.isdecimal():
            raise InvalidRequest("give the parameter position: where the bytes are to begin")
        record = sent_record(request)
        await asyncio.to_thread(self._store.check, call.bucket, call.key)
        async with incoming(self._store, call.bucket) as target:
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
        """Objects have no access list of their own."""
        call = request[CALL]
        await asyncio.to_thread(self._store.find, call.bucket, call.key)
        return access_control(request, "default")

    async def _copy(self, request: web.Request) -> web.Response:
        call = request[CALL]
        replaced = _replaces_metadata(request)
        if source_name(request) == (call.bucket, call.key):
            return await self._describe(request, replaced)
        await asyncio.to_thread(self._store.check, call.bucket, call.key)
        async with (
            opened_source(self._store, request) as source,
            incoming(self._store, call.bucket) as target,
        ):
            await source.write(target)
            digests = await asyncio.to_thread(target.finish)
            kept = sent_record(request) if replaced else source.info.record
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

    async def _describe(self, request: web.Request, replaced: bool) -> web.Response:
        """A copy onto itself, which is how an object gets other metadata."""
        call = request[CALL]
        async with opened_source(self._store, request) as source:
            record = sent_record(request) if replaced else source.info.record
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
        raise InvalidRequest("x-oss-metadata-directive is COPY or REPLACE")
    return directive == "REPLACE"
