"""Who waits for runs to change is woken here."""

import asyncio
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from wesemu.runs.model import RunId

_REMEMBERED = 10_000
"""Runs whose latest change is known, for watchers that come again."""


class Changes:
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

    def ring(self, run_id: RunId) -> None:
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
