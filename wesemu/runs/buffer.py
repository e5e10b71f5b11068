"""What is told often about a run and written to the index now and then."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from wesemu.errors import DiskFull
from wesemu.runs.changes import Changes
from wesemu.runs.model import RunId
from wesemu.runs.room import patiently


class Buffer:
    """Its kinds say what is pending (`_flush` writes all of it) and when it is written (`_later`).
    The rest is written at the end. A full disk is waited for, unless the server stops."""

    def __init__(self, changes: Changes, run_id: RunId) -> None:
        self._run_id = run_id
        self._changes = changes
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._hurry = asyncio.Event()
        """The server stops: what a full disk does not take is told anew by the next one."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        if kind is asyncio.CancelledError:
            self._hurry.set()
        with contextlib.suppress(*([DiskFull] if self._hurry.is_set() else [])):
            if self._writing is not None:
                await self._writing
            await self._flush()

    def _begin(self) -> None:
        """Something is pending."""
        if self._writing is None or self._writing.done():
            name = f"{type(self).__name__} {self._run_id}"
            self._writing = asyncio.create_task(self._later(), name=name)

    async def _wait(self, seconds: float) -> None:
        """So long, or until the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _write(self, write: Callable[[], Awaitable[object]]) -> None:
        await patiently(write, hurry=self._hurry)
        self._changes.ring(self._run_id)

    async def _later(self) -> None:
        raise NotImplementedError

    async def _flush(self) -> None:
        raise NotImplementedError
