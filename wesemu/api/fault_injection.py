"""Controls over the requests of all other APIs: the maintenance gate for resets, injected faults
(`/_wesemu/faults`) and `RequestGate`, which applies both.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from aiohttp import web

from wesemu.api.base import Releasable, RequestLog, RequestMetrics, merge_slashes
from wesemu.errors import InvalidRequest, ServerReset, SystemFault, WesemuError
from wesemu.runs.clock import Clock

Respond = Callable[[], Awaitable[web.StreamResponse]]
"""Handles one request."""

# Maintenance gate


class MaintenanceGate:
    """Lets requests pass while it is open. New requests wait while it is closed."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._inside: set[asyncio.Task[object]] = set()
        self._cancelled: set[asyncio.Task[object]] = set()
        self._left = asyncio.Event()
        self._closing = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        return not self._open.is_set()

    async def opened(self) -> None:
        """Wait until the gate is open."""
        await self._open.wait()

    async def answer(self, respond: Respond) -> web.StreamResponse:
        """Wait until the gate is open, and count the request as active until `respond` returns.

        Raises ServerReset if a reset cancels the request.
        """
        await self._open.wait()
        task = asyncio.current_task()
        assert task is not None
        self._inside.add(task)
        try:
            return await respond()
        except asyncio.CancelledError:
            # uncancel() returns 0 if only the reset cancelled this task. Otherwise the client or
            # the server's shutdown did, and CancelledError must go on.
            if task in self._cancelled and not task.uncancel():
                raise ServerReset(
                    "the server was reset while this request was under way; send it again"
                ) from None
            raise
        finally:
            self._inside.discard(task)
            self._cancelled.discard(task)
            self._left.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Close the gate. Active requests continue; see `emptied`."""
        async with self._closing:
            self._open.clear()
            try:
                yield
            finally:
                self._open.set()

    async def emptied(self, seconds: float, cancel_seconds: float) -> None:
        """Wait up to `seconds` for active requests, cancel the rest, and wait for their ends.

        Raises SystemFault for requests that do not end within `cancel_seconds`.
        """
        await self._wait_until_empty(seconds)
        for task in self._inside:
            self._cancelled.add(task)
            task.cancel()
        await self._wait_until_empty(cancel_seconds)
        if self._inside:
            raise SystemFault(
                f"{len(self._inside)} requests have not ended within {cancel_seconds:.0f} seconds; "
                "try again, or stop the server"
            )

    async def _wait_until_empty(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._inside:
                    self._left.clear()
                    await self._left.wait()


# Faults

_WES = "/**/ga4gh/wes/v1"

OPERATIONS = {
    "StartWorkflow": "POST /gs/workflow",
    "DescribeWorkflows": "GET /gs/workflows",
    "DescirbeWorkflow": "GET /gs/workflow/*",
    "CancelWorkflow": "PUT /gs/workflow/*",
    "RemoveWorkflow": "DELETE /gs/workflow/*",
    "GetServiceInfo": f"GET {_WES}/service-info",
    "ListRuns": f"GET {_WES}/runs",
    "RunWorkflow": f"POST {_WES}/runs",
    "GetRunLog": f"GET {_WES}/runs/*",
    "GetRunStatus": f"GET {_WES}/runs/*/status",
    "CancelRun": f"POST {_WES}/runs/*/cancel",
    "ListTasks": f"GET {_WES}/runs/*/tasks",
    "GetTask": f"GET {_WES}/runs/*/tasks/*",
}
"""Names of the AGS and WES operations. `*` matches one part of a path, `**` any number."""

BUCKET_OPERATIONS = (
    "ListBuckets",
    "PutBucket",
    "DeleteBucket",
    "ListObjects",
    "GetBucketInfo",
    "GetBucketStat",
    "GetBucketLocation",
    "GetBucketAcl",
    "PutBucketAcl",
    "GetBucketVersioning",
    "DeleteMultipleObjects",
    "PutObject",
    "CopyObject",
    "GetObject",
    "HeadObject",
    "GetObjectMeta",
    "GetObjectAcl",
    "PutObjectAcl",
    "DeleteObject",
    "AppendObject",
    "ListMultipartUploads",
    "InitiateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "ListParts",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
)
"""Names of the OSS operations. Method and path alone do not identify them."""

_MOST_APPLIED = 100

_CALL = re.compile(r"([A-Z]+|\*) (/\S*)")
_METHODS = frozenset({"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NEVER_IN_PATH = re.compile(r"[?#]|%[0-9A-Fa-f]{2}")
_WITHOUT_CODES = re.compile(r"[^ ]+ (/\*\*|/\*|/\d+\.\d+\.\d+)?/ga4gh(/.*)?")
"""Calls of WES, whose errors have no codes."""


@dataclass(frozen=True, slots=True)
class RequestFault:
    """A fault of one operation's requests.

    After `delay` seconds, the response has `status`, or the connection is dropped (`drop`). `code`
    and `message` replace the defaults of the status. With `after`, the operation runs first, and
    the fault applies to its response only.
    """

    operation: str
    status: int | None = None
    delay: float = 0.0
    drop: bool = False
    code: str | None = None
    message: str | None = None
    after: bool = False


@dataclass(frozen=True, slots=True)
class AppliedFault:
    """A request that a fault was applied to. `at` is wall clock time."""

    at: datetime
    method: str
    path: str
    fault: RequestFault


class InjectedResponse(web.HTTPException):
    """An injected error of any status. The dialect renders it like its own errors.

    `code` and `message` are None for the dialect's defaults of this status.
    """

    def __init__(self, status: int, code: str | None = None, message: str | None = None) -> None:
        self.status_code = status
        known = status in HTTPStatus.__members__.values()
        super().__init__(reason=HTTPStatus(status).phrase if known else f"Status {status}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class _Pattern:
    method: str
    parts: tuple[str, ...]

    def matches(self, method: str, path: str) -> bool:
        """Compare the path as sent and, for WES, also as its router reads it."""
        if self.method not in ("*", method):
            return False
        paths = {path, merge_slashes(path)} if "/ga4gh/" in path else {path}
        return any(_matches(each.split("/"), self.parts) for each in paths)


_BY_NAME = _Pattern("", ())
"""Matches no path: for operations that are identified by name."""


class RequestFaults:
    """Queue of faults for requests. `applied` has the last requests that a fault was applied to."""

    def __init__(self) -> None:
        self.applied: deque[AppliedFault] = deque(maxlen=_MOST_APPLIED)
        self._pending: list[tuple[RequestFault, _Pattern, int]] = []

    @property
    def pending(self) -> Sequence[tuple[RequestFault, int]]:
        """The faults, oldest first, each with the number of requests it still waits for."""
        return [(fault, times) for fault, _, times in self._pending]

    @property
    def by_name(self) -> bool:
        """Whether a fault waits for an OSS operation."""
        return any(pattern is _BY_NAME for _, pattern, _ in self._pending)

    def inject(self, fault: RequestFault, times: int) -> None:
        """Apply the fault to the next `times` matching requests. Raises InvalidRequest for an
        unknown operation and for a fault that can never occur."""
        pattern = _pattern(fault.operation)
        if fault.code is not None and _WITHOUT_CODES.fullmatch(
            OPERATIONS.get(fault.operation, fault.operation)
        ):
            raise InvalidRequest(
                "the errors of WES have no code, only a status and a message; leave it out",
                field="code",
            )
        self._pending.append((fault, pattern, times))

    def clear(self) -> None:
        self._pending.clear()
        self.applied.clear()

    def match(self, method: str, path: str, operation: str = "") -> RequestFault | None:
        """Return the oldest fault that matches the request, and count it down. `operation` is the
        OSS name of the operation, if the request is for OSS."""
        for number, (fault, pattern, times) in enumerate(self._pending):
            if pattern.matches(method, path) or fault.operation == operation:
                if times == 1:
                    del self._pending[number]
                else:
                    self._pending[number] = (fault, pattern, times - 1)
                self.applied.append(AppliedFault(datetime.now(UTC), method, path, fault))
                return fault
        return None


def _pattern(operation: str) -> _Pattern:
    if operation in BUCKET_OPERATIONS:
        return _BY_NAME
    call = _CALL.fullmatch(OPERATIONS.get(operation, operation))
    parts = call[2].split("/") if call else []
    if call is None or any("*" in part and part not in ("*", "**") for part in parts):
        names = ", ".join((*OPERATIONS, *BUCKET_OPERATIONS))
        raise InvalidRequest(
            f"{operation[:80]!r} is not an operation; write one of {names}, or a "
            'method and a path, as "GET /gs/workflow/*" ("*" is one part, "**" any number)',
            field="operation",
        )
    if (why := _why_impossible(call[1], call[2])) is not None:
        raise InvalidRequest(f"{operation[:80]!r} matches no call: {why}", field="operation")
    return _Pattern(call[1], tuple(parts))


def operation_name(method: str, path: str) -> str:
    """Return the name of an AGS or WES operation, or method and path if it has no name."""
    for name, pattern in _PATTERNS.items():
        if pattern.matches(method, path):
            return name
    return f"{method} {path}"


def _why_impossible(method: str, path: str) -> str | None:
    """Return why no request can match `method` and `path`; None if one can."""
    if method not in _METHODS:
        return f"{method[:20]} is not a method"
    if path.startswith("/_wesemu/") or path == "/_wesemu":
        return "the control API has no faults"
    if _NEVER_IN_PATH.search(path):
        return "paths are compared decoded and without a query"
    if any(part in (".", "..") for part in path.split("/")):
        return "clients resolve '.' and '..' before they send a path"
    return None


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a path matches. Backtracks to the last `**` only, so time is bounded."""
    at = wanted = 0
    star, retry = -1, 0
    while at < len(parts):
        if wanted < len(pattern) and pattern[wanted] == "**":
            star, retry = wanted, at
            wanted += 1
        elif wanted < len(pattern) and _is_part(parts[at], pattern[wanted]):
            at, wanted = at + 1, wanted + 1
        elif star >= 0:
            retry += 1
            at, wanted = retry, star + 1
        else:
            return False
    return all(part == "**" for part in pattern[wanted:])


def _is_part(part: str, wanted: str) -> bool:
    return part == wanted or (wanted == "*" and part != "")


_PATTERNS = {name: _pattern(name) for name in OPERATIONS}


# Request gate

CONTROL = "/_wesemu/"
"""Path prefix of the control API. Its own requests never wait and have no faults."""

_NOT_DELIVERED = 503


class RequestGate:
    """Applies the maintenance gate and the faults to each request; delays use the clock `wall`."""

    def __init__(self, wall: Clock) -> None:
        self.gate = MaintenanceGate()
        self.faults = RequestFaults()
        self.metrics = RequestMetrics()
        self.requests = RequestLog()
        self._wall = wall

    async def answer(
        self,
        request: web.Request,
        respond: Respond,
        operation: Callable[[], Awaitable[str]] | None = None,
    ) -> web.StreamResponse:
        """Return the response of `respond`, behind the gate and with the fault of the request.

        Raises InjectedResponse if the fault replaces the response. `operation` returns the OSS name
        of the operation.
        """

        async def under_fault() -> web.StreamResponse:
            return await self._under_fault(request, respond, operation)

        # a reset must not wait for an event stream, which is read-only and can last for hours
        if _is_event_stream(request):
            await self.gate.opened()
            return await under_fault()
        return await self.gate.answer(under_fault)

    async def _under_fault(
        self,
        request: web.Request,
        respond: Respond,
        operation: Callable[[], Awaitable[str]] | None,
    ) -> web.StreamResponse:
        name = await operation() if operation is not None and self.faults.by_name else ""
        fault = self.faults.match(request.method, request.path, name)
        if fault is None:
            return await respond()
        if not fault.after:
            await self._apply(fault, request)
            return await respond()
        try:
            response = await respond()
        except (WesemuError, web.HTTPException):
            await self._apply(fault, request)
            raise
        try:
            await self._apply(fault, request)
        except BaseException:
            if isinstance(response, Releasable):
                await response.release()
            raise
        return response

    async def _apply(self, fault: RequestFault, request: web.Request) -> None:
        await self._wall.sleep(fault.delay)
        if fault.drop and request.transport is not None:
            request.transport.abort()
        if fault.drop or fault.status is not None:
            raise InjectedResponse(fault.status or _NOT_DELIVERED, fault.code, fault.message)


def _is_event_stream(request: web.Request) -> bool:
    return request.method == "GET" and (
        request.path.endswith("/events") or "text/event-stream" in request.headers.get("Accept", "")
    )
