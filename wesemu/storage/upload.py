"""Files on their way to a remote bucket: in parts, gone on with after a break, checked there."""

import asyncio
import hashlib
import json
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wesemu.errors import InputError, RemoteFault
from wesemu.storage.checksums import CRC64, MD5, Crc64, combine_crc64
from wesemu.storage.remote import ByteCallback, RemoteBucket, RemotePart

# Several undertakings at once, all or nothing.


_T = TypeVar("_T")


async def run_all(works: Iterable[Coroutine[Any, Any, _T]], name: str) -> list[_T]:
    """What all of them return, in order. The first failure ends the others and is raised."""
    tasks = [asyncio.create_task(work, name=name) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_AT_ONCE = 4
_MOST_PARTS = 10_000
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteUpload:
    """One file to send. `record` is where it is kept what has been begun; `sha256` that of the
    file, in hexadecimal."""

    path: Path
    key: str
    size: int
    sha256: str
    record: Path


class Uploader:
    """Sends files into one bucket. Raises InputError, RemoteFault, OSError."""

    def __init__(self, bucket: RemoteBucket, crc64: Crc64 | None = None) -> None:
        self._bucket = bucket
        self._crc64 = crc64

    async def send(self, upload: RemoteUpload, tell: ByteCallback) -> None:
        """Send it, unless it is there already; afterwards it is there, whole and the same.

        Every part is covered by its MD5 (Content-MD5), the whole by its size and by the CRC-64 or
        MD5 that the service tells of it.
        """
        if not await self._is_there(upload):
            if upload.size <= self._bucket.part_size:
                await self._send_whole(upload)
            else:
                await self._send_parts(upload, tell)
        await asyncio.to_thread(upload.record.unlink, missing_ok=True)
        tell(upload.size, upload.size)

    async def abort(self, upload_key: str, record: Path) -> None:
        """Have the service forget the parts of an upload that will not be gone on with."""
        identity = (await asyncio.to_thread(_read, record)).get("upload")
        if identity is not None:
            await self._bucket.ask(upload_key, lambda store, key: store.abort(key, identity))
        await asyncio.to_thread(record.unlink, missing_ok=True)

    async def _is_there(self, upload: RemoteUpload) -> bool:
        """Whether this server has sent just this content there."""
        there = await self._bucket.find(upload.key)
        return there is not None and (there.size, there.sha256) == (upload.size, upload.sha256)

    async def _send_whole(self, upload: RemoteUpload) -> None:
        data = await asyncio.to_thread(upload.path.read_bytes)
        md5 = await asyncio.to_thread(_md5, data)
        await self._bucket.ask(
            upload.key, lambda store, key: store.put(key, data, md5, upload.sha256)
        )
        crc64 = None
        if self._crc64 is not None:
            crc64 = await asyncio.to_thread(self._crc64, data, 0)
        await self._check(upload, crc64, md5)

    async def _send_parts(self, upload: RemoteUpload, tell: ByteCallback) -> None:
        size = _part_size(upload.size, self._bucket.part_size)
        identity, there = await self._begun(upload, size)
        waiting = iter(range(1, -(-upload.size // size) + 1))
        done: dict[int, RemotePart] = {}
        sums: dict[int, int] = {}

        async def work() -> None:
            for number in waiting:
                data = await asyncio.to_thread(_read_part, upload.path, number, size)
                md5 = await asyncio.to_thread(_md5, data)
                if self._crc64 is not None:
                    sums[number] = await asyncio.to_thread(self._crc64, data, 0)
                done[number] = there.get(number) or RemotePart(0, 0, "")
                if not _is_same(done[number], data, md5):
                    done[number] = await self._bucket.ask(
                        upload.key,
                        lambda store, key, data=data, number=number, md5=md5: store.send(  # type: ignore[misc]
                            key, identity, number, data, md5
                        ),
                    )
                tell(sum(part.size for part in done.values()), upload.size)

        await run_all([work() for _ in range(_AT_ONCE)], f"upload {upload.key}")
        parts = [done[number] for number in sorted(done)]
        try:
            await self._bucket.ask(
                upload.key, lambda store, key: store.complete(key, identity, parts)
            )
        except InputError:
            # the answer to the first attempt may be lost, and the upload no more: it became a file
            if not await self._is_there(upload):
                raise
        crc64 = combine_crc64((sums[part.number], part.size) for part in parts) if sums else None
        await self._check(upload, crc64, None)

    async def _begun(self, upload: RemoteUpload, size: int) -> tuple[str, dict[int, RemotePart]]:
        """The id of the upload that was begun for this file, or of a new one; what has arrived."""
        told = await asyncio.to_thread(_read, upload.record)
        if (told.get("sha256"), told.get("part_size")) == (upload.sha256, str(size)):
            identity = told["upload"]
            parts = await self._bucket.ask(
                upload.key, lambda store, key: store.parts(key, identity)
            )
            if parts is not None:
                return identity, {part.number: part for part in parts}
        identity = await self._bucket.ask(
            upload.key, lambda store, key: store.begin(key, upload.sha256)
        )
        record = {"upload": identity, "sha256": upload.sha256, "part_size": str(size)}
        await asyncio.to_thread(_write, upload.record, record)
        return identity, {}

    async def _check(self, upload: RemoteUpload, crc64: int | None, md5: bytes | None) -> None:
        """Raises RemoteFault where what is there now is not what was sent."""
        name = self._bucket.shown(upload.key)
        there = await self._bucket.find(upload.key)
        sums = {CRC64: None if crc64 is None else crc64.to_bytes(8, "big"), MD5: md5}
        if there is None or there.size != upload.size:
            fault = f"has {there.size if there else 'no'} bytes and not {upload.size}"
        else:
            wrong = [
                told.algorithm
                for told in there.checksums
                if sums.get(told.algorithm) not in (None, told.value)
            ]
            if not wrong:
                return
            fault = f"has another {wrong[0]} than the file"
        raise RemoteFault(
            f"{name} {fault} after it was uploaded; did somebody else write it?", file=name
        )


def _is_same(part: RemotePart, data: bytes, md5: bytes) -> bool:
    return part.size == len(data) and part.etag.strip('"').lower() == md5.hex()


def _part_size(size: int, least: int) -> int:
    """No more than 10,000 parts; whole MiB where the setting does not do."""
    needed = -(-size // _MOST_PARTS)
    return least if needed <= least else -(-needed // _MIB) * _MIB


def _read_part(path: Path, number: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek((number - 1) * size)
        return file.read(size)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _read(record: Path) -> dict[str, str]:
    try:
        told = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in told.items()}


def _write(record: Path, value: dict[str, str]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(".new")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(record)
