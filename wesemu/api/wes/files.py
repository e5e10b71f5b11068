"""Files below a run directory as answers, never by way of a link."""

import asyncio
import base64
import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from aiohttp import ETag, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from wesemu.api.base import OWNER, Event, EventStreams, last_event_id
from wesemu.api.wes.models import Version
from wesemu.api.wes.responses import summary
from wesemu.errors import InvalidRequest, NotFound, RunActive, RunNotFound
from wesemu.runs.model import Owner, Run
from wesemu.runs.run_directory import Workspace
from wesemu.runs.service import RunService

# `GET /runs/{id}/events`: one run's changes as server-sent events. An extension.


class RunEvents:
    """Streams a run's RunSummary: as it is now, and after each change, until its end.

    An event's id is made of its content, so that a client which connects again, also to another
    server process, is told nothing twice. One that has seen the end already gets a 204, which
    tells browsers not to come again.
    """

    def __init__(self, runs: RunService) -> None:
        self._runs = runs
        self._streams = EventStreams()

    async def close(self, app: web.Application) -> None:
        await self._streams.close(app)

    async def answer(self, request: web.Request, version: Version) -> web.StreamResponse:
        """Raises RunNotFound, Forbidden."""
        owner, last = request[OWNER], last_event_id(request)
        run = await self._runs.get(owner, request.match_info["run_id"])
        if run.state.ended and _event(version, run).id == last:
            return web.Response(status=204)
        return await self._streams.send(request, self._events(version, owner, run.id, last))

    async def _events(
        self, version: Version, owner: Owner, run_id: str, last: str
    ) -> AsyncGenerator[Event]:
        try:
            async with aclosing(self._runs.follow(owner, run_id)) as changes:
                async for run in changes:
                    event = _event(version, run)
                    if event.id != last:
                        yield event
                        last = event.id or ""
        except RunNotFound:
            yield Event("removed", json.dumps({"run_id": run_id}))


def _event(version: Version, run: Run) -> Event:
    data = json.dumps(summary(version, run))
    return Event("run", data, hashlib.sha256(data.encode()).hexdigest()[:16])


# Range and conditions of a request for a file (RFC 9110, 13 and 14), as far as aiohttp's
# FileResponse would refuse them without a word, or read them otherwise than the RFC.


_ONE = re.compile(r"bytes=(\d{0,20})-(\d{0,20})", re.ASCII)


def part_is_asked(request: web.Request, file: os.stat_result) -> bool:
    """Whether a Range counts; one that does not is as good as none: the whole file is sent, or a
    304.

    Raises HTTPPreconditionFailed, HTTPRequestRangeNotSatisfiable.
    """
    _refuse_other_file(request, file)
    match = _ONE.fullmatch(request.headers.get("Range", ""))
    # other units must, several ranges and senseless ones may be ignored; only GET has ranges
    if match is None or request.method != "GET" or not any(match.groups()):
        return False
    if _is_known(request, file) or not _is_still_meant(request, file):
        return False
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return False
    begins_there = int(first) < file.st_size if first else int(last) > 0 and file.st_size > 0
    if not begins_there:
        raise web.HTTPRequestRangeNotSatisfiable(
            headers={"Content-Range": f"bytes */{file.st_size}"},
            text=f"there is nothing at {match[0]}; the file has {file.st_size} bytes",
        )
    return True


def etag(file: os.stat_result) -> str:
    """Without its quotes, as FileResponse sends it."""
    return f"{file.st_mtime_ns:x}-{file.st_size:x}"


def _refuse_other_file(request: web.Request, file: os.stat_result) -> None:
    wanted, since = request.if_match, request.if_unmodified_since
    if wanted is not None:
        is_other = not _has(wanted, file, weak=False)
    else:
        is_other = since is not None and file.st_mtime > since.timestamp()
    if is_other:
        raise web.HTTPPreconditionFailed(
            text=f'the file is another one by now; its ETag is now "{etag(file)}"'
        )


def _is_known(request: web.Request, file: os.stat_result) -> bool:
    """Whether the answer will be a 304, which goes before a range."""
    known, since = request.if_none_match, request.if_modified_since
    if known is not None:
        return _has(known, file, weak=True)
    return since is not None and file.st_mtime <= since.timestamp()


def _is_still_meant(request: web.Request, file: os.stat_result) -> bool:
    """By If-Range (RFC 9110, 13.1.5): the very ETag, or the very Last-Modified."""
    condition = request.headers.get("If-Range")
    if condition is None or condition.strip() == f'"{etag(file)}"':
        return True
    date = request.if_range
    return date is not None and date.timestamp() == math.ceil(file.st_mtime)


def _has(tags: Sequence[ETag], file: os.stat_result, *, weak: bool) -> bool:
    """As FileResponse compares them."""
    if [tag.value for tag in tags] == ["*"]:
        return True
    return any(tag.value == etag(file) and (weak or not tag.is_weak) for tag in tags)


# A finished run as an RO-Crate: a ZIP that is sent while it is made. An extension.


_JSON_TYPES = ("application/json", "application/ld+json")

Inclusion = Literal["small", "all", "none"]


class Crates(Protocol):
    """Who makes them."""

    def chunks(
        self, run: Run, workspace: Workspace, *, url: str, log: str, inclusion: Inclusion
    ) -> AsyncGenerator[bytes]:
        """The crate of a run that has ended; `url` is the run's own, `log` its RunLog."""
        ...


class CrateResponse(web.StreamResponse):
    """Where something goes wrong on the way, the connection ends early, so that nobody takes half
    a crate for a whole one."""

    def __init__(self, name: str, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        disposition = f'attachment; filename="{name}.crate.zip"'
        super().__init__(
            headers={"Content-Type": "application/zip", "Content-Disposition": disposition}
        )
        self._first = first
        self._rest = rest

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        writer = await super().prepare(request)
        async with aclosing(self._rest):
            if request.method != "HEAD":
                await self.write(self._first)
                async for chunk in self._rest:
                    await self.write(chunk)
        await self.write_eof()
        return writer

    async def release(self) -> None:
        await self._rest.aclose()


def no_crates() -> NotFound:
    return NotFound("this server makes no RO-Crates; pip install 'wesemu[crate]' where it runs")


def refuse_active(run: Run) -> None:
    """Raises RunActive (409)."""
    if run.state.active:
        raise RunActive(f"run {run.id} is {run.state}; its RO-Crate is there once it has ended")


def metadata_type(accept: str) -> str | None:
    """The media type of JSON that an Accept header asks for before ZIP; None for the ZIP."""
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    first = next((name for name in wanted if name in (*_JSON_TYPES, "application/zip")), None)
    return first if first in _JSON_TYPES else None


async def metadata(chunks: AsyncGenerator[bytes]) -> bytes:
    """ro-crate-metadata.json of a crate."""
    content = io.BytesIO()
    async with aclosing(chunks):
        async for chunk in chunks:
            content.write(chunk)
    return await asyncio.to_thread(_read_metadata, content)


def _read_metadata(content: io.BytesIO) -> bytes:
    with zipfile.ZipFile(content) as crate:
        return crate.read("ro-crate-metadata.json")


def inclusion(query: Mapping[str, str], default: Inclusion = "small") -> Inclusion:
    """Which outputs lie in the crate. Raises InvalidRequest."""
    match query.get("outputs", default):
        case "small":
            return "small"
        case "all":
            return "all"
        case "none":
            return "none"
        case other:
            raise InvalidRequest(
                f"outputs is {other[:40]!r}; it is small (what is small lies in the crate), all "
                "or none",
                field="outputs",
            )


class OpenedFile(web.FileResponse):
    """Sends an open file, with Range and conditions; closes it.

    aiohttp opens a path itself; through the descriptor's path it gets the very file that was
    checked, and finds no compressed neighbour (`calls.vcf.gz` for `calls.vcf`) to send instead.
    """

    def __init__(self, request: web.Request, file: io.FileIO, headers: dict[str, str]) -> None:
        """Raises HTTPPreconditionFailed, HTTPRequestRangeNotSatisfiable."""
        try:
            self._in_part = part_is_asked(request, os.fstat(file.fileno()))
        except web.HTTPException:
            file.close()
            raise
        super().__init__(f"/dev/fd/{file.fileno()}", headers=headers)
        self._file = file

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        try:
            return await super().prepare(request if self._in_part else _whole(request))
        finally:
            self._file.close()

    async def release(self) -> None:
        self._file.close()


def _whole(request: BaseRequest) -> BaseRequest:
    """The same request without its Range, if it has one."""
    if "Range" not in request.headers:
        return request
    headers = request.headers.copy()
    headers.popall("Range")
    return request.clone(headers=headers)


def digest_headers(sha256: str | None) -> dict[str, str]:
    """RFC 9530: the digest of the whole file, also of an answer that holds a part of it."""
    if sha256 is None:
        return {}
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"}


def open_below(root: Path, relative: str) -> io.FileIO | None:
    """Open a regular file; None where there is none, or where a link is on the way."""
    *folders, name = PurePosixPath(relative).parts
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        # O_NONBLOCK: opening a pipe that a workflow left would wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        file = io.FileIO(os.open(name, flags, dir_fd=directory), "rb")
    except OSError:
        return None
    finally:
        os.close(directory)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None
