"""What the control API does to the requests of the other APIs: they wait, fail and are counted."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from aiohttp import web

from wesemu.api.callfaults import CallFault, CallFaults, OrderedAnswer
from wesemu.api.gate import Gate
from wesemu.api.traffic import Traffic
from wesemu.clock import Clock
from wesemu.errors import ServerReset, WesemuError

CONTROL = "/_wesemu/"
"""Paths of the control API begin so. Its own requests are never kept waiting, nor struck."""

_NOT_DELIVERED = 503


class Reception:
    """Stands before all handlers. Delays are told by `wall`."""

    def __init__(self, wall: Clock) -> None:
        self.gate = Gate()
        self.faults = CallFaults()
        self.traffic = Traffic()
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

    async def _strike(self, fault: CallFault, request: web.Request) -> None:
        await self._wall.wait_until(self._wall.now() + timedelta(seconds=fault.delay))
        if fault.drop and request.transport is not None:
            request.transport.abort()
        if fault.drop or fault.status is not None:
            raise OrderedAnswer(fault.status or _NOT_DELIVERED, fault.code, fault.message)


def _is_event_stream(request: web.Request) -> bool:
    return request.method == "GET" and (
        request.path.endswith("/events") or "text/event-stream" in request.headers.get("Accept", "")
    )
