"""Services of the control API over the runs of all owners.

`RunTallies` counts ended runs for the metrics, `AdminService` reads, watches, ends and deletes
runs.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from wesemu.errors import EngineFault, RunNotFound
from wesemu.runs.data_directory import run_directories
from wesemu.runs.maintenance import delete_all
from wesemu.runs.model import Run, RunId, RunState, TaskState, workflow_kind
from wesemu.runs.notifications import ChangedRuns, RunNotifier
from wesemu.runs.run_directory import Workspace
from wesemu.runs.run_figures import promised
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore

# Histograms for the metrics.

BUCKETS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
"""Upper bounds of the duration histogram in seconds."""


@dataclass(slots=True)
class Durations:
    """A cumulative histogram: count for each of BUCKETS, total number, sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    number: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.number += 1
        self.seconds += seconds
        for index, bound in enumerate(BUCKETS):
            self.counts[index] += seconds <= bound


class RunTallies:
    """Counts the runs of `store` that end from now on.

    `durations`: real seconds from the first start to the last end of a task, by workflow (bundled
    pipeline, or type of a user's workflow) and final state. `sla`: completed runs by service level
    and whether the deadline was met.
    """

    def __init__(self, store: RunStore) -> None:
        self.durations: defaultdict[tuple[str, RunState], Durations] = defaultdict(Durations)
        self.sla: Counter[tuple[str, bool]] = Counter()
        store.watch(self._moved)

    def _moved(self, run: Run) -> None:
        if not run.state.ended:
            return
        workflow = run.workflow or workflow_kind(run.request.workflow_type)
        self.durations[workflow, run.state].add(run.real_seconds or 0.0)
        sla = promised(run)
        if run.state is RunState.COMPLETE and sla and run.started and run.ended:
            met = sla.met(run.ended - run.started)
            self.sla[run.service_level.name.lower(), met] += 1


# All runs.

_DRAIN_SECONDS = 0.5
_SETTLE_SECONDS, _SETTLE_PAUSE_SECONDS = 10.0, 0.02

ACTIVE = tuple(state for state in RunState if state.active)


class AdminService:
    """All runs of a server. `wait_idle` is `Scheduler.wait_idle`; `stop_check` stops the check of
    the run directories."""

    def __init__(
        self,
        store: RunStore,
        service: RunService,
        changes: RunNotifier,
        wait_idle: Callable[[float], Awaitable[bool]],
        stop_check: Callable[[], Awaitable[None]],
        runs: Path,
    ) -> None:
        self._store = store
        self.tallies = RunTallies(store)
        self._service = service
        self._changes = changes
        self._wait_idle = wait_idle
        self._stop_check = stop_check
        self._runs = runs

    async def counts(self) -> dict[RunState, int]:
        """Count the runs of all owners by state; every state has an entry."""
        return await self._store.all_state_counts()

    async def queue(self) -> list[tuple[str, int, datetime]]:
        """As `RunQueue.levels`."""
        return await self._store.queue.levels()

    async def active_tasks(self) -> dict[TaskState, int]:
        """As `RunStatistics.active_tasks`."""
        return await self._store.statistics.active_tasks()

    async def active(self) -> list[Run]:
        """Return all runs that have not ended, in queue order."""
        return await self._store.in_states(*ACTIVE)

    @property
    def change_number(self) -> int:
        """The number of the latest change of a run."""
        return self._changes.number

    def event_id(self, number: int | None) -> str | None:
        """Return the event id of a change, for `changed_since`."""
        return None if number is None else self._changes.position(number)

    def changed_since(self, event_id: str) -> list[tuple[RunId, int | None]] | None:
        """Return the runs that changed after an event; None if the event is too old."""
        missed = self._changes.since(event_id)
        return None if missed is None else [*missed]

    @contextmanager
    def watch(self) -> Iterator[ChangedRuns]:
        """Collect the runs that change from now on."""
        with self._changes.watch() as changed:
            yield changed

    async def find(self, run_id: RunId) -> Run | None:
        """Return a run; None if it was removed."""
        try:
            return await self._store.get(run_id)
        except RunNotFound:
            return None

    async def end_all(self, seconds: float) -> None:
        """Cancel all queued and active runs and wait for their end.

        Raises EngineFault for runs that do not end within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            active = await self.active()
            for run in active:
                with suppress(RunNotFound):
                    await self._service.cancel(run.owner, run.id)
            idle = await self._wait_idle(_DRAIN_SECONDS)
            late = time.monotonic() > deadline
            # A queued run may wait for a GPU forever. It stays if it is not canceled in time.
            if idle and (late or not active):
                return
            if late:
                raise EngineFault(
                    f"not all runs have ended within {seconds:.0f} seconds; try again, or stop "
                    "the server"
                )

    async def settled(self) -> None:
        """Wait until the directories of all ended runs have their ends: the index has them first.

        Gives up after a time, because a full disk can delay that forever.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            folders = await asyncio.to_thread(_without_end, self._runs)
            runs = await self._store.many([RunId(folder.name) for folder in folders])
            if not any(run.state.ended for run in runs.values()):
                return
            await asyncio.sleep(_SETTLE_PAUSE_SECONDS)

    async def wipe(self) -> int:
        """Delete all runs and their directories. Return how many.

        Published results and foreign files in `runs/` stay. Call it after `end_all`, while the
        server accepts no submissions.
        """
        await self._stop_check()  # or it would add runs again whose rows are deleted first
        removed = await self._store.clear()
        for run_id in removed:
            self._changes.notify(run_id)
        await asyncio.to_thread(delete_all, self._runs, removed)
        return len(removed)


def _without_end(runs: Path) -> list[Path]:
    return [each for each in run_directories(runs) if not Workspace(each).state.is_file()]
