"""What every dialect offers the middleware: which requests are its own, who asks, how errors
look.
"""

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from aiohttp import web
from aiohttp.typedefs import Handler

from wesemu.runs.model import Owner

# XML documents, well-formed whatever their texts hold.


_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, *content: str | int | Element) -> Element:
    """An element with one text, or with elements. What XML cannot hold becomes `?`."""
    made = Element(tag)
    for part in content:
        if isinstance(part, Element):
            made.append(part)
        else:
            made.text = _INVALID.sub("?", str(part))
    return made


def document(root: Element) -> bytes:
    """In UTF-8, with the declaration."""
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


# Server-sent events (WHATWG HTML, 9.2): streams that tell something until it ends.


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


OWNER: web.RequestKey[Owner] = web.RequestKey("owner", Owner)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)


@runtime_checkable
class Releasable(Protocol):
    """An answer that holds something until it is sent."""

    async def release(self) -> None:
        """Let go of it: the answer is not sent."""
        ...


class Dialect(Protocol):
    """One API. Handlers hold no `try`: `render_error` is the one place that makes errors."""

    @property
    def handle(self) -> Handler | None:
        """What answers every request of this dialect; None: the application's routes."""
        ...

    @property
    def operation(self) -> Callable[[web.Request], Awaitable[str]] | None:
        """The name of the operation that a request means, "" for none; None where the method and
        the path tell operations apart."""
        ...

    def owns(self, request: web.Request) -> bool:
        """True for requests whose errors this dialect renders, unknown routes among them."""
        ...

    async def authenticate(self, request: web.Request) -> Owner:
        """Who asks. Raises Unauthorized or Forbidden. May read the request's body."""
        ...

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        """The answer to `request`, which has its REQUEST_ID: for a WesemuError, for an aiohttp
        HTTPException (404, 405, 413 …) or, as an internal error without details, for anything
        else."""
        ...

    def headers(self, request_id: str) -> dict[str, str]:
        """Headers that every answer of this API carries."""
        ...


# How many requests were answered, how, and in what time.


@dataclass(frozen=True, slots=True, order=True)
class RouteMetrics:
    """Requests that are counted together. `path` has names for what differs; "" is no route."""

    method: str
    path: str


class RequestMetrics:
    """Counts since the server started."""

    def __init__(self) -> None:
        self._answers: defaultdict[tuple[RouteMetrics, int], int] = defaultdict(int)
        self._seconds: defaultdict[RouteMetrics, float] = defaultdict(float)

    @property
    def answers(self) -> Mapping[tuple[RouteMetrics, int], int]:
        """By route and status."""
        return self._answers

    @property
    def seconds(self) -> Mapping[RouteMetrics, float]:
        """Wall-clock seconds from a request's headers to its answer's end, summed up."""
        return self._seconds

    def count(self, request: web.Request, status: int, seconds: float) -> None:
        route = _route(request)
        self._answers[route, status] += 1
        self._seconds[route] += seconds


def _route(request: web.Request) -> RouteMetrics:
    resource = request.match_info.route.resource
    method = request.method if resource is not None else ""
    return RouteMetrics(method, resource.canonical if resource is not None else "")
