"""Responses from a run's directory: files with ranges and conditions, the event stream, and
RO-Crates."""

import asyncio
import base64
import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal, Protocol

from aiohttp import ETag, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from multidict import MultiMapping

from wesemu.api.base import OWNER, Event, EventStreams, last_event_id, single, truncated
from wesemu.api.wes.models import Version
from wesemu.api.wes.responses import summary
from wesemu.errors import InvalidRequest, NotFound, RunActive, RunNotFound
from wesemu.runs.model import Owner, Run
from wesemu.runs.run_directory import Workspace
from wesemu.runs.service import RunService

# `GET /runs/{run_id}/events`: server-sent events, an extension


class RunEvents:
    """Streams a run's RunSummary: the current one, then one after each change, until the run ends.

    An event's id is a digest of its content. A client that reconnects, even to a restarted server,
    gets no event twice. A client that has seen the last event gets a 204, which stops a browser's
    EventSource.
    """

    def __init__(self, runs: RunService) -> None:
        self._runs = runs
        self._streams = EventStreams()
        self.close = self._streams.close

    async def stream(self, request: web.Request, version: Version) -> web.StreamResponse:
        """Stream the run's events. Raises RunNotFound or Forbidden."""
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


# Range and conditions (RFC 9110, sections 13 and 14), where aiohttp's FileResponse sends no message
# or differs from the RFC

_ONE = re.compile(r"bytes=(\d{0,20})-(\d{0,20})", re.ASCII)


def range_applies(request: web.Request, file: os.stat_result) -> bool:
    """Return whether the Range applies. If it does not, the response is the whole file or a 304.
    Raises HTTPPreconditionFailed, HTTPRequestRangeNotSatisfiable."""
    _check_preconditions(request, file)
    match = _ONE.fullmatch(request.headers.get("Range", ""))
    # RFC 9110, section 14.2: ignore Range in other methods and in unknown units; several ranges
    # and invalid ones may be ignored
    if match is None or request.method != "GET" or not any(match.groups()):
        return False
    if _is_not_modified(request, file) or not _if_range_matches(request, file):
        return False
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return False
    is_satisfiable = int(first) < file.st_size if first else int(last) > 0 and file.st_size > 0
    if not is_satisfiable:
        raise web.HTTPRequestRangeNotSatisfiable(
            headers={"Content-Range": f"bytes */{file.st_size}"},
            text=f"the range {match[0]} is outside the file, which has {file.st_size} bytes",
        )
    return True


def etag(file: os.stat_result) -> str:
    """Return the ETag without quotes, as FileResponse computes it."""
    return f"{file.st_mtime_ns:x}-{file.st_size:x}"


def _check_preconditions(request: web.Request, file: os.stat_result) -> None:
    wanted, since = request.if_match, request.if_unmodified_since
    if wanted is not None:
        has_changed = not _matches(wanted, file, weak=False)
    else:
        has_changed = since is not None and file.st_mtime > since.timestamp()
    if has_changed:
        raise web.HTTPPreconditionFailed(
            text=f'the file has changed; its ETag is now "{etag(file)}"'
        )


def _is_not_modified(request: web.Request, file: os.stat_result) -> bool:
    """Return whether the response will be a 304, which takes precedence over a range."""
    known, since = request.if_none_match, request.if_modified_since
    if known is not None:
        return _matches(known, file, weak=True)
    return since is not None and file.st_mtime <= since.timestamp()


def _if_range_matches(request: web.Request, file: os.stat_result) -> bool:
    """Return whether If-Range equals the ETag or Last-Modified (RFC 9110, section 13.1.5)."""
    condition = request.headers.get("If-Range")
    if condition is None or condition.strip() == f'"{etag(file)}"':
        return True
    date = request.if_range
    return date is not None and date.timestamp() == math.ceil(file.st_mtime)


def _matches(tags: Sequence[ETag], file: os.stat_result, *, weak: bool) -> bool:
    """Compare ETags like FileResponse does."""
    if [tag.value for tag in tags] == ["*"]:
        return True
    return any(tag.value == etag(file) and (weak or not tag.is_weak) for tag in tags)


# RO-Crates of ended runs: a ZIP, streamed while it is made. An extension.

_JSON_TYPES = ("application/json", "application/ld+json")

Inclusion = Literal["small", "all", "none"]


class Crates(Protocol):
    """Makes RO-Crates."""

    def chunks(
        self, run: Run, workspace: Workspace, *, url: str, log: str, inclusion: Inclusion
    ) -> AsyncGenerator[bytes]:
        """Yield the crate of an ended run. `url` is the run's URL, `log` its RunLog."""
        ...


class CrateResponse(web.StreamResponse):
    """Streams a crate. An error closes the connection: a partial ZIP must not look complete."""

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
    """Return the error of a server without the crate dependencies."""
    return NotFound("this server makes no RO-Crates; run pip install 'wesemu[crate]' on the server")


def refuse_active(run: Run) -> None:
    """Raise RunActive (409) if the run has not ended."""
    if run.state.active:
        raise RunActive(f"run {run.id} is {run.state}; its RO-Crate is available once it has ended")


def metadata_type(accept: str) -> str | None:
    """Return the JSON media type that Accept prefers to ZIP, or None for the ZIP."""
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    first = next((name for name in wanted if name in (*_JSON_TYPES, "application/zip")), None)
    return first if first in _JSON_TYPES else None


async def metadata(chunks: AsyncGenerator[bytes]) -> bytes:
    """Return ro-crate-metadata.json from a crate."""
    content = io.BytesIO()
    async with aclosing(chunks):
        async for chunk in chunks:
            content.write(chunk)
    return await asyncio.to_thread(_read_metadata, content)


def _read_metadata(content: io.BytesIO) -> bytes:
    with zipfile.ZipFile(content) as crate:
        return crate.read("ro-crate-metadata.json")


def inclusion(query: MultiMapping[str], default: Inclusion = "small") -> Inclusion:
    """Return which outputs to include (query parameter `outputs`). Raises InvalidRequest."""
    match single(query, "outputs", default):
        case "small":
            return "small"
        case "all":
            return "all"
        case "none":
            return "none"
        case other:
            raise InvalidRequest(
                f"it is {other[:40]!r}; write small (only small files), all or none",
                field="outputs",
            )


# Files of a run


class OpenedFile(web.FileResponse):
    """Sends an open file, with Range and conditions, and closes it.

    FileResponse opens a path itself. The path of the descriptor leads to exactly the checked file.
    It also prevents that aiohttp sends a compressed sibling (`calls.vcf.gz` for `calls.vcf`).
    """

    def __init__(self, request: web.Request, file: io.FileIO, headers: dict[str, str]) -> None:
        """Take over an open file. Raises HTTPPreconditionFailed, HTTPRequestRangeNotSatisfiable."""
        status = os.fstat(file.fileno())
        try:
            self._sends_range = range_applies(request, status)
        except web.HTTPException:
            file.close()
            raise
        super().__init__(f"/dev/fd/{file.fileno()}", headers=headers)
        self._file = file
        self._size = status.st_size

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send the file. Raises ConnectionError if it has become shorter meanwhile."""
        try:
            writer = await super().prepare(
                request if self._sends_range else _without_range(request)
            )
            if os.fstat(self._file.fileno()).st_size < self._size:
                raise truncated()
            return writer
        finally:
            self._file.close()

    async def release(self) -> None:
        self._file.close()


def _without_range(request: BaseRequest) -> BaseRequest:
    """Return the request without its Range."""
    if "Range" not in request.headers:
        return request
    headers = request.headers.copy()
    headers.popall("Range")
    return request.clone(headers=headers)


def digest_headers(sha256: str | None) -> dict[str, str]:
    """Return the digest of the whole file (Repr-Digest, RFC 9530), also for partial responses."""
    if sha256 is None:
        return {}
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"}
