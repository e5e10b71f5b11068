"""Inputs that were fetched once are not fetched again, by as many runs as want them at once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from wesemu.objects.crc64 import Crc64
from wesemu.transfers.effort import Validators
from wesemu.transfers.http import HttpFetcher
from wesemu.transfers.partial import Partial
from wesemu.transfers.shelf import Entry, Shelf, name_of
from wesemu.transfers.source import Source, Tell

_AT_ONCE = 8
"""Files that are fetched at a time, for all runs together."""

_AT_ONCE_FROM_ONE = 4
"""Of those, from one server: a slow one does not keep the others waiting."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """`cached` says that no byte of it had to be fetched."""

    size: int
    sha256: str
    cached: bool


@dataclass(slots=True)
class _Flight:
    """One source being fetched, and who waits for it."""

    task: asyncio.Task[Fetched]
    waiting: list[Tell] = field(default_factory=list)
    told: tuple[int, int | None] | None = None


class InputCache:
    """Fetches sources by `fetcher` into `shelf`, and gives runs what they asked for."""

    def __init__(self, shelf: Shelf, fetcher: HttpFetcher, crc64: Crc64 | None = None) -> None:
        self._shelf = shelf
        self._fetcher = fetcher
        self._crc64 = crc64
        self._flights: dict[str, _Flight] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._server_turns = WeakValueDictionary[str, asyncio.Semaphore]()

    async def fetch(self, source: Source, target: Path, tell: Tell) -> Fetched:
        """Have `source` lie at `target`. Raises what HttpFetcher.fetch and `source` raise.

        A caller that is cancelled leaves at once; the last one takes the fetching along.
        """
        while True:
            fetched = await self._obtain(source, tell)
            if await asyncio.to_thread(self._shelf.give, fetched.sha256, target):
                await asyncio.to_thread(self._shelf.trim)
                tell(fetched.size, fetched.size)
                return fetched

    async def trim(self) -> None:
        """Links of a run are gone: what is too much may go."""
        await asyncio.to_thread(self._shelf.trim)

    async def close(self) -> None:
        """Break off what is being fetched; the parts are gone on with next time."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fetcher.close()

    async def _obtain(self, source: Source, tell: Tell) -> Fetched:
        name = name_of(f"{source.asked}#{source.sha256 or ''}")
        while (flight := self._flights.get(name)) is not None and not flight.waiting:
            await asyncio.wait({flight.task})  # it was left by all and is ending
        if flight is None:
            flight = self._depart(name, source)
        flight.waiting.append(tell)
        if flight.told is not None:
            tell(*flight.told)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting.remove(tell)
            if not flight.waiting:
                flight.task.cancel()

    def _depart(self, name: str, source: Source) -> _Flight:
        def tell(done: int, total: int | None) -> None:
            flight.told = (done, total)
            for waiting in flight.waiting:
                waiting(done, total)

        work = self._bring(name, source, tell)
        flight = _Flight(asyncio.create_task(work, name=f"fetch {source.shown}"))
        self._flights[name] = flight
        flight.task.add_done_callback(self._landed(name))
        return flight

    def _landed(self, name: str) -> Callable[[asyncio.Task[Fetched]], None]:
        def landed(task: asyncio.Task[Fetched]) -> None:
            del self._flights[name]
            if not task.cancelled():
                task.exception()  # told to those who waited, if any were left

        return landed

    def _turn_with(self, source: Source) -> asyncio.Semaphore:
        """Its server's turns; the holder keeps them alive, and others forget them."""
        return self._server_turns.setdefault(source.server, asyncio.Semaphore(_AT_ONCE_FROM_ONE))

    async def _bring(self, name: str, source: Source, tell: Tell) -> Fetched:
        pinned = source.sha256
        if pinned is not None and await asyncio.to_thread(self._shelf.has, pinned):
            size = await asyncio.to_thread(self._shelf.size, pinned)
            return Fetched(size, pinned, cached=True)
        async with self._turn_with(source), self._turns:
            expected = await source.describe()
            entry = await asyncio.to_thread(self._shelf.find, source.key)
            if entry is not None and source.sha256 not in (None, entry.sha256):
                entry = None
            if entry and expected and expected.etag and expected.etag == entry.etag:
                return Fetched(entry.size, entry.sha256, cached=True)
            received = await self._fetcher.fetch(
                source,
                partial := Partial(self._shelf.partials, name, self._crc64),
                tell,
                expected=expected,
                known=Validators(entry.etag, entry.modified) if entry and not expected else None,
            )
            if received is None:
                assert entry is not None
                return Fetched(entry.size, entry.sha256, cached=True)
            etag = expected.etag if expected else received.validators.etag
            found = Entry(received.sha256, received.size, etag, received.validators.modified)
            await asyncio.to_thread(self._shelf.put, source.key, partial.path, found)
            return Fetched(received.size, received.sha256, cached=False)
