"""The control API: access check, dialect, `/_wesemu/events`, request bodies, and `/_wesemu/health`,
`ready` and `info`."""

import asyncio
import hmac
import json
import platform
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NoReturn, TypeVar

from aiohttp import HttpVersion11, web
from pydantic import BaseModel, ValidationError

from wesemu import __version__
from wesemu.api.admin import models
from wesemu.api.base import (
    REQUEST_ID,
    Dialect,
    Event,
    EventStreams,
    http_message,
    last_event_id,
    refuse_encoded,
)
from wesemu.api.csrf import host_of, is_forwarded, names_loopback, same_origin
from wesemu.api.fault_injection import CONTROL, InjectedResponse
from wesemu.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SystemFault,
    Unauthorized,
    WesemuError,
)
from wesemu.provenance.redaction import redact_urls
from wesemu.runs.admin_service import AdminService
from wesemu.runs.model import LOCAL_OWNER, JsonObject, JsonValue, Owner, RunId
from wesemu.runs.ports import Engine
from wesemu.util.text import json_reason, validation_reason, without_repeats

# Access

_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class AdminAccess:
    """Decides who may use the controls.

    With `admin_token`, every request needs this bearer token. With "", only requests from this
    machine are allowed. With `enabled=False`, all requests get a 404.

    A web page open in a browser on this machine must not use the controls. The request's host must
    be a loopback name (against DNS rebinding), and its origin the server itself. Requests that a
    proxy forwards are not local.
    """

    def __init__(self, admin_token: str, *, enabled: bool = True) -> None:
        self._token = admin_token.encode()
        self._enabled = enabled

    def check(self, request: web.Request) -> None:
        """Raise NotFound, Unauthorized (no token, another machine) or Forbidden (a web page)."""
        if not self._enabled:
            raise NotFound("the controls are switched off (the setting controls)")
        if self._token:
            if not self._has_token(request):
                raise Unauthorized(
                    "the controls need the admin token; send "
                    "'Authorization: Bearer …' with the setting auth.admin_token"
                )
            return
        if not _is_local(request):
            raise Unauthorized(
                "the controls accept requests from the server's own machine only; for other "
                "machines and proxies, set auth.admin_token and send 'Authorization: Bearer …'"
            )
        origin = request.headers.get("Origin")
        foreign = origin is not None and not same_origin(origin, request)
        if foreign or not names_loopback(host_of(request)):
            raise Forbidden(
                "this request comes from a web page of another site, or its Host is not a name of "
                "this machine; use http://127.0.0.1, or the admin token"
            )

    def _has_token(self, request: web.Request) -> bool:
        match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        if match is None:
            return False
        return hmac.compare_digest(match[1].encode(errors="surrogateescape"), self._token)


def _is_local(request: web.Request) -> bool:
    """Return whether the peer is on loopback or on a Unix socket, and no proxy. Proxies that add no
    header speak HTTP/1.0 to the server. A Unix socket has no remote address."""
    if is_forwarded(request) or request.version < HttpVersion11:
        return False
    return not request.remote or names_loopback(request.remote)


# Dialect

PUBLIC = frozenset({f"{CONTROL}health", f"{CONTROL}ready"})
"""Open to probes from other machines; the response only says whether the server is ready."""

_STATUS: tuple[tuple[type[WesemuError], int], ...] = (
    (InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (SystemFault, 503),
)


class AdminDialect(Dialect):
    """The control API, and paths that no other dialect owns.

    Its errors are JSON: `{"error": "…", "status": 404}`, with the invalid `field` if there is one.
    """

    def __init__(self, access: AdminAccess) -> None:
        self._access = access

    def is_control(self, request: web.Request) -> bool:
        return self.owns(request)

    def owns(self, request: web.Request) -> bool:
        return request.path.startswith(CONTROL)

    async def authenticate(self, request: web.Request) -> Owner:
        """Check the caller. Paths outside the control API need no credentials here. Raises
        NotFound, Unauthorized or Forbidden."""
        if not self.owns(request):
            return Owner("")
        if request.path not in PUBLIC:
            self._access.check(request)
        return LOCAL_OWNER

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        message = f"internal error; the server's log has it under {request[REQUEST_ID]}"
        status, field = 500, None
        if isinstance(error, web.HTTPException):
            status, message = error.status, http_message(error)
            if isinstance(error, InjectedResponse):
                message = error.message or message
            elif status == 404:
                message = "there is no such path; try /ga4gh/wes/v1/service-info or /gs/workflows"
        elif isinstance(error, WesemuError):
            message, field = str(error), error.field
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        body: dict[str, str | int] = {"error": message, "status": status}
        if field is not None:
            body["field"] = field
        headers = {"WWW-Authenticate": 'Bearer realm="wesemu"'} if status == 401 else None
        return web.json_response(body, status=status, headers=headers)

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-request-id": request_id, "Cache-Control": "no-store"}


# `/_wesemu/events`


class EventHandlers:
    """Streams changes of runs until the client disconnects or the server stops."""

    def __init__(self, service: AdminService) -> None:
        self._service = service
        self._streams = EventStreams()
        self.close = self._streams.close

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/_wesemu/events", self.events)]

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send active runs, or those changed since the client's last event, then every change."""
        return await self._streams.send(request, self._events(last_event_id(request)))

    async def _events(self, last: str) -> AsyncGenerator[Event]:
        sent: dict[RunId, str] = {}
        with self._service.watch() as changed:
            missed = self._service.changed_since(last)
            if missed is None:
                number = self._service.change_number
                active = await self._service.active()
                # Only the last event has an id: a client that got some of them starts over.
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
        """Yield an event for each run that differs from what was `sent` last."""
        for run_id, number in changes:
            change = await self._change(run_id)
            data = change.model_dump_json()
            if sent.get(run_id) != data:
                sent[run_id] = data
                yield Event("run", data, self._service.event_id(number))
            if change.state is None:
                sent.pop(run_id, None)

    async def _change(self, run_id: RunId) -> models.AdminChange:
        run = await self._service.find(run_id)
        if run is None:
            return models.AdminChange(id=run_id)
        return models.AdminChange(
            id=run.id,
            state=run.state.value,
            handle=run.handle,
            owner=run.owner,
            workflow=run.workflow or redact_urls(run.request.workflow_url),
            created=run.created,
            started=run.started,
            ended=run.ended,
        )


# Request bodies: one JSON object; an empty body means `{}`

_Body = TypeVar("_Body", bound=BaseModel)

_LONGEST = 64 << 10
_TYPES = frozenset(
    {
        "application/json",
        "text/json",
        # the defaults of clients if the caller names no type
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
    }
)


async def read(request: web.Request, kind: type[_Body]) -> _Body:
    """Parse the body as `kind`, strictly: no conversions, unknown or repeated members, and no
    query. Raises InvalidRequest that names the first invalid member."""
    _check_headers(request)
    content = await request.read()
    if len(content) > _LONGEST:
        raise InvalidRequest(f"the body is longer than {_LONGEST} bytes")
    body = await asyncio.to_thread(_parse, content)
    try:
        return kind.model_validate(body, strict=True)
    except ValidationError as error:
        field, reason = validation_reason(error)
        raise InvalidRequest(
            reason if field else f"the body: {reason}", field=field or None
        ) from error


async def read_nothing(request: web.Request) -> None:
    """Check that the request has no body and no query. Raises InvalidRequest."""
    _check_headers(request)
    if (await request.read()).strip() not in (b"", b"{}"):
        raise InvalidRequest(f"{request.method} {request.path} takes no body; leave it out")


def answer(content: BaseModel, status: int = 200) -> web.Response:
    return web.Response(
        text=content.model_dump_json(), content_type="application/json", status=status
    )


def _check_headers(request: web.Request) -> None:
    if request.query_string:
        raise InvalidRequest(
            f"{request.method} {request.path} takes no query; write a JSON object into the body",
            field=next(iter(request.query), None),
        )
    kind = request.content_type
    if kind not in _TYPES and not kind.endswith("+json"):
        raise InvalidRequest(
            f"the body is {kind[:80]}; send application/json", field="Content-Type"
        )
    refuse_encoded(request)


def _parse(content: bytes) -> JsonObject:
    try:
        body: JsonValue = json.loads(
            content.decode() or "{}",
            object_pairs_hook=without_repeats,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is {json_reason(error)}; send one JSON object in UTF-8"
        ) from error
    if not isinstance(body, dict):
        raise InvalidRequest("the body is JSON, but not an object; send one JSON object")
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not JSON; write a finite number")


# `/_wesemu/health`, `ready` and `info`
class StateHandlers:
    """Reports the state of the server.

    `problems` returns the reasons why the server is not ready. `tools` lists the installed tools;
    it is slow. `facts` are added to `info` unchanged.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        problems: Callable[[], Awaitable[list[str]]],
        tools: Callable[[], list[JsonValue]],
        facts: Mapping[str, JsonValue],
    ) -> None:
        self._engines = engines
        self._problems = problems
        self._tools = tools
        self._facts = facts

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/health", self.health),
            web.get("/_wesemu/ready", self.ready),
            web.get("/_wesemu/info", self.info),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """Return 200 as soon as the server answers requests."""
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """Return 200 if runs can start, or 503 with the reasons."""
        reasons = await self._problems()
        body = models.ReadinessResponse(ready=not reasons, reasons=reasons)
        return answer(body, 503 if reasons else 200)

    async def info(self, request: web.Request) -> web.Response:
        engines: JsonObject = {engine.name: engine.version for engine in self._engines}
        body: JsonObject = {
            "version": __version__,
            "python": platform.python_version(),
            "engines": engines,
            "tools": await asyncio.to_thread(self._tools),
            **self._facts,
        }
        return web.json_response(body)
