"""`GET /runs/{id}/events`: one run's changes as server-sent events. An extension."""

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from wesemu.api.dialect import OWNER
from wesemu.api.sse import Event, EventStreams, last_event_id
from wesemu.api.wes.render import summary
from wesemu.api.wes.versions import Version
from wesemu.errors import RunNotFound
from wesemu.runs.model import Owner, Run
from wesemu.runs.service import RunService


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
