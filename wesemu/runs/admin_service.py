"""What the emulator's own controls may do, and no owner: see and end the runs of everybody."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from wesemu.errors import (
    EngineFault,
    RunActive,
    RunNotFound,
)
from wesemu.runs.data_directory import is_run_directory
from wesemu.runs.maintenance import delete, delete_all
from wesemu.runs.model import (
    Run,
    RunId,
    RunState,
    TaskState,
)
from wesemu.runs.notifications import ChangedRuns, RunNotifier
from wesemu.runs.run_directory import Workspace, tree_size
from wesemu.runs.service import RunService
from wesemu.runs.sla import RunTallies
from wesemu.runs.store import RunStore

# The terms that this server gives its runs, and the faults that wait for the next ones.


_ROUND_SECONDS = 0.5

ACTIVE = tuple(state for state in RunState if state.active)


class AdminService:
    """Looks after all runs of a server. `wait_idle` waits so many seconds until none is carried out
    any more, and tells whether that is so."""

    def __init__(
        self,
        store: RunStore,
        service: RunService,
        changes: RunNotifier,
        wait_idle: Callable[[float], Awaitable[bool]],
        runs: Path,
    ) -> None:
        self._store = store
        self.tallies = RunTallies(store)
        self._service = service
        self._changes = changes
        self._wait_idle = wait_idle
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
            drained = await self._wait_idle(_ROUND_SECONDS)
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
            self._changes.notify(run_id)
        await asyncio.to_thread(delete_all, self._runs, removed)
        return len(removed)


_ROUND_SECONDS = 3600.0


log = structlog.get_logger("wesemu.retention")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be. `freed_bytes` leaves out files that have another hard link,
    such as results in a bucket."""

    runs: int
    freed_bytes: int


class Retention:
    """Prunes runs by the time since their end on this machine's clock.

    With `days` it does so by itself, every hour.
    """

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
        """Forget runs that ended longer ago than `older_than`, and delete their directories.

        With `keep_outputs` the runs stay listed, with their requests, logs and outputs; only
        their working directories go. Results in buckets always stay.
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
        """The bytes that were freed."""
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
        """Begin to prune by itself, if it is to."""
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
                log.exception("pruning failed; it is tried again in an hour")
            await asyncio.sleep(_ROUND_SECONDS)


def _ended_before(runs: Path, age: timedelta) -> list[Path]:
    """The directories of runs that ended at least `age` ago."""
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
    """Delete what only the run's processes needed; the bytes that were freed."""
    workspace = Workspace(folder)
    candidates = [workspace.work, workspace.inputs, folder / "tmp", folder / "cache"]
    unneeded = [each for each in candidates if each.is_dir() and not each.is_symlink()]
    freed = tree_size(*unneeded)
    if not dry_run:
        for each in unneeded:
            delete(each)
    return freed
