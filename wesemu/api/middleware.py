"""The middleware around all handlers (request id, owner, errors, access log), and the responses to
unreadable requests.
"""

import re
import time
from collections.abc import Sequence
from functools import partial

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict
from yarl import URL

from wesemu.api.base import OWNER, REQUEST_ID, Dialect, http_message
from wesemu.api.connections import Proxies
from wesemu.api.csrf import CrossOrigins, RequestGuard
from wesemu.api.fault_injection import RequestGate
from wesemu.errors import InvalidRequest, SystemFault, Unauthorized, WesemuError
from wesemu.runs.clock import WallClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.disk_full import machine_fault

_KEPT_HEADERS = ("Allow", "Content-Range")
"""Headers of aiohttp's errors that the errors of all APIs have."""


def api_middleware(
    dialects: Sequence[Dialect],
    ids: IdSource,
    gate: RequestGate | None = None,
    guard: RequestGuard | None = None,
    *,
    proxies: Proxies | None = None,
    origins: CrossOrigins | None = None,
) -> Middleware:
    """Return the application's only middleware.

    The first of `dialects` that owns a request answers it, or else the last one. `proxies` restores
    forwarded requests; `origins` are the web pages that may call the server.
    """
    proxies = proxies or Proxies()
    origins = origins or CrossOrigins()
    gate = gate or RequestGate(WallClock())
    guard = guard or RequestGuard(is_open=False)
    log = structlog.get_logger("wesemu.access").bind()  # once, not for every request

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        if (preflight := origins.preflight(request)) is not None:
            return preflight
        request = proxies.original_request(request)
        dialect = _addressed(dialects, request)
        is_control = dialect.is_control(request)
        request_id = dialect.request_id(ids.request_id())
        request[REQUEST_ID] = request_id
        message: str | None = None
        try:
            if is_control:  # it has its own checks: AdminAccess
                response = await _respond(request, dialect, handler)
            else:
                respond = partial(_respond, request, dialect, handler, guard)
                operation = partial(dialect.operation, request) if dialect.operation else None
                response = await gate.answer(request, respond, operation)
        except (WesemuError, web.HTTPException) as error:
            if isinstance(error, SystemFault):
                log.error("request failed", request_id=request_id, error=str(error))
            elif isinstance(error, Unauthorized):
                log.info(
                    "credentials refused",
                    address=request.remote,
                    path=request.path,
                    request_id=request_id,
                    reason=error.message,
                )
            message = _message(error)
            response = _error_response(dialect, error, request)
        except Exception as error:
            if (fault := machine_fault(error)) is not None:
                log.error("request failed", request_id=request_id, error=str(error))
            else:
                log.exception("internal error", request_id=request_id, path=request.path)
            message = _message(fault or error)
            response = dialect.render_error(fault or error, request)
        if not response.prepared:
            response.headers.update(dialect.headers(request_id))
        if message is not None and request.writer.output_size and request.transport is not None:
            request.transport.abort()  # part of another response is sent: too late for an error
        seconds = time.perf_counter() - began
        gate.metrics.count(request, response.status, seconds)
        if dialect.is_logged and not is_control:
            gate.requests.add(request, response.status, seconds, message)
        log.debug(
            "request",
            method=request.method,
            path=request.path,
            address=request.remote,
            status=response.status,
            ms=round(seconds * 1000, 1),
            request_id=request_id,
        )
        return response

    return middleware


def _addressed(dialects: Sequence[Dialect], request: web.Request) -> Dialect:
    for dialect in dialects:
        if dialect.owns(request):
            return dialect
    return dialects[-1]


async def _respond(
    request: web.Request, dialect: Dialect, handler: Handler, guard: RequestGuard | None = None
) -> web.StreamResponse:
    """Check and authenticate the request, and call its handler."""
    if guard is not None:
        guard.check(request)
    try:
        request[OWNER] = await dialect.authenticate(request)
        return await (dialect.handle or handler)(request)
    except (web.RequestPayloadError, ConnectionError) as error:
        if (broken := _broken_connection(error, request)) is None:
            raise
        raise broken from error


def _broken_connection(error: Exception, request: web.Request) -> InvalidRequest | None:
    """Return InvalidRequest if the body is cut off or the client has gone, or else None."""
    if isinstance(error, web.RequestPayloadError):
        return InvalidRequest("the body is cut off or not encoded as its headers say")
    if request.transport is not None and not request.transport.is_closing():
        return None  # a connection of the server to another machine
    return InvalidRequest("the client closed the connection before the end")


def _error_response(dialect: Dialect, error: Exception, request: web.Request) -> web.Response:
    response = dialect.render_error(error, request)
    if isinstance(error, web.HTTPException):
        kept = {name: error.headers[name] for name in _KEPT_HEADERS if name in error.headers}
        response.headers.update(kept)
    return response


def _message(error: Exception) -> str:
    """Return the message for the log of requests."""
    if isinstance(error, WesemuError):
        return str(error)
    return http_message(error) if isinstance(error, web.HTTPException) else "internal error"


# Unreadable requests

_LINE = re.compile(rb"([A-Z]{1,20}) (\S+)")
_LONGEST = 8190
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_TOO_LONG = "Got more than"
_REPEATED = re.compile(r"Duplicate '([A-Za-z-]{1,64})' header")


class UnreadableRequests:
    """Lets the addressed dialect answer a request that aiohttp cannot parse.

    414 for a long request line, 431 for large headers (RFC 6585, section 5), 400 otherwise.
    """

    def __init__(self, dialects: Sequence[Dialect], ids: IdSource) -> None:
        self._dialects = dialects
        self._ids = ids

    def __call__(self, request: web.BaseRequest, head: bytes, why: str) -> web.Response:
        """Return the response. `head` is the start of the request, `why` aiohttp's message."""
        partial_request = _partial_request(request, head)
        # Without a readable request line, no dialect is addressed.
        dialects = self._dialects if _LINE.match(head) else self._dialects[-1:]
        dialect = _addressed(dialects, partial_request)
        partial_request[REQUEST_ID] = request_id = dialect.request_id(self._ids.request_id())
        response = dialect.render_error(_error(head, why), partial_request)
        response.headers.update(dialect.headers(request_id))
        return response


def _error(head: bytes, why: str) -> web.HTTPException:
    if why.lstrip().startswith(_TOO_LONG) or "too many headers" in why.casefold():
        if b"\r\n" not in head:
            return web.HTTPRequestURITooLong(
                reason=f"the request line is longer than {_LONGEST} bytes"
            )
        return web.HTTPRequestHeaderFieldsTooLarge(
            reason=f"a header is longer than {_LONGEST} bytes, or there are more than 128"
        )
    if (repeated := _REPEATED.search(why)) is not None:
        return web.HTTPBadRequest(
            reason=f"the request has the header {repeated[1]} more than once; send it once"
        )
    return web.HTTPBadRequest(reason="this is not an HTTP request that can be read")


def _partial_request(request: web.BaseRequest, head: bytes) -> web.Request:
    """Return a request with the method, path and headers that can be read from `head`."""
    line, *rest = head.split(b"\r\n")
    match = _LINE.match(line)
    method, target = (match[1].decode(), match[2].decode("latin-1")) if match else ("GET", "/")
    headers: CIMultiDict[str] = CIMultiDict()
    for text in rest:
        name, colon, value = text.decode("latin-1").partition(":")
        if colon and _NAME.fullmatch(name) and value.strip().isprintable():
            headers[name] = value.strip()
    path = target if target.startswith("/") else "/"
    try:
        url = URL(path, encoded=True)
    except ValueError:
        url = URL("/")
    partial_request = request.clone(method=method, rel_url=url, headers=headers)
    assert isinstance(partial_request, web.Request)
    return partial_request
