"""Removes runs that ended long ago, or what they no longer need, to free the disk."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from wesemu.errors import RunActive, RunNotFound
from wesemu.runs.cleanup import delete, is_run_directory
from wesemu.runs.model import RunId
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore
from wesemu.runs.workspace import Workspace, tree_size

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
