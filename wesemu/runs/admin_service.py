"""Services of the control API over the runs of all owners.

`RunTallies` counts ended runs for the metrics, `AdminService` reads, watches, ends and deletes
runs, `Retention` prunes old ones.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from wesemu.errors import EngineFault, RunActive, RunNotFound
from wesemu.runs.data_directory import is_run_directory
from wesemu.runs.maintenance import delete, delete_all
from wesemu.runs.model import Run, RunId, RunState, TaskState, workflow_kind
from wesemu.runs.notifications import ChangedRuns, RunNotifier
from wesemu.runs.run_directory import Workspace, tree_size
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
        """As `RunStore.active_tasks`."""
        return await self._store.active_tasks()

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
            # A queued run may wait for a GPU for ever. It stays if it is not canceled in time.
            if idle and (late or not active):
                return
            if late:
                raise EngineFault(
                    f"not all runs have ended within {seconds:.0f} seconds; try again, or stop "
                    "the server"
                )

    async def settled(self) -> None:
        """Wait until the directories of all ended runs have their ends: the index has them first.

        Gives up after a time, because a full disk can delay that for ever.
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
    return [
        folder
        for folder in runs.iterdir()
        if is_run_directory(folder) and not Workspace(folder).state.is_file()
    ]


_PRUNE_SECONDS = 3600.0

log = structlog.get_logger("wesemu.retention")


@dataclass(frozen=True, slots=True)
class Pruned:
    """Result of a pruning. `freed_bytes` leaves out files with a hard link outside, such as
    results in a bucket."""

    runs: int
    freed_bytes: int


class Retention:
    """Prunes runs by the time since their end on the wall clock; with `days`, every hour."""

    def __init__(
        self, store: RunStore, service: RunService, runs: Path, *, days: float = 0
    ) -> None:
        self._store = store
        self._service = service
        self._runs = runs
        self._days = days
        self._pruning: asyncio.Task[None] | None = None

    async def prune(
        self, older_than: timedelta, *, keep_outputs: bool = False, dry_run: bool = False
    ) -> Pruned:
        """Delete runs that ended longer ago than `older_than`, with their directories.

        With `keep_outputs`, only working directories are deleted; runs, requests, logs and outputs
        stay. Results in buckets always stay.
        """
        number = freed = 0
        for folder in await asyncio.to_thread(_ended_before, self._runs, older_than):
            with suppress(RunNotFound, RunActive):
                freed += await self._prune_one(folder, keep_outputs, dry_run)
                number += 1
        if number and not dry_run:
            log.info("runs pruned", runs=number, freed_bytes=freed, keep_outputs=keep_outputs)
        return Pruned(number, freed)

    async def _prune_one(self, folder: Path, keep_outputs: bool, dry_run: bool) -> int:
        """Return the freed bytes. Raises RunNotFound, RunActive."""
        run = await self._store.get(RunId(folder.name))
        if run.state.active:
            raise RunActive(f"run {run.id} has not ended")
        if keep_outputs:
            return await asyncio.to_thread(_free_work, folder, dry_run=dry_run)
        freed = await asyncio.to_thread(tree_size, folder)
        if not dry_run:
            await self._service.remove(run.owner, run.id)
        return freed

    async def start(self) -> None:
        """Start regular pruning if `days` is set."""
        if self._days:
            self._pruning = asyncio.create_task(self._prune_regularly(), name="retention")

    async def close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.gather(self._pruning, return_exceptions=True)

    async def _prune_regularly(self) -> None:
        while True:
            try:
                await self.prune(timedelta(days=self._days))
            except Exception:
                log.exception("pruning failed; trying again in an hour")
            await asyncio.sleep(_PRUNE_SECONDS)


def _ended_before(runs: Path, age: timedelta) -> list[Path]:
    """Return the directories of runs that ended at least `age` ago."""
    latest = time.time() - age.total_seconds()
    return [
        folder
        for folder in sorted(runs.iterdir())
        if is_run_directory(folder) and _ended(folder) <= latest
    ]


def _ended(folder: Path) -> float:
    try:
        return Workspace(folder).state.stat().st_mtime
    except OSError:
        return float("inf")


def _free_work(folder: Path, *, dry_run: bool) -> int:
    """Delete the folders that only the run's processes needed. Return the freed bytes."""
    workspace = Workspace(folder)
    # A workflow may have replaced a folder by a link.
    candidates = [workspace.work, workspace.inputs, folder / "tmp", folder / "cache"]
    unneeded = [each for each in candidates if each.is_dir() and not each.is_symlink()]
    freed = tree_size(*unneeded)
    if not dry_run:
        for each in unneeded:
            delete(each)
    return freed
