"""A finished run as an RO-Crate: a ZIP that is sent while it is made. An extension."""

import asyncio
import io
import zipfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Literal, Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from wesemu.errors import InvalidRequest, NotFound, RunActive
from wesemu.runs.model import Run
from wesemu.runs.workspace import Workspace

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
