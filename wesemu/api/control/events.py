"""`/_wesemu/events`: every change of a run, as server-sent events."""

from collections.abc import AsyncGenerator, Iterable

from aiohttp import web

from wesemu.api.control import models
from wesemu.api.sse import Event, EventStreams, last_event_id
from wesemu.redaction import strike_urls
from wesemu.runs.model import RunId
from wesemu.runs.overseer import Overseer


class EventHandlers:
    """Streams until the client goes or the server stops."""

    def __init__(self, overseer: Overseer) -> None:
        self._overseer = overseer
        self._streams = EventStreams()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/_wesemu/events", self.events)]

    async def close(self, app: web.Application) -> None:
        """End all streams, for the server's shut-down."""
        await self._streams.close(app)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """First the runs that have not ended, or those that have changed since the event that
        the client has seen last; then each run when it changes."""
        return await self._streams.send(request, self._events(last_event_id(request)))

    async def _events(self, last: str) -> AsyncGenerator[Event]:
        sent: dict[RunId, str] = {}
        with self._overseer.watch() as changed:
            missed = self._overseer.changed_since(last)
            if missed is None:
                number = self._overseer.change_number
                active = await self._overseer.active()
                # only the last one says where to go on: a client may see some of them
                missed = [(run.id, None) for run in active[:-1]]
                missed += [(run.id, number) for run in active[-1:]]
            async for event in self._news(missed, sent):
                yield event
            while True:
                async for event in self._news(await changed.take(), sent):
                    yield event

    async def _news(
        self, changes: Iterable[tuple[RunId, int | None]], sent: dict[RunId, str]
    ) -> AsyncGenerator[Event]:
        """Events of those runs that look different than when they were `sent` last."""
        for run_id, number in changes:
            data = (await self._change(run_id)).model_dump_json()
            if sent.get(run_id) != data:
                sent[run_id] = data
                yield Event("run", data, self._overseer.event_id(number))
            if run_id in sent and '"state":null' in data:
                del sent[run_id]

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
