"""What the emulator's own controls may do, and no owner: see and end the runs of everybody."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from wesemu.errors import EngineFault, RunNotFound
from wesemu.runs.changes import ChangedRuns, Changes
from wesemu.runs.cleanup import delete_all
from wesemu.runs.model import Run, RunId, RunState, TaskState
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore
from wesemu.runs.tallies import RunTallies

_ROUND_SECONDS = 0.5

ACTIVE = tuple(state for state in RunState if state.active)


class Overseer:
    """Looks after all runs of a server. `drained` waits so many seconds until none is carried out
    any more, and tells whether that is so."""

    def __init__(
        self,
        store: RunStore,
        service: RunService,
        changes: Changes,
        drained: Callable[[float], Awaitable[bool]],
        runs: Path,
    ) -> None:
        self._store = store
        self.tallies = RunTallies(store)
        self._service = service
        self._changes = changes
        self._drained = drained
        self._runs = runs

    async def counts(self) -> dict[RunState, int]:
        """All owners' runs by state, every state named."""
        return await self._store.all_state_counts()

    async def queue(self) -> list[tuple[str, int, datetime]]:
        """As `RunStore.queue`."""
        return await self._store.queue()

    async def active_tasks(self) -> dict[TaskState, int]:
        """As `RunStore.active_tasks`."""
        return await self._store.active_tasks()

    async def active(self) -> list[Run]:
        """All runs that have not ended, in the order of service."""
        return await self._store.in_states(*ACTIVE)

    @property
    def change_number(self) -> int:
        """The number of the latest change of a run."""
        return self._changes.number

    def event_id(self, number: int | None) -> str | None:
        """The word by which a watcher goes on behind a change (`changed_since`)."""
        return None if number is None else self._changes.position(number)

    def changed_since(self, event_id: str) -> list[tuple[RunId, int | None]] | None:
        """The runs that have changed behind an event; None where that is not known any more."""
        missed = self._changes.since(event_id)
        return None if missed is None else [*missed]

    @contextmanager
    def watch(self) -> Iterator[ChangedRuns]:
        """All runs that change from now on."""
        with self._changes.watch() as changed:
            yield changed

    async def find(self, run_id: RunId) -> Run | None:
        """None for a run that was removed."""
        try:
            return await self._store.get(run_id)
        except RunNotFound:
            return None

    async def end_all(self, seconds: float) -> None:
        """Cancel what is queued or under way until nothing is. Raises EngineFault for runs that
        do not end within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            active = await self.active()
            for run in active:
                with suppress(RunNotFound):
                    await self._service.cancel(run.owner, run.id)
            drained = await self._drained(_ROUND_SECONDS)
            late = time.monotonic() > deadline
            if drained and (late or not active):  # late ones that nobody carries out may stay
                return
            if late:
                raise EngineFault(
                    f"not all runs have ended within {seconds:.0f} seconds; try again, or stop "
                    "the server"
                )

    async def wipe(self) -> int:
        """Forget all runs and their directories; returns how many those were.

        What they published stays, and so does what else lies beside the run directories. Call it
        after `end_all`, while nothing is submitted.
        """
        removed = await self._store.clear()
        for run_id in removed:
            self._changes.ring(run_id)
        await asyncio.to_thread(delete_all, self._runs, removed)
        return len(removed)
