"""Retention: removes the directories of runs that ended long ago (`retention.days`, `prune`)."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from wesemu.errors import RunActive, RunNotFound
from wesemu.runs.data_directory import run_directories
from wesemu.runs.maintenance import delete
from wesemu.runs.model import RunId
from wesemu.runs.run_directory import Workspace, tree_size
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore

_PRUNE_SECONDS = 3600.0
_HELD_SECONDS = 86400.0

log = structlog.get_logger("wesemu.retention")


@dataclass(frozen=True, slots=True)
class Pruned:
    """Number of pruned runs, and the freed bytes: without files that have another hard link, such
    as results in a bucket."""

    runs: int
    freed_bytes: int


class Retention:
    """Prunes runs by the time since their end on the wall clock; with `days`, every hour.

    A clock that is far ahead at a start makes all runs look old. So if no run has ended in the last
    `days`, regular pruning begins a day later: until then, the clock can be corrected.
    """

    def __init__(
        self, store: RunStore, service: RunService, runs: Path, *, days: float = 0
    ) -> None:
        self._store = store
        self._service = service
        self._runs = runs
        self._days = days
        self._started = time.time()
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
        is_clock_checked = False
        while True:
            try:
                if not is_clock_checked:
                    await self._hold_while_clock_is_doubtful()
                is_clock_checked = True
                await self.prune(timedelta(days=self._days))
            except Exception:
                log.exception("pruning failed; trying again in an hour")
            await asyncio.sleep(_PRUNE_SECONDS)

    async def _hold_while_clock_is_doubtful(self) -> None:
        if await asyncio.to_thread(_are_all_old, self._runs, self._started, self._days):
            log.warning(
                "no run has ended lately by this machine's clock; check that it is right: regular "
                "pruning begins in a day",
                days=self._days,
            )
            await asyncio.sleep(_HELD_SECONDS)


def _ended_before(runs: Path, age: timedelta) -> list[Path]:
    """Return the directories of runs that ended at least `age` ago."""
    latest = time.time() - age.total_seconds()
    return [folder for folder in run_directories(runs) if _ended(folder) <= latest]


def _are_all_old(runs: Path, started: float, days: float) -> bool:
    """Return whether there are runs that ended before `started`, all of them at least `days` ago.

    Runs that ended after it say nothing, because the same clock gave them their time.
    """
    ends = map(_ended, run_directories(runs))
    ages = [started - end for end in ends if end < started]
    return bool(ages) and min(ages) >= timedelta(days=days).total_seconds()


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
