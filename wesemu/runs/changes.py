"""Who waits for runs to change is woken here."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from wesemu.runs.model import RunId


class Changes:
    """A bell for each run. `ring` after a change is committed; `wait` for the next ring."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._watchers: set[ChangedRuns] = set()

    def ring(self, run_id: RunId) -> None:
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(None)
        for watcher in self._watchers:
            watcher.add(run_id)

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
        self._changed: dict[RunId, None] = {}
        self._grown = asyncio.Event()

    def add(self, run_id: RunId) -> None:
        self._changed[run_id] = None
        self._grown.set()

    async def take(self) -> list[RunId]:
        """Wait until there are some; the one that changed first comes first."""
        await self._grown.wait()
        self._grown.clear()
        taken, self._changed = list(self._changed), {}
        return taken
