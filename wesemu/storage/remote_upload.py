"""Uploads to a remote bucket: whole or in parts, resumable, verified after the transfer."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wesemu.errors import InputError, RemoteFault
from wesemu.storage.checksums import CRC64, MD5, Crc64, combine_crc64
from wesemu.storage.remote import ByteCallback, RemoteBucket, RemotePart

_T = TypeVar("_T")


async def run_all(coroutines: Iterable[Coroutine[Any, Any, _T]], name: str) -> list[_T]:
    """Run the coroutines concurrently and return their results in order.

    The first failure cancels the others and is raised as it is, with its cause; a TaskGroup would
    wrap it in an ExceptionGroup.
    """
    tasks = [asyncio.create_task(each, name=name) for each in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_CONCURRENCY = 4
_MAX_PARTS = 10_000
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteUpload:
    """One file to send.

    `size` is in bytes, `sha256` in hexadecimal. The state of a multipart upload is saved in
    `record`.
    """

    path: Path
    key: str
    size: int
    sha256: str
    record: Path


@dataclass(slots=True)
class PendingUpload:
    """An upload whose object appears with `finish`. `visible`: the object has appeared."""

    upload: RemoteUpload
    report: ByteCallback
    create: Callable[[], Awaitable[None]]
    check: Callable[[], Awaitable[None]]
    visible: bool = False

    async def finish(self) -> None:
        """Create the object, and compare its size and checksums with the file's."""
        if not self.visible:
            await self.create()
            self.visible = True
            await self.check()
        await asyncio.to_thread(self.upload.record.unlink, missing_ok=True)
        self.report(self.upload.size, self.upload.size)


class Uploader:
    """Sends files into one bucket. Raises InputError, RemoteFault, OSError."""

    def __init__(self, bucket: RemoteBucket, crc64: Crc64 | None = None) -> None:
        self._bucket = bucket
        self._crc64 = crc64

    async def begin(self, upload: RemoteUpload, report: ByteCallback) -> PendingUpload:
        """Send the parts of a large file; `finish` of the result creates the object.

        Nothing is sent if this server has sent the same content to the key before. Content-MD5
        covers each part.
        """
        if await self._is_uploaded(upload):
            return PendingUpload(upload, report, _nothing, _nothing, visible=True)
        if upload.size <= self._bucket.part_size:
            return self._whole(upload, report)
        return await self._send_parts(upload, report)

    async def abort(self, upload_key: str, record: Path) -> None:
        """Abort the multipart upload saved in `record`, if any, and remove the record."""
        upload_id = (await asyncio.to_thread(_read_record, record)).get("upload")
        if upload_id is not None:
            await self._bucket.call(upload_key, lambda store, key: store.abort(key, upload_id))
        await asyncio.to_thread(record.unlink, missing_ok=True)

    async def _is_uploaded(self, upload: RemoteUpload) -> bool:
        """Return True if this server has sent this content to the key."""
        existing = await self._bucket.find(upload.key)
        return existing is not None and (existing.size, existing.sha256) == (
            upload.size,
            upload.sha256,
        )

    def _whole(self, upload: RemoteUpload, report: ByteCallback) -> PendingUpload:
        crc64: int | None = None
        md5 = b""

        async def put() -> None:
            nonlocal crc64, md5
            data = await asyncio.to_thread(upload.path.read_bytes)
            md5 = await asyncio.to_thread(_md5, data)
            if self._crc64 is not None:
                crc64 = await asyncio.to_thread(self._crc64, data, 0)
            await self._bucket.call(
                upload.key, lambda store, key: store.put(key, data, md5, upload.sha256), final=True
            )

        return PendingUpload(upload, report, put, lambda: self._check(upload, crc64, md5))

    async def _send_parts(self, upload: RemoteUpload, report: ByteCallback) -> PendingUpload:
        size = _part_size(upload.size, self._bucket.part_size)
        upload_id, existing = await self._begin_or_resume(upload, size)
        numbers = iter(range(1, -(-upload.size // size) + 1))
        sent: dict[int, RemotePart] = {}
        sums: dict[int, int] = {}

        # All senders take their part numbers from one iterator.
        async def send_parts() -> None:
            for number in numbers:
                data = await asyncio.to_thread(_read_part, upload.path, number, size)
                md5 = await asyncio.to_thread(_md5, data)
                if self._crc64 is not None:
                    sums[number] = await asyncio.to_thread(self._crc64, data, 0)
                sent[number] = existing.get(number) or RemotePart(0, 0, "")
                if not _has_arrived(sent[number], data, md5):
                    sent[number] = await self._bucket.call(
                        upload.key,
                        lambda store, key, data=data, number=number, md5=md5: store.send(  # type: ignore[misc]
                            key, upload_id, number, data, md5
                        ),
                    )
                report(sum(part.size for part in sent.values()), upload.size)

        await run_all([send_parts() for _ in range(_CONCURRENCY)], f"upload {upload.key}")
        parts = [sent[number] for number in sorted(sent)]
        crc64 = combine_crc64((sums[part.number], part.size) for part in parts) if sums else None

        async def complete() -> None:
            try:
                await self._bucket.call(
                    upload.key, lambda store, key: store.complete(key, upload_id, parts), final=True
                )
            except InputError:
                # The response of an earlier attempt may have been lost: then the upload is gone,
                # and the object exists.
                if not await self._is_uploaded(upload):
                    raise

        return PendingUpload(upload, report, complete, lambda: self._check(upload, crc64, None))

    async def _begin_or_resume(
        self, upload: RemoteUpload, size: int
    ) -> tuple[str, dict[int, RemotePart]]:
        """Return the id of the saved or a new multipart upload, and its parts by number."""
        saved = await asyncio.to_thread(_read_record, upload.record)
        if (saved.get("sha256"), saved.get("part_size")) == (upload.sha256, str(size)):
            upload_id = saved["upload"]
            parts = await self._bucket.call(
                upload.key, lambda store, key: store.parts(key, upload_id)
            )
            if parts is not None:
                return upload_id, {part.number: part for part in parts}
        upload_id = await self._bucket.call(
            upload.key, lambda store, key: store.begin(key, upload.sha256)
        )
        record = {"upload": upload_id, "sha256": upload.sha256, "part_size": str(size)}
        await asyncio.to_thread(_write_record, upload.record, record)
        return upload_id, {}

    async def _check(self, upload: RemoteUpload, crc64: int | None, md5: bytes | None) -> None:
        """Raise RemoteFault if the object's size or checksums differ from the file's."""
        name = self._bucket.url(upload.key)
        existing = await self._bucket.find(upload.key)
        sums = {CRC64: None if crc64 is None else crc64.to_bytes(8, "big"), MD5: md5}
        if existing is None or existing.size != upload.size:
            problem = f"has {existing.size if existing else 'no'} bytes and not {upload.size}"
        else:
            wrong = [
                stated.algorithm
                for stated in existing.checksums
                if sums.get(stated.algorithm) not in (None, stated.value)
            ]
            if not wrong:
                return
            problem = f"has another {wrong[0]} checksum than the file"
        raise RemoteFault(
            f"{name} {problem} after the upload; check whether another program writes this key",
            file=name,
        )


async def _nothing() -> None:
    """The object has been there before."""


def _has_arrived(part: RemotePart, data: bytes, md5: bytes) -> bool:
    return part.size == len(data) and part.etag.strip('"').lower() == md5.hex()


def _part_size(size: int, configured: int) -> int:
    """Return the configured part size, or whole MiB where 10,000 parts would not suffice."""
    needed = -(-size // _MAX_PARTS)
    return configured if needed <= configured else -(-needed // _MIB) * _MIB


def _read_part(path: Path, number: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek((number - 1) * size)
        return file.read(size)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _read_record(record: Path) -> dict[str, str]:
    try:
        content = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in content.items()}


def _write_record(record: Path, value: dict[str, str]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(".new")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(record)
