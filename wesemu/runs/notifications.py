"""Who waits for runs to change is woken here."""

import asyncio
import contextlib
import json
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from wesemu.errors import DiskFull
from wesemu.runs.database import retry_on_full_disk
from wesemu.runs.model import Run, RunId, TaskLog
from wesemu.runs.store import RunStore

_REMEMBERED = 10_000
"""Runs whose latest change is known, for watchers that come again."""


class RunNotifier:
    """A bell for each run. `ring` after a change is committed; `wait` for the next ring.

    Changes are numbered, so that a watcher can go on where an earlier one has stopped.
    """

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._watchers: set[ChangedRuns] = set()
        self._token = secrets.token_hex(6)
        self._latest: OrderedDict[RunId, int] = OrderedDict()
        self._dropped = 0
        self.number = 0
        """Of the latest change."""

    def notify(self, run_id: RunId) -> None:
        self.number += 1
        self._latest[run_id] = self.number
        self._latest.move_to_end(run_id)
        if len(self._latest) > _REMEMBERED:
            _, self._dropped = self._latest.popitem(last=False)
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(None)
        for watcher in self._watchers:
            watcher.add(run_id, self.number)

    def position(self, number: int) -> str:
        """A word for the place behind the change of this number."""
        return f"{self._token}-{number}"

    def since(self, position: str) -> list[tuple[RunId, int]] | None:
        """The runs that have changed behind `position`, with the numbers of their latest changes;
        None where the position is of another server's life or too long ago."""
        token, _, number = position.partition("-")
        if token != self._token or not number.isdecimal() or int(number[:20]) < self._dropped:
            return None
        return [(run, latest) for run, latest in self._latest.items() if latest > int(number[:20])]

    def subscribe(self, run_id: RunId) -> asyncio.Future[None]:
        """A future that is done at the next ring; take it before reading the run."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[run_id].add(future)
        return future

    @contextmanager
    def watch(self) -> Iterator["ChangedRuns"]:
        """All runs that change from now on."""
        watcher = ChangedRuns()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class ChangedRuns:
    """Runs that have changed and were not taken yet; several changes of one run are one."""

    def __init__(self) -> None:
        self._changed: dict[RunId, int] = {}
        self._grown = asyncio.Event()

    def add(self, run_id: RunId, number: int) -> None:
        self._changed.pop(run_id, None)
        self._changed[run_id] = number
        self._grown.set()

    async def take(self) -> list[tuple[RunId, int]]:
        """Wait until there are some; each with the number of its latest change, ascending."""
        await self._grown.wait()
        self._grown.clear()
        taken, self._changed = list(self._changed.items()), {}
        return taken


# What is told often about a run and written to the index now and then.


class WriteBehind:
    """Its kinds say what is pending (`_flush` writes all of it) and when it is written (`_later`).
    The rest is written at the end. A full disk is waited for, unless the server stops."""

    def __init__(self, changes: RunNotifier, run_id: RunId) -> None:
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
        await retry_on_full_disk(write, hurry=self._hurry)
        self._changes.notify(self._run_id)

    async def _later(self) -> None:
        raise NotImplementedError

    async def _flush(self) -> None:
        raise NotImplementedError


# Task logs on their way to the store: many quick changes become one commit.


_DELAY_SECONDS = 0.05


class TaskWriteBehind(WriteBehind):
    """Collects changed tasks of one run and writes them a moment later; the rest at the end."""

    def __init__(self, store: RunStore, changes: RunNotifier, run_id: RunId) -> None:
        super().__init__(changes, run_id)
        self._store = store
        self._pending: dict[tuple[str, int], TaskLog] = {}

    def add(self, task: TaskLog) -> None:
        self._pending[task.id, task.attempt] = task
        self._begin()

    async def _later(self) -> None:
        await self._wait(_DELAY_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        while self._pending:
            tasks, self._pending = list(self._pending.values()), {}
            await self._write(partial(self._store.put_tasks, self._run_id, tasks))


# Figures that change while a run goes on, as its tags: told often, written twice a second.


_TAG_DELAY_SECONDS = 0.5


class TagWriteBehind(WriteBehind):
    """Collects tags of one run and writes them a moment later; the rest at the end."""

    def __init__(self, store: RunStore, changes: RunNotifier, run: Run) -> None:
        super().__init__(changes, run.id)
        self._store = store
        self._pending = False
        self.tags: dict[str, str] = dict(run.tags)

    def add(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags
        self._pending = True
        self._begin()

    async def _later(self) -> None:
        while self._pending and not self._closing.is_set():
            await self._flush()
            await self._wait(_TAG_DELAY_SECONDS)

    async def _flush(self) -> None:
        while self._pending:
            self._pending = False
            tags = json.dumps(self.tags, ensure_ascii=False)
            await self._write(partial(self._store.amend, self._run_id, tags=tags))
