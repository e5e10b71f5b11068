"""The gate that requests pass; closed while the server is reset."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from wesemu.errors import ServerReset


class Gate:
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
