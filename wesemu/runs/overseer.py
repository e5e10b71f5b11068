"""What the emulator's own controls may do, and no owner: see and end the runs of everybody."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wesemu.errors import RunNotFound
from wesemu.runs.changes import ChangedRuns, Changes
from wesemu.runs.cleanup import delete_all
from wesemu.runs.model import Run, RunId, RunState
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore

ACTIVE = tuple(state for state in RunState if state.active)


class Overseer:
    """Looks after all runs of a server. `drained` waits until none is carried out any more."""

    def __init__(
        self,
        store: RunStore,
        service: RunService,
        changes: Changes,
        drained: Callable[[], Awaitable[None]],
        runs: Path,
    ) -> None:
        self._store = store
        self._service = service
        self._changes = changes
        self._drained = drained
        self._runs = runs

    async def counts(self) -> dict[RunState, int]:
        """All owners' runs by state, every state named."""
        return await self._store.all_state_counts()

    async def active(self) -> list[Run]:
        """All runs that have not ended, in the order of service."""
        return await self._store.in_states(*ACTIVE)

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

    async def cancel_all(self) -> None:
        """Cancel what is queued or under way, and wait for its end."""
        for run in await self.active():
            await self._service.cancel(run.owner, run.id)
        await self._drained()

    async def wipe(self) -> int:
        """Forget all runs and their directories; returns how many those were.

        What they published stays, and so does what else lies beside the run directories. Call it
        after `cancel_all`, while nothing is submitted.
        """
        removed = await self._store.clear()
        for run_id in removed:
            self._changes.ring(run_id)
        await asyncio.to_thread(delete_all, self._runs, removed)
        return len(removed)
