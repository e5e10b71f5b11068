"""The parts that all APIs share: the `Dialect` protocol, request keys, query parameters, bodies,
server-sent events, request metrics, request signatures and XML output.
"""

import asyncio
import contextlib
import re
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol, SupportsBytes, runtime_checkable
from urllib.parse import quote
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import MultiMapping

from wesemu.errors import InvalidRequest
from wesemu.runs.model import Owner

OWNER: web.RequestKey[Owner] = web.RequestKey("owner", Owner)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)

OPERATION: web.RequestKey[str] = web.RequestKey("operation", str)
"""The OSS name of a request's operation; absent for the other APIs."""

UNREAD: web.RequestKey[list[str]] = web.RequestKey("unread", list)
"""The fields of a request's body that nothing read; absent if unknown."""


@runtime_checkable
class Releasable(Protocol):
    """A response that holds a resource (such as an open file) until it is sent."""

    async def release(self) -> None:
        """Free the resource of a response that is not sent."""
        ...


class Dialect(ABC):
    """One API.

    Handlers contain no `try`: `render_error` is the only place that renders errors.
    """

    handle: Handler | None = None
    """The handler of all requests of this dialect, or None to use the application's routes."""

    operation: Callable[[web.Request], Awaitable[str]] | None = None
    """Returns the name of a request's operation, "" if there is none. None if method and path
    identify the operation."""

    is_logged = True
    """Whether the request log has the requests of this dialect."""

    def is_control(self, request: web.Request) -> bool:
        """Return whether the request controls the server, by the rules of `AdminAccess`.

        It has no faults, is not logged, and does not wait for a reset, which it may have started.
        """
        return False

    def request_id(self, drawn: str) -> str:
        """Return the id of a request in the form of this API; `drawn` is a random UUID."""
        return drawn

    @abstractmethod
    def owns(self, request: web.Request) -> bool:
        """Return whether this dialect answers the request. This includes unknown routes."""

    @abstractmethod
    async def authenticate(self, request: web.Request) -> Owner:
        """Return the caller. May read the request's body. Raises Unauthorized or Forbidden."""

    @abstractmethod
    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        """Return the response for an error; `request` has its REQUEST_ID.

        `error` is a WesemuError, an aiohttp HTTPException (404, 405, 413 …) or any other exception.
        The last one is an internal error, and its details are not shown.
        """

    @abstractmethod
    def headers(self, request_id: str) -> dict[str, str]:
        """Return the headers that all responses of this API have."""


def http_message(error: web.HTTPException) -> str:
    """Return what aiohttp, or a handler by its means, refuses about a request."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return f"{error.method} is not allowed here, only {allowed}"
        case web.HTTPRequestEntityTooLarge():
            return f"the request is too large: {error.text}"
        case web.HTTPRequestRangeNotSatisfiable() | web.HTTPPreconditionFailed():
            return error.text or error.reason
        case _:
            return error.reason


# Path normalization: clients of WES send `//ga4gh/wes/v1/runs/` for `/ga4gh/wes/v1/runs`

_SLASHES = re.compile(r"/{2,}")


def merge_slashes(path: str) -> str:
    """Return the path without doubled slashes and without a trailing one."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/"


# Query parameters


def single(query: MultiMapping[str], name: str, default: str = "") -> str:
    """Return the value, or `default`. Raises InvalidRequest for two values."""
    first, *others = query.getall(name, [default])
    if any(other != first for other in others):
        raise InvalidRequest("it has two values; send one of them", field=name)
    return first


def single_values(query: MultiMapping[str]) -> dict[str, str]:
    """Return all values by name. Raises InvalidRequest for a name with two values."""
    return {name: single(query, name) for name in query}


# Bodies


def refuse_encoded(request: web.Request) -> None:
    """Raise InvalidRequest for a compressed body: it could expand without bound."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise InvalidRequest(
            f"the body has the Content-Encoding {encoding[:40]!r}; send it uncompressed",
            field="Content-Encoding",
        )


# Server-sent events (WHATWG HTML, section 9.2)

HEARTBEAT_SECONDS = 15.0
"""Pause between comment lines. Without them, the server would not notice a closed connection."""

_ID_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event. `data` is a single line.

    A client that reconnects sends the last `id` it has seen (`Last-Event-ID`).
    """

    name: str
    data: str
    id: str | None = None

    def __bytes__(self) -> bytes:
        last = "" if self.id is None else f"id: {self.id}\n"
        return f"{last}event: {self.name}\ndata: {self.data}\n\n".encode()


class EventStreams:
    """Sends events to clients. `close` ends all open streams when the server shuts down."""

    def __init__(self, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._heartbeat = heartbeat
        self._open: set[asyncio.Task[None]] = set()

    async def close(self, _: web.Application) -> None:
        """End all streams. For `web.Application.on_shutdown`."""
        for stream in self._open:
            stream.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def send(
        self, request: web.Request, events: AsyncGenerator[SupportsBytes]
    ) -> web.StreamResponse:
        """Stream `events` until they end, the client disconnects or the server stops.

        Each is an `Event`, or several events in one piece.
        """
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

    async def _stream(
        self, response: web.StreamResponse, events: AsyncGenerator[SupportsBytes]
    ) -> None:
        await response.write(b":\n\n")
        async with contextlib.aclosing(_with_heartbeats(events, self._heartbeat)) as stream:
            async for event in stream:
                await response.write(b":\n\n" if event is None else bytes(event))
        await response.write_eof()


def last_event_id(request: web.Request) -> str:
    """Return the id of the last event that the client has seen, or ""."""
    return request.headers.get("Last-Event-ID", "")[:_ID_LIMIT]


async def _with_heartbeats(
    events: AsyncGenerator[SupportsBytes], seconds: float
) -> AsyncGenerator[SupportsBytes | None]:
    """Yield the events, and None after each `seconds` without an event."""
    waiting: asyncio.Task[SupportsBytes | None] | None = None
    try:
        while True:
            # A timeout must not cancel the pending anext(): the generator would end. The task stays
            # for the next round.
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


async def _next(events: AsyncIterator[SupportsBytes]) -> SupportsBytes | None:
    return await anext(events, None)


# Request metrics


class RouteMetrics(NamedTuple):
    """The key for counting requests. `path` is the route's pattern, "" for unknown routes."""

    method: str
    path: str


class RequestMetrics:
    """Counts requests since the server started."""

    def __init__(self) -> None:
        self.answers: defaultdict[tuple[RouteMetrics, int], int] = defaultdict(int)
        """Number of responses by route and status."""
        self.seconds: defaultdict[RouteMetrics, float] = defaultdict(float)
        """Wall-clock seconds by route, from a request's headers to the end of its response."""

    def count(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        if resource is None:
            route = RouteMetrics("", "")
        else:
            route = RouteMetrics(request.method, resource.canonical)
        self.answers[route, status] += 1
        self.seconds[route] += seconds


class RecentRequest(NamedTuple):
    """One request, after its response. `operation` is the OSS name, "" for the other APIs.

    `milliseconds` is wall time. `owner` is "" if the credentials were refused. `client` is the
    User-Agent, `error` the message of an error response.
    """

    at: datetime
    method: str
    path: str
    operation: str
    status: int
    milliseconds: float
    owner: str
    client: str
    unread: tuple[str, ...]
    error: str | None


class RequestLog:
    """Keeps the last requests, for tests that check what a client sent."""

    def __init__(self, most: int = 500) -> None:
        self._requests: deque[RecentRequest] = deque(maxlen=most)

    def add(self, request: web.Request, status: int, seconds: float, error: str | None) -> None:
        self._requests.append(
            RecentRequest(
                at=datetime.now(UTC),
                method=request.method,
                path=_logged(request.path),
                operation=request.get(OPERATION, ""),
                status=status,
                milliseconds=round(seconds * 1000, 1),
                owner=request.get(OWNER, ""),
                client=_logged(request.headers.get("User-Agent", "")),
                unread=tuple(map(_logged, request.get(UNREAD, ()))),
                error=None if error is None else _logged(error),
            )
        )

    def clear(self) -> None:
        self._requests.clear()

    def __iter__(self) -> Iterator[RecentRequest]:
        """Yield the requests, oldest first."""
        return iter(tuple(self._requests))


_LONGEST_TEXT = 1000


def _logged(text: str) -> str:
    """Return at most 1000 characters. Those that UTF-8 cannot represent (bytes of a header that
    are not UTF-8, lone surrogates in JSON) are escaped."""
    return text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()


# Request signatures: what Alibaba Cloud's signatures of AGS and OSS have in common


def collect_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by lower-case name. Repeated headers are joined: none can hide another."""
    collected: dict[str, str] = {}
    for name, value in headers:
        key, text = name.lower(), value.strip()
        collected[key] = f"{collected[key]},{text}" if key in collected else text
    return collected


def truncated() -> ConnectionResetError:
    """Return the error for a file that becomes shorter while it is sent.

    It ends the connection; otherwise the client would wait for the rest.
    """
    return ConnectionResetError("the file was truncated while it was being sent")


def parse_time(text: str) -> datetime:
    """Return an ISO 8601 or HTTP date, in UTC by default. Raises ValueError."""
    parse = datetime.fromisoformat if text[:1].isdigit() else parsedate_to_datetime
    try:
        timestamp = parse(text)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{text[:40]!r} is not a date") from error
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)


def percent_encode(text: str) -> str:
    """Percent-encode all but the unreserved characters (RFC 3986, section 2.3)."""
    return quote(text, safe="-_.~", errors="surrogateescape")


def to_bytes(text: str) -> bytes:
    """Return the bytes that aiohttp decoded to `text`, also if they are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


# XML output

_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, *content: str | int | Element) -> Element:
    """Return an element with a text or with child elements. Characters that XML 1.0 does not allow
    (section 2.2) become `?`."""
    made = Element(tag)
    for part in content:
        if isinstance(part, Element):
            made.append(part)
        else:
            made.text = _INVALID.sub("?", str(part))
    return made


def document(root: Element) -> bytes:
    """Return the document in UTF-8, with an XML declaration."""
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))
