"""The gate that requests pass; closed while the server is reset."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Gate:
    """Requests pass through it one beside the other; while it is closed, new ones wait."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._inside = 0
        self._closing = asyncio.Lock()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Let nobody in; who is inside may go on (`emptied`)."""
        async with self._closing:
            self._open.clear()
            try:
                yield
            finally:
                self._open.set()

    async def emptied(self, patience: float) -> None:
        """Wait until nobody is inside, or for `patience` seconds: uploads can take long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._empty.wait()
