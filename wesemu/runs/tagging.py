"""Figures that change while a run goes on, as its tags: told often, written twice a second."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Self

from wesemu.errors import DiskFull
from wesemu.runs.changes import Changes
from wesemu.runs.model import Run
from wesemu.runs.room import patiently
from wesemu.runs.store import RunStore

_DELAY_SECONDS = 0.5


class TagBuffer:
    """Collects tags of one run and writes them a moment later; the rest at the end."""

    def __init__(self, store: RunStore, changes: Changes, run: Run) -> None:
        self._store = store
        self._changes = changes
        self._run = run
        self._pending = False
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._hurry = asyncio.Event()
        """The server stops: what a full disk does not take is told anew by the next one."""
        self.tags: dict[str, str] = dict(run.tags)

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

    def add(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags
        self._pending = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._later(), name=f"tags {self._run.id}")

    async def _later(self) -> None:
        while self._pending and not self._closing.is_set():
            await self._flush()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DELAY_SECONDS):
                    await self._closing.wait()

    async def _flush(self) -> None:
        while self._pending:
            self._pending = False
            tags = json.dumps(self.tags, ensure_ascii=False)
            write = partial(self._store.amend, self._run.id, tags=tags)
            await patiently(write, hurry=self._hurry)
            self._changes.ring(self._run.id)
