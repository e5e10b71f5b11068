"""`/_wesemu/health`, `ready` and `info`: how the server is and what it found."""

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
from wesemu.api.base import REQUEST_ID, Event, EventStreams, last_event_id
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
from wesemu.util.text import json_reason, validation_reason

# Who may use the controls: whoever shows the admin token; where there is none, this machine.


_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class AdminAccess:
    """`admin_token` is the bearer token that the controls need, from everywhere. With "" they need
    none and are for this machine alone. Without `enabled` they are for nobody.

    A web page that somebody looks at on this machine is not this machine: requests must name it
    as their host (no rebound DNS name), and come from no other origin. Nor is what a proxy passes
    on.
    """

    def __init__(self, admin_token: str, *, enabled: bool = True) -> None:
        self._token = admin_token.encode()
        self._enabled = enabled

    def check(self, request: web.Request) -> None:
        """Raises NotFound, Unauthorized without the token or from another machine, and Forbidden
        for a web page."""
        if not self._enabled:
            raise NotFound("the controls are switched off (the setting controls)")
        if self._token:
            if not self._shows_token(request):
                raise Unauthorized(
                    "the emulator's own controls need the admin token here; send "
                    "'Authorization: Bearer …' with the setting auth.admin_token"
                )
            return
        if not _is_local(request):
            raise Unauthorized(
                "the emulator's own controls are for the machine that it runs on; for another "
                "one or through a proxy, set auth.admin_token and send it as "
                "'Authorization: Bearer …'"
            )
        origin = request.headers.get("Origin")
        foreign = origin is not None and not same_origin(origin, request)
        if foreign or not names_loopback(host_of(request)):
            raise Forbidden(
                "this request comes from a web page of another site or by another name than this "
                "machine's own; use http://127.0.0.1, or the admin token"
            )

    def _shows_token(self, request: web.Request) -> bool:
        shown = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        if shown is None:
            return False
        return hmac.compare_digest(shown[1].encode(errors="surrogateescape"), self._token)


def _is_local(request: web.Request) -> bool:
    """A peer on loopback, or on a Unix socket, which has no address; but no proxy: those that add
    no header speak HTTP/1.0."""
    if is_forwarded(request) or request.version < HttpVersion11:
        return False
    return not request.remote or names_loopback(request.remote)


# The control API as the middleware sees it.


PUBLIC = frozenset({f"{CONTROL}health", f"{CONTROL}ready"})
"""What probes of another machine may ask: it tells whether the server serves, and nothing else."""

_STATUS: tuple[tuple[type[WesemuError], int], ...] = (
    (InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (SystemFault, 503),
)


class AdminDialect:
    """Plain JSON errors: `{"error": "…", "status": 404}`, with the `field` that is to blame."""

    handle = None
    operation = None

    def __init__(self, access: AdminAccess) -> None:
        self._access = access

    def owns(self, request: web.Request) -> bool:
        return request.path.startswith(CONTROL)

    async def authenticate(self, request: web.Request) -> Owner:
        """Raises Unauthorized or Forbidden. Paths that no API owns are nobody's."""
        if not self.owns(request):
            return Owner("")
        if request.path not in PUBLIC:
            self._access.check(request)
        return LOCAL_OWNER

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        message = f"internal error; the server's log has it under {request[REQUEST_ID]}"
        status, field = 500, None
        if isinstance(error, web.HTTPException):
            status, message = error.status, error.reason
            if isinstance(error, InjectedResponse):
                message = error.message or message
            elif status == 404:
                message = "nothing lives here; try /ga4gh/wes/v1/service-info or /gs/workflows"
        elif isinstance(error, WesemuError):
            message, field = error.message, error.field
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        told: dict[str, str | int] = {"error": message, "status": status}
        if field is not None:
            told["field"] = field
        headers = {"WWW-Authenticate": 'Bearer realm="wesemu"'} if status == 401 else None
        return web.json_response(told, status=status, headers=headers)

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-request-id": request_id, "Cache-Control": "no-store"}


# `/_wesemu/events`: every change of a run, as server-sent events.


class EventHandlers:
    """Streams until the client goes or the server stops."""

    def __init__(self, overseer: AdminService) -> None:
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

    async def _change(self, run_id: RunId) -> models.AdminChange:
        run = await self._overseer.find(run_id)
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


# Bodies of the control API: one JSON object each, an empty body standing for `{}`.


_Body = TypeVar("_Body", bound=BaseModel)

_LONGEST = 64 << 10
_TYPES = frozenset(
    {
        "application/json",
        "text/json",
        # what clients send that were not told a type
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
    }
)


async def read(request: web.Request, kind: type[_Body]) -> _Body:
    """The body as a `kind`, to the letter: nothing is converted, unknown members and members
    that come twice are refused, and so is a query.

    Raises InvalidRequest naming the first member that is wrong.
    """
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
            f"{field}: {reason}" if field else f"the body: {reason}", field=field or None
        ) from error


async def read_nothing(request: web.Request) -> None:
    """For an operation without a body. Raises InvalidRequest where there is one, or a query:
    it might ask for something else than what is done."""
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
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidRequest("the body is compressed; send it as it is", field="Content-Encoding")


def _parse(content: bytes) -> JsonObject:
    try:
        body: JsonValue = json.loads(
            content.decode() or "{}",
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is {json_reason(error)}; send one JSON object in UTF-8"
        ) from error
    if not isinstance(body, dict):
        raise InvalidRequest("the body is JSON, but not an object; send one JSON object")
    return body


def _without_repeats(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members: JsonObject = {}
    for name, value in pairs:
        if name in members:
            raise InvalidRequest(f"{name[:80]}: is given twice; name it once", field=name[:80])
        members[name] = value
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is no JSON; write a finite number")


class StateHandlers:
    """`hindrances` tells why the server cannot serve yet, `tools` (slow) what runs would use;
    `facts` stand in `info` as they are."""

    def __init__(
        self,
        engines: Sequence[Engine],
        hindrances: Callable[[], Awaitable[list[str]]],
        tools: Callable[[], list[JsonValue]],
        facts: Mapping[str, JsonValue],
    ) -> None:
        self._engines = engines
        self._hindrances = hindrances
        self._tools = tools
        self._facts = facts

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/health", self.health),
            web.get("/_wesemu/ready", self.ready),
            web.get("/_wesemu/info", self.info),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """200 as soon as requests are answered."""
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """200 once runs can be carried out, 503 with the reasons until then."""
        reasons = await self._hindrances()
        told = models.ReadinessResponse(ready=not reasons, reasons=reasons)
        return answer(told, 503 if reasons else 200)

    async def info(self, request: web.Request) -> web.Response:
        engines: JsonObject = {engine.name: engine.version for engine in self._engines}
        told: JsonObject = {
            "version": __version__,
            "python": platform.python_version(),
            "engines": engines,
            "tools": await asyncio.to_thread(self._tools),
            **self._facts,
        }
        return web.json_response(told)
