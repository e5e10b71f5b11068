"""Calls that are made to fail: the first N of an operation, as the control API ordered."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from aiohttp import web

from wesemu.api.base import RequestMetrics
from wesemu.errors import InvalidRequest, ServerReset, WesemuError
from wesemu.runs.clock import Clock

# The gate that requests pass; closed while the server is reset.


class MaintenanceGate:
    """Requests pass through it one beside the other; while it is closed, new ones wait."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._inside: set[asyncio.Task[object]] = set()
        self._broken_off: set[asyncio.Task[object]] = set()
        self._left = asyncio.Event()
        self._closing = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        return not self._open.is_set()

    async def opened(self) -> None:
        """Wait until the gate is open."""
        await self._open.wait()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Around the handling of a request. Raises ServerReset where it is broken off."""
        await self._open.wait()
        task = asyncio.current_task()
        assert task is not None
        self._inside.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._broken_off and not task.uncancel():
                raise ServerReset(
                    "the server was reset while this request was under way; send it again"
                ) from None
            raise
        finally:
            self._inside.discard(task)
            self._broken_off.discard(task)
            self._left.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Let nobody in; requests that are inside may go on (`emptied`)."""
        async with self._closing:
            self._open.clear()
            try:
                yield
            finally:
                self._open.set()

    async def emptied(self, seconds: float) -> None:
        """Wait until no request is inside. Those that still are after `seconds` are broken off,
        and waited for as long again."""
        await self._wait_until_empty(seconds)
        self._break_off(self._inside)
        await self._wait_until_empty(seconds)

    async def _wait_until_empty(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._inside:
                    self._left.clear()
                    await self._left.wait()

    def _break_off(self, tasks: Iterable[asyncio.Task[object]]) -> None:
        for task in tasks:
            self._broken_off.add(task)
            task.cancel()


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
"""The operations of AGS and WES by their own names. `*` is a part of a path, `**` any parts."""

BUCKET_OPERATIONS = (
    "ListBuckets",
    "PutBucket",
    "DeleteBucket",
    "ListObjects",
    "GetBucketInfo",
    "GetBucketStat",
    "GetBucketLocation",
    "GetBucketAcl",
    "GetBucketVersioning",
    "DeleteMultipleObjects",
    "PutObject",
    "CopyObject",
    "GetObject",
    "HeadObject",
    "GetObjectMeta",
    "GetObjectAcl",
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
"""Those of the bucket door, by OSS's names. A path alone does not tell them apart."""

_CALL = re.compile(r"([A-Z]+|\*) (/\S*)")
_METHODS = frozenset({"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NEVER = re.compile(r"[?#]|%[0-9A-Fa-f]{2}")
_WITHOUT_CODES = re.compile(r"[^ ]+ (/\*\*|/\*|/\d+\.\d+\.\d+)?/ga4gh(/.*)?")
"""Calls of WES, whose errors have no codes."""


@dataclass(frozen=True, slots=True)
class RequestFault:
    """What happens to calls of `operation`.

    They are answered after `delay` seconds, with `status` instead of by the operation, or not at
    all where the connection is dropped. `code` and `message` replace those that go with the
    status. With `after` the operation is carried out first, and only its answer is late,
    replaced or lost.
    """

    operation: str
    status: int | None = None
    delay: float = 0.0
    drop: bool = False
    code: str | None = None
    message: str | None = None
    after: bool = False


class InjectedResponse(web.HTTPException):
    """An answer of any status, for the dialect to render as it renders errors.

    `code` and `message` are None where the dialect's own go with the status.
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
        return self.method in ("*", method) and _is_like(path.split("/"), self.parts)


_NOWHERE = _Pattern("", ())
"""For operations that are told by their names."""


class RequestFaults:
    """The faults that wait for calls."""

    def __init__(self) -> None:
        self._ordered: list[tuple[RequestFault, _Pattern, int]] = []

    @property
    def ordered(self) -> Sequence[tuple[RequestFault, int]]:
        """Each with the number of calls that it still waits for, the oldest first."""
        return [(fault, times) for fault, _, times in self._ordered]

    @property
    def by_name(self) -> bool:
        """Whether a fault waits for an operation of the bucket door."""
        return any(pattern is _NOWHERE for _, pattern, _ in self._ordered)

    def order(self, fault: RequestFault, times: int) -> None:
        """Strike the next `times` calls. Raises InvalidRequest for an unknown operation and for
        a fault that could never happen."""
        pattern = _pattern(fault.operation)
        if fault.code is not None and _WITHOUT_CODES.fullmatch(
            OPERATIONS.get(fault.operation, fault.operation)
        ):
            raise InvalidRequest(
                "the errors of WES have no code, only a status and a message; leave it out",
                field="code",
            )
        self._ordered.append((fault, pattern, times))

    def forget(self) -> None:
        self._ordered.clear()

    def strike(self, method: str, path: str, operation: str = "") -> RequestFault | None:
        """The oldest fault that waits for this call; it then waits for one call less.

        `operation` is the bucket door's name for the call, where it is one of its calls.
        """
        for number, (fault, pattern, times) in enumerate(self._ordered):
            if pattern.matches(method, path) or fault.operation == operation:
                if times == 1:
                    del self._ordered[number]
                else:
                    self._ordered[number] = (fault, pattern, times - 1)
                return fault
        return None


def _pattern(operation: str) -> _Pattern:
    if operation in BUCKET_OPERATIONS:
        return _NOWHERE
    call = _CALL.fullmatch(OPERATIONS.get(operation, operation))
    parts = call[2].split("/") if call else []
    if call is None or any("*" in part and part not in ("*", "**") for part in parts):
        names = ", ".join((*OPERATIONS, *BUCKET_OPERATIONS))
        raise InvalidRequest(
            f"{operation[:80]!r} is no operation; write one of {names}, or a "
            'method and a path, as "GET /gs/workflow/*" ("*" is one part, "**" any number)',
            field="operation",
        )
    if (why := _impossible(call[1], call[2])) is not None:
        raise InvalidRequest(f"{operation[:80]!r} matches no call: {why}", field="operation")
    return _Pattern(call[1], tuple(parts))


def _impossible(method: str, path: str) -> str | None:
    """Why no call can be like this; None where one can."""
    if method not in _METHODS:
        return f"{method[:20]} is no method"
    if path.startswith("/_wesemu/") or path == "/_wesemu":
        return "the control API has no faults"
    if _NEVER.search(path):
        return "paths are compared decoded and without a query"
    if any(part in (".", "..") for part in path.split("/")):
        return "clients resolve '.' and '..' before they send a path"
    return None


def _is_like(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit. Goes back to the last `**` only, so that no pattern is
    slow."""
    at = wanted = 0
    star, retry = -1, 0
    while at < len(parts):
        if wanted < len(pattern) and pattern[wanted] == "**":
            star, retry = wanted, at
            wanted += 1
        elif wanted < len(pattern) and pattern[wanted] in ("*", parts[at]):
            at, wanted = at + 1, wanted + 1
        elif star >= 0:
            retry += 1
            at, wanted = retry, star + 1
        else:
            return False
    return all(part == "**" for part in pattern[wanted:])


# What the control API does to the requests of the other APIs: they wait, fail and are counted.


CONTROL = "/_wesemu/"
"""Paths of the control API begin so. Its own requests are never kept waiting, nor struck."""

_NOT_DELIVERED = 503


class RequestGate:
    """Stands before all handlers. Delays are told by `wall`."""

    def __init__(self, wall: Clock) -> None:
        self.gate = MaintenanceGate()
        self.faults = RequestFaults()
        self.traffic = RequestMetrics()
        self._wall = wall

    @asynccontextmanager
    async def admitted(
        self,
        request: web.Request,
        *,
        is_control: bool,
        operation: Callable[[], Awaitable[str]] | None = None,
    ) -> AsyncIterator[None]:
        """Around the handling of a request. Raises OrderedAnswer where a fault strikes it,
        before it is handled or afterwards. `operation` tells the bucket door's name for it."""
        if is_control:
            yield
            return
        if _is_event_stream(request):  # it changes nothing, and ends with its run
            await self.gate.opened()
            async with self._under_fault(request, operation):
                yield
            return
        try:
            async with self.gate.passing(), self._under_fault(request, operation):
                yield
        except ServerReset:
            if request.writer.output_size and request.transport is not None:
                request.transport.abort()  # half an answer cannot become an error
            raise

    @asynccontextmanager
    async def _under_fault(
        self, request: web.Request, operation: Callable[[], Awaitable[str]] | None
    ) -> AsyncIterator[None]:
        name = await operation() if operation is not None and self.faults.by_name else ""
        fault = self.faults.strike(request.method, request.path, name)
        if fault is None:
            yield
            return
        if not fault.after:
            await self._strike(fault, request)
            yield
            return
        try:
            yield
        except (WesemuError, web.HTTPException):
            await self._strike(fault, request)
            raise
        await self._strike(fault, request)

    async def _strike(self, fault: RequestFault, request: web.Request) -> None:
        await self._wall.wait_until(self._wall.now() + timedelta(seconds=fault.delay))
        if fault.drop and request.transport is not None:
            request.transport.abort()
        if fault.drop or fault.status is not None:
            raise InjectedResponse(fault.status or _NOT_DELIVERED, fault.code, fault.message)


def _is_event_stream(request: web.Request) -> bool:
    return request.method == "GET" and (
        request.path.endswith("/events") or "text/event-stream" in request.headers.get("Accept", "")
    )
