"""What the control API does to the requests of the other APIs: they wait, fail and are counted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from aiohttp import web

from wesemu.api.callfaults import CallFault, CallFaults, OrderedAnswer
from wesemu.api.gate import Gate
from wesemu.api.traffic import Traffic
from wesemu.clock import Clock
from wesemu.errors import ServerReset

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
    async def admitted(self, request: web.Request, *, is_control: bool) -> AsyncIterator[None]:
        """Around the handling of a request. Raises OrderedAnswer where a fault strikes it."""
        if is_control:
            yield
            return
        if _is_event_stream(request):  # it changes nothing, and ends with its run
            await self.gate.opened()
            await self._meet_fault(request)
            yield
            return
        try:
            async with self.gate.passing():
                await self._meet_fault(request)
                yield
        except ServerReset:
            if request.writer.output_size and request.transport is not None:
                request.transport.abort()  # half an answer cannot become an error
            raise

    async def _meet_fault(self, request: web.Request) -> None:
        if (fault := self.faults.strike(request.method, request.path)) is not None:
            await self._strike(fault, request)

    async def _strike(self, fault: CallFault, request: web.Request) -> None:
        await self._wall.wait_until(self._wall.now() + timedelta(seconds=fault.delay))
        if fault.drop and request.transport is not None:
            request.transport.abort()
        if fault.drop or fault.status is not None:
            raise OrderedAnswer(fault.status or _NOT_DELIVERED)


def _is_event_stream(request: web.Request) -> bool:
    return request.method == "GET" and "text/event-stream" in request.headers.get("Accept", "")
