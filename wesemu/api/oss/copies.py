"""What copies read: the source that `x-oss-copy-source` names."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp import web

from wesemu.api.oss.conditions import COPY, check_conditions, copied_range
from wesemu.errors import InvalidRequest
from wesemu.objects.incoming import Incoming
from wesemu.objects.places import ObjectInfo
from wesemu.objects.store import ObjectStore

SOURCE = f"{COPY[:-1]}"
_STEP = 16 << 20


@dataclass(frozen=True, slots=True)
class CopySource:
    """An open object. `write` has the part that `x-oss-copy-source-range` asks for, or all."""

    info: ObjectInfo
    descriptor: int
    span: tuple[int, int]

    async def write(self, target: Incoming) -> None:
        """Raises TooLarge."""
        offset, length = self.span
        target.expect(length)
        end = offset + length
        for begin in range(offset, end, _STEP):
            size = min(_STEP, end - begin)
            await asyncio.to_thread(target.copy, self.descriptor, begin, size)


def source_name(request: web.Request) -> tuple[str, str]:
    """Bucket and key. Raises InvalidRequest."""
    sent = request.headers[SOURCE].partition("?")[0]
    bucket, _, key = unquote(sent, errors="surrogateescape").removeprefix("/").partition("/")
    if not bucket or not key:
        raise InvalidRequest(f"{SOURCE} is {sent[:80]!r}, not /<bucket>/<key>")
    return bucket, key


@asynccontextmanager
async def opened_source(store: ObjectStore, request: web.Request) -> AsyncIterator[CopySource]:
    """Raises InvalidRequest, BucketNotFound, ObjectNotFound, Refused for its conditions."""
    info, file = await asyncio.to_thread(store.open, *source_name(request))
    with file:
        check_conditions(request.headers, info, prefix=COPY)
        sent = request.headers.get(f"{SOURCE}-range")
        span = (0, info.size) if sent is None else copied_range(sent, info.size)
        yield CopySource(info, file.fileno(), span)
