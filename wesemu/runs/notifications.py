"""Changes of runs: notification of watchers, and write-behind of tasks and tags to the index.

`RunNotifier` wakes API requests that wait for a run. `WriteBehind` collects frequent changes and
writes them in one commit.
"""

import asyncio
import contextlib
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Self

from wesemu.runs.disk_full import INDEX_WAITS, retry_index
from wesemu.runs.model import Run, RunId, TaskLog
from wesemu.runs.run_figures import stored_labels
from wesemu.runs.serialization import dump
from wesemu.runs.store import RunStore

_REMEMBERED = 10_000
"""Number of runs whose latest change is stored for watchers that reconnect."""


class RunNotifier:
    """Notifies subscribers of a run and watchers of all runs.

    Changes are numbered, so a watcher that reconnects can continue where it stopped.
    """

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._watchers: set[ChangedRuns] = set()
        self._token = secrets.token_hex(6)
        self._latest: OrderedDict[RunId, int] = OrderedDict()
        self._dropped = 0
        self.number = 0
        """The number of the latest change."""

    def notify(self, run_id: RunId) -> None:
        """Wake everyone who waits for this run. Call it after the change is committed."""
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
        """Return a token for the position after the change of this number."""
        return f"{self._token}-{number}"

    def since(self, position: str) -> list[tuple[RunId, int]] | None:
        """Return the runs that changed after `position`, with the numbers of their latest changes.

        None: the position is from an earlier server process, or too old.
        """
        token, _, number = position.partition("-")
        if token != self._token or not number.isdecimal() or int(number[:20]) < self._dropped:
            return None
        return [(run, latest) for run, latest in self._latest.items() if latest > int(number[:20])]

    @contextmanager
    def subscribe(self, run_id: RunId) -> Iterator[asyncio.Future[None]]:
        """Yield a future that is done at the next change. Subscribe before reading the run."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[run_id].add(future)
        try:
            yield future
        finally:
            # the next change may never come: the run may have ended
            if (waiting := self._waiting.get(run_id)) is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[run_id]

    @contextmanager
    def watch(self) -> Iterator["ChangedRuns"]:
        """Collect the runs that change from now on."""
        watcher = ChangedRuns()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class ChangedRuns:
    """Changed runs that were not taken yet; several changes of one run count as one."""

    def __init__(self) -> None:
        self._changed: dict[RunId, int] = {}
        self._added = asyncio.Event()

    def add(self, run_id: RunId, number: int) -> None:
        self._changed.pop(run_id, None)
        self._changed[run_id] = number
        self._added.set()

    async def wait(self) -> None:
        """Wait for changes without taking them."""
        await self._added.wait()

    async def take(self) -> list[tuple[RunId, int]]:
        """Wait for changes. Return the runs with the numbers of their latest changes, ascending."""
        await self._added.wait()
        self._added.clear()
        taken, self._changed = list(self._changed.items()), {}
        return taken


class WriteBehind:
    """Collects changes of one run and writes them later; use it as an async context manager.

    Subclasses define what is pending and when it is written (`_write_later`); `_flush` writes
    everything. The exit of the context flushes. Writes wait for free disk space and for locks of
    other programs, except when the server stops.
    """

    def __init__(self, changes: RunNotifier, run_id: RunId) -> None:
        self._run_id = run_id
        self._changes = changes
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._give_up = asyncio.Event()
        """Set when the server stops: the next server reads the same changes from the event log."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._closing.set()
        if kind is asyncio.CancelledError:
            self._give_up.set()
        with contextlib.suppress(*(INDEX_WAITS if self._give_up.is_set() else ())):
            if self._writing is not None:
                await self._writing
            await self._flush()

    def _schedule(self) -> None:
        """Start the task that writes, unless it is already running."""
        if self._writing is None or self._writing.done():
            name = f"{type(self).__name__} {self._run_id}"
            self._writing = asyncio.create_task(self._write_later(), name=name)

    async def _wait(self, seconds: float) -> None:
        """Wait `seconds`, or until the context exits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _write(self, write: Callable[[], Awaitable[object]]) -> None:
        await retry_index(write, give_up=self._give_up)
        self._changes.notify(self._run_id)

    async def _write_later(self) -> None:
        raise NotImplementedError

    async def _flush(self) -> None:
        raise NotImplementedError


_TASK_DELAY_SECONDS = 0.05
_TAG_DELAY_SECONDS = 0.5


class TaskWriteBehind(WriteBehind):
    """Writes changed tasks 0.05 s later: many quick changes become one commit."""

    def __init__(self, store: RunStore, changes: RunNotifier, run_id: RunId) -> None:
        super().__init__(changes, run_id)
        self._store = store
        self._pending: dict[tuple[str, int], TaskLog] = {}

    def add(self, task: TaskLog) -> None:
        self._pending[task.id, task.attempt] = task
        self._schedule()

    async def _write_later(self) -> None:
        await self._wait(_TASK_DELAY_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        while self._pending:
            tasks, self._pending = list(self._pending.values()), {}
            await self._write(partial(self._store.put_tasks, self._run_id, tasks))


class TagWriteBehind(WriteBehind):
    """Writes tags that change during a run (progress figures), at most twice a second."""

    def __init__(self, store: RunStore, changes: RunNotifier, run: Run) -> None:
        super().__init__(changes, run.id)
        self._store = store
        self._pending = False
        self._run = run
        self.tags: dict[str, str] = dict(run.tags)

    def add(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags
        self._pending = True
        self._schedule()

    async def _write_later(self) -> None:
        while self._pending and not self._closing.is_set():
            await self._flush()
            await self._wait(_TAG_DELAY_SECONDS)

    async def _flush(self) -> None:
        while self._pending:
            self._pending = False
            tags = dump(stored_labels(replace(self._run, tags=self.tags)))
            await self._write(partial(self._store.amend, self._run_id, durable=False, tags=tags))
