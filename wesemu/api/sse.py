"""Server-sent events (WHATWG HTML, 9.2): streams that tell something until it ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from aiohttp import web

HEARTBEAT_SECONDS = 15.0
"""A comment is sent so often, or a client that is gone would never be noticed."""

_ID_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Event:
    """`data` is one line. A client that connects again sends the last `id` that it has seen."""

    name: str
    data: str
    id: str | None = None

    def __bytes__(self) -> bytes:
        last = "" if self.id is None else f"id: {self.id}\n"
        return f"{last}event: {self.name}\ndata: {self.data}\n\n".encode()


class EventStreams:
    """Sends events to clients; all open streams end with the server (`close`)."""

    def __init__(self, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._heartbeat = heartbeat
        self._open: set[asyncio.Task[None]] = set()

    async def close(self, _: web.Application) -> None:
        """End all streams, for the server's shut-down."""
        for stream in self._open:
            stream.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def send(self, request: web.Request, events: AsyncGenerator[Event]) -> web.StreamResponse:
        """Stream `events` until they end, the client goes or the server stops."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would keep events back
            }
        )
        await response.prepare(request)
        if request.method == "HEAD":
            await events.aclose()
            return response
        stream = asyncio.create_task(self._stream(response, events), name="events")
        self._open.add(stream)
        stream.add_done_callback(self._open.discard)
        try:
            await asyncio.wait({stream})
        finally:
            stream.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await stream
        return response

    async def _stream(self, response: web.StreamResponse, events: AsyncGenerator[Event]) -> None:
        await response.write(b":\n\n")
        async with contextlib.aclosing(_with_heartbeats(events, self._heartbeat)) as told:
            async for event in told:
                await response.write(b":\n\n" if event is None else bytes(event))
        await response.write_eof()


def last_event_id(request: web.Request) -> str:
    """The id of the last event that the client has seen; "" for none."""
    return request.headers.get("Last-Event-ID", "")[:_ID_LIMIT]


async def _with_heartbeats(
    events: AsyncGenerator[Event], seconds: float
) -> AsyncGenerator[Event | None]:
    """None where there was no event for so long."""
    waiting: asyncio.Task[Event | None] | None = None
    try:
        while True:
            waiting = waiting or asyncio.create_task(_next(events), name="next event")
            done, _ = await asyncio.wait({waiting}, timeout=seconds)
            if not done:
                yield None
                continue
            event, waiting = waiting.result(), None
            if event is None:
                return
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)
