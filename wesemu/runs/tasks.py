"""Task logs on their way to the store: many quick changes become one commit."""

import asyncio
import contextlib
from functools import partial
from types import TracebackType
from typing import Self

from wesemu.errors import DiskFull
from wesemu.runs.changes import Changes
from wesemu.runs.model import RunId, TaskLog
from wesemu.runs.room import patiently
from wesemu.runs.store import RunStore

_DELAY_SECONDS = 0.05


class TaskBuffer:
    """Collects changed tasks of one run and writes them a moment later; the rest at the end."""

    def __init__(self, store: RunStore, changes: Changes, run_id: RunId) -> None:
        self._store = store
        self._changes = changes
        self._run_id = run_id
        self._pending: dict[tuple[str, int], TaskLog] = {}
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

    def add(self, task: TaskLog) -> None:
        self._pending[task.id, task.attempt] = task
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._later(), name=f"tasks {self._run_id}")

    async def _later(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DELAY_SECONDS):
                await self._closing.wait()
        await self._flush()

    async def _flush(self) -> None:
        while self._pending:
            tasks, self._pending = list(self._pending.values()), {}
            write = partial(self._store.put_tasks, self._run_id, tasks)
            await patiently(write, hurry=self._hurry)
            self._changes.ring(self._run_id)
