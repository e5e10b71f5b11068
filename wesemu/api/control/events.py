"""`/_wesemu/events`: every change of a run, as server-sent events (WHATWG HTML 9.2)."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from wesemu.api.control import models
from wesemu.redaction import strike_urls
from wesemu.runs.changes import ChangedRuns
from wesemu.runs.model import RunId
from wesemu.runs.overseer import Overseer

_HEARTBEAT_SECONDS = 15.0
"""A comment is sent so often, or a client that is gone would never be noticed."""


class EventHandlers:
    """Streams until the client goes or the server stops."""

    def __init__(self, overseer: Overseer) -> None:
        self._overseer = overseer
        self._streams: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/_wesemu/events", self.events)]

    async def close(self, _: web.Application) -> None:
        """End all streams, for the server's shut-down."""
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """First the runs that have not ended, then each run when it changes."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        stream = asyncio.create_task(self._stream(response), name="events")
        self._streams.add(stream)
        stream.add_done_callback(self._streams.discard)
        try:
            await asyncio.wait({stream})
        finally:
            stream.cancel()
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        with self._overseer.watch() as changed:
            active = [run.id for run in await self._overseer.active()]
            await response.write(b": runs as they change\n\n")
            await self._tell(response, active)
            async for run_ids in _with_heartbeats(changed):
                await self._tell(response, run_ids)

    async def _tell(self, response: web.StreamResponse, run_ids: Sequence[RunId]) -> None:
        if not run_ids:
            await response.write(b":\n\n")
        for run_id in run_ids:
            change = await self._change(run_id)
            await response.write(f"event: run\ndata: {change.model_dump_json()}\n\n".encode())

    async def _change(self, run_id: RunId) -> models.Change:
        run = await self._overseer.find(run_id)
        if run is None:
            return models.Change(id=run_id)
        return models.Change(
            id=run.id,
            state=run.state.value,
            handle=run.handle,
            owner=run.owner,
            workflow=run.workflow or strike_urls(run.request.workflow_url),
            created=run.created,
            started=run.started,
            ended=run.ended,
        )


async def _with_heartbeats(changed: ChangedRuns) -> AsyncIterator[list[RunId]]:
    """What has changed; an empty list where nothing has for a while."""
    taking: asyncio.Task[list[RunId]] | None = None
    try:
        while True:
            taking = taking or asyncio.create_task(changed.take(), name="changed runs")
            done, _ = await asyncio.wait({taking}, timeout=_HEARTBEAT_SECONDS)
            if done:
                yield taking.result()
                taking = None
            else:
                yield []
    finally:
        if taking is not None:
            taking.cancel()
