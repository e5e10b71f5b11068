"""Retention: removes the directories of runs that ended long ago (`retention.days`, `prune`)."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from wesemu.errors import RunActive, RunNotFound
from wesemu.runs.data_directory import is_run_directory
from wesemu.runs.maintenance import delete
from wesemu.runs.model import RunId
from wesemu.runs.run_directory import Workspace, tree_size
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore

_PRUNE_SECONDS = 3600.0

log = structlog.get_logger("wesemu.retention")


@dataclass(frozen=True, slots=True)
class Pruned:
    """Number of pruned runs, and the freed bytes: without files that have another hard link, such
    as results in a bucket."""

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
