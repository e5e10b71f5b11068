"""Connections of the HTTP server: requests behind trusted proxies, the public URL, limits on open
connections, idle and stalled connections, and unreadable requests.
"""

import asyncio
import ipaddress
import re
import resource
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from wesemu.errors import OutOfFiles
from wesemu.util.text import NO_FILES_ERRORS

# Trusted proxies

UNIX = "unix"
"""Stands for a network in `Proxies.trusted`: every peer on the Unix socket."""

Network = IPv4Network | IPv6Network | str
Address = IPv4Address | IPv6Address

BASE_URL: web.RequestKey[str] = web.RequestKey("base_url", str)
PROXIED: web.RequestKey[bool] = web.RequestKey("proxied", bool)

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:\d{1,5})?")
_PAIR = re.compile(r'(?:"(?:[^"\\]|\\.)*"?|[^";])+')
_MOST_PROXIES = 20
_LONGEST = 8192
"""Letters of all Forwarded headers that are read, from the end: a client can write the rest."""


class Proxies:
    """Restores the client's address, scheme and host of requests that trusted proxies forward.

    `trusted` are the proxies' networks. `public_url` is the URL under which clients reach the
    server; responses contain URLs that begin with it. It has a path if a proxy strips one.
    """

    def __init__(self, trusted: Sequence[Network] = (), public_url: str = "") -> None:
        self._trusted = trusted
        self._public_url = public_url.rstrip("/")

    def original_request(self, request: web.Request) -> web.Request:
        """Return the request as its client sent it."""
        if self._trusted and self._is_trusted(request.remote or ""):
            request = self._restore(request)
            request[PROXIED] = True
        if self._public_url:
            request[BASE_URL] = self._public_url
        return request

    def _restore(self, request: web.Request) -> web.Request:
        hops = _hops(request.headers)
        remote, passed = request.remote or "", 0
        # Walk back from the nearest proxy and stop at the first address that is not trusted: a
        # client can write any header it likes.
        for address in reversed([hop.get("for", "") for hop in hops]):
            if not self._is_trusted(remote):
                break
            passed += 1
            remote = address
        nearest = hops[len(hops) - max(passed, 1)] if hops else {}
        scheme = nearest.get("proto", "").lower()
        host = nearest.get("host", "")
        headers: CIMultiDict[str] = CIMultiDict(request.headers)
        if _HOST.fullmatch(host):
            headers["Host"] = host
        return request.clone(
            headers=CIMultiDictProxy(headers),
            scheme=scheme if scheme in ("http", "https") else request.scheme,
            host=headers.get("Host", request.host),
            remote=remote,
        )

    def _is_trusted(self, text: str) -> bool:
        address = _address(text)
        if address is None:
            return UNIX in self._trusted and not text
        return any(
            not isinstance(network, str)
            and address.version == network.version
            and address in network
            for network in self._trusted
        )


def base_url(request: web.Request) -> str:
    """Return the server's address as the caller knows it, without a trailing slash.

    This is `server.public_url`, or else the request's scheme and Host header. A request without
    Host (HTTP/1.0) gets the address of the connected socket.
    """
    public_url: str | None = request.get(BASE_URL)
    if public_url is not None:
        return public_url
    host = request.headers.get("Host")
    if host is None and request.transport is not None:
        name = request.transport.get_extra_info("sockname")
        host = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "localhost"
    return f"{request.scheme}://{host}"


def check_public_url(text: str) -> str:
    """Return the URL without a trailing slash; "" is allowed. Raises ValueError for other schemes
    than http and https, a query, a fragment or a password."""
    if not text:
        return ""
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise ValueError("write https://host or https://host/path, without a query")
    if url.user is not None or url.password is not None:
        raise ValueError("a public URL must not contain a password")
    return text.rstrip("/")


def _hops(headers: CIMultiDictProxy[str]) -> list[dict[str, str]]:
    """Return the keys `for`, `proto` and `host` of the last proxies, the nearest one last. Reads
    Forwarded (RFC 7239, section 4), or else X-Forwarded-* or X-Real-IP."""
    if "Forwarded" in headers and "X-Forwarded-For" not in headers:
        elements = _split(_joined(headers, "Forwarded")[-_LONGEST:])
        return [_element(text) for text in elements[-_MOST_PROXIES:]]
    hops = [{"for": text} for text in _listed(headers, "X-Forwarded-For")[-_MOST_PROXIES:]]
    hops = hops or [{"for": headers.get("X-Real-IP", "")}]
    for name, key in (("X-Forwarded-Proto", "proto"), ("X-Forwarded-Host", "host")):
        values = _listed(headers, name)
        for place, hop in enumerate(reversed(hops)):
            if values:  # a single value applies to all hops
                hop[key] = values[max(len(values) - 1 - place, 0)]
    return hops


def _element(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in _PAIR.findall(text):
        name, _, value = pair.partition("=")
        pairs[name.strip().lower()] = value.strip().strip('"')
    return {name: pairs[name] for name in ("for", "proto", "host") if name in pairs}


def _joined(headers: CIMultiDictProxy[str], name: str) -> str:
    return ",".join(headers.getall(name, []))


def _listed(headers: CIMultiDictProxy[str], name: str) -> list[str]:
    return [text.strip() for text in _joined(headers, name).split(",")] if name in headers else []


def _split(text: str) -> list[str]:
    """Split at the commas outside quoted strings.

    Quotes are counted from the end: a client may leave one open before the text of the proxies.
    """
    elements: list[str] = []
    end, is_quoted = len(text), False
    for match in reversed([*re.finditer('[",]', text)]):
        if match[0] == '"':
            is_quoted = not is_quoted
        elif not is_quoted:
            elements.append(text[match.end() : end])
            end = match.start()
    elements.append(text[:end])
    return [element for element in reversed(elements) if element.strip()]


def _address(text: str) -> Address | None:
    """Parse an address in a proxy's header: `192.0.2.1`, `192.0.2.1:80` or `[2001:db8::1]:80`."""
    bare = text.strip().strip('"')
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


# Limits on connections

log = structlog.get_logger("wesemu.connections")

Unreadable = Callable[[web.BaseRequest, bytes, str], web.Response]
"""Builds the response to an unreadable request from the first bytes and the parser's message."""

MOST_FILES = 65_536
"""The soft limit to request. Some tools close every possible descriptor, so it must not be huge."""

LEAST_FILES = 128
"""With a lower limit, a server cannot answer clients and run workflows at the same time."""

_MOST_CONNECTIONS = 4096
_FEWEST_CONNECTIONS = 16
_RESERVED = 256
_FILES_A_CONNECTION = 3  # the socket, an object that is read, one that is written
_HEAD = 2048
_PAUSE_SECONDS = 60.0

_BUSY_BODY = b'{"error": "too many connections; try again", "status": 503}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_BUSY_BODY), _BUSY_BODY)


def possible_file_limit() -> int:
    """Return the limit of open files that a server of this user and shell would have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    return wanted if soft == resource.RLIM_INFINITY else max(soft, wanted)


def raise_file_limit() -> int:
    """Raise the soft limit of open files toward the hard limit. Return the new soft limit.

    Raises OutOfFiles if it is below `LEAST_FILES`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = possible_file_limit()
    if soft != resource.RLIM_INFINITY and soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            limit = soft
    if limit < LEAST_FILES:
        raise OutOfFiles(
            f"a server needs at least {LEAST_FILES} open files, and the limit is {limit}; raise it "
            "(ulimit -n, LimitNOFILE=)"
        )
    return limit


def connection_limit(files: int) -> int:
    """Return the number of connections that leaves enough descriptors for runs and the database."""
    left = files - min(_RESERVED, files // 2)
    return max(_FEWEST_CONNECTIONS, min(left // _FILES_A_CONNECTION, _MOST_CONNECTIONS))


class Connections:
    """The open connections, at most `limit`.

    At the limit, a new connection replaces an idle one. If none is idle, the new connection gets a
    503.

    `idle`: seconds until a connection without a request is closed.
    `headers`: seconds for a request's headers to arrive.
    `stalled`: seconds without a byte until a connection is closed, while it sends a body or
    receives a response.
    """

    def __init__(
        self,
        limit: int,
        *,
        idle: float = 75.0,
        stalled: float = 120.0,
        headers: float = 30.0,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.limit = limit
        self.idle = idle
        self.stalled = stalled
        self.headers = headers
        self.unreadable = unreadable
        self.open: dict[Connection, None] = {}
        self.refused = 0
        self._warned = float("-inf")

    def make_room(self) -> bool:
        """Return whether one more connection is allowed. Closes an idle connection if necessary."""
        if len(self.open) < self.limit:
            return True
        for connection in self.open:  # the longest open first
            if connection.is_idle:
                connection.force_close()
                del self.open[connection]
                return True
        self.refused += 1
        now = time.monotonic()
        if now - self._warned > _PAUSE_SECONDS:
            self._warned = now
            log.warning("connections are refused", limit=self.limit, refused=self.refused)
        return False


class Connection(RequestHandler):
    """One connection. Remembers when the last bytes moved."""

    def __init__(self, connections: Connections, manager: web.Server, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(manager, loop=loop, keepalive_timeout=connections.idle, **options)
        self._connections = connections
        self._head = b""
        self._last_activity = loop.time()
        self._written = 0
        self._watching: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the connection waits for a request and has received no byte of it."""
        waits = self._waiter is not None and not self._waiter.done()
        return waits and not self._head and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._connections.make_room():
            # answer before aiohttp's parser starts: a refused connection costs no request object
            assert isinstance(transport, asyncio.Transport)
            transport.write(_BUSY)
            transport.close()
            self._force_close = True
            self._manager = None
            return
        self._connections.open[self] = None
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.open.pop(self, None)
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._manager is None:
            return
        self._last_activity = self._loop.time()
        # Keep the first bytes of a request, in case aiohttp's parser rejects it.
        if not self._request_in_progress and not self._messages:
            if not self._head:
                self._head_began = self._last_activity
            if len(self._head) < _HEAD:
                self._head += data[:_HEAD]
        super().data_received(data)
        # aiohttp queues a parsed request, or `_ErrInfo` for one that it cannot parse.
        if not self._messages:
            return
        if type(self._messages[-1][0]).__name__ == "_ErrInfo":
            self._break_open_bodies()
        else:
            self._head = b""

    def _break_open_bodies(self) -> None:
        """End the bodies that have begun, because the rest of them cannot be parsed.

        aiohttp treats the bad chunk as a new, unreadable request. It does not tell the handler that
        reads the body, which would wait for the end of the body forever.
        """
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body cannot be parsed"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        unreadable = self._connections.unreadable
        if status != web.HTTPBadRequest.status_code or unreadable is None:
            return super().handle_error(request, status, exc, message)
        head, self._head = self._head, b""
        response = unreadable(request, head, message or "")
        response.force_close()
        return response

    def _watch(self) -> None:
        """Close the connection if it is stalled; check again later."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        now = self._loop.time()
        if self._is_stalled(now):
            transport.abort()
            return
        pause = min(self._connections.stalled, self._connections.headers) / 2
        self._watching = self._loop.call_later(max(pause, 0.01), self._watch)

    def _is_stalled(self, now: float) -> bool:
        if self._head and now - self._head_began > self._connections.headers:
            return True
        size = self.transport.get_write_buffer_size() if self.transport else 0
        if size != self._written:
            self._written, self._last_activity = size, now
        if now - self._last_activity <= self._connections.stalled:
            return False
        if self._paused:  # the client does not read its response
            return True
        request = self._current_request
        return request is not None and not request.content.is_eof() and not self._reading_paused


class ConnectionSite(web.SockSite):
    """Serves a bound socket and limits its connections."""

    def __init__(self, runner: web.BaseRunner, sock: Any, connections: Connections) -> None:
        super().__init__(runner, sock)
        self._connections = connections

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        options = server._kwargs  # noqa: SLF001 - what the runner was made with

        def connect() -> Connection:
            return Connection(self._connections, server, **options)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(connect, sock=self._sock, backlog=self._backlog)


def quiet_when_out_of_files(loop: asyncio.AbstractEventLoop) -> None:
    """Log one line a minute if the process is out of descriptors. By default, asyncio logs a
    traceback every second."""
    warned = [float("-inf")]

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in NO_FILES_ERRORS:
            loop.default_exception_handler(context)
        elif loop.time() - warned[0] > _PAUSE_SECONDS:
            warned[0] = loop.time()
            log.error("connections wait: too many files are open")

    loop.set_exception_handler(handle)
