"""Maintenance of the data directory: index repair, and check of the run directories.

Index repair adds runs from their directories, which are the source of truth. The check deletes only
entries of `runs/` that a server certainly created.
"""

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import structlog

from wesemu.runs.data_directory import (
    TRASH_PREFIX,
    IdSource,
    is_draft,
    is_own_entry,
    is_run_directory,
    is_trash,
    run_directories,
)
from wesemu.runs.model import Run, RunId, TaskLog
from wesemu.runs.run_directory import Workspace
from wesemu.runs.serialization import read_run
from wesemu.runs.store import HandleTaken, RunStore

log = structlog.get_logger("wesemu.rebuild")

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


# Index repair.


async def rebuild_index(store: RunStore, runs: Path) -> int:
    """Add the runs that the index lacks, oldest first. Return how many.

    Runs that had not ended are queued again; the supervisor resumes them. Runs that ended after
    the index was written are updated.
    """
    await _update_ended(store, runs)
    folders = await asyncio.to_thread(run_directories, runs)
    known = set(await store.ids())
    return await add_runs(store, [Workspace(each) for each in folders if each.name not in known])


async def repair_index(store: RunStore, runs: Path) -> None:
    """Repair the index as far as the scheduler needs it. `DirectoryCheck` does the rest later.

    Adds all runs to an empty index. Updates runs that are active in the index but have ended by
    their directories: otherwise they would be executed again.
    """
    if await store.is_empty():
        folders = await asyncio.to_thread(run_directories, runs)
        _warn_added(await add_runs(store, map(Workspace, folders)))
    else:
        await _update_ended(store, runs)


async def drop_missing(store: RunStore, runs: Path) -> int:
    """Delete the runs without a directory from the index. Return how many."""
    known = await store.ids()
    gone = await asyncio.to_thread(
        lambda: [run_id for run_id in known if not (runs / run_id).is_dir()]
    )
    for run_id in gone:
        await store.delete(run_id)
    return len(gone)


async def add_runs(store: RunStore, folders: Iterable[Workspace]) -> int:
    """Add runs that the index lacks, oldest first; runs of the same age in the given order.

    Return how many.
    """
    pairs = [await asyncio.to_thread(_read, folder) for folder in folders]
    readable = [pair for pair in pairs if pair is not None]
    # by creation, because the order of insertion is the order of the queue
    for run, tasks in sorted(readable, key=lambda pair: pair[0].created):
        await _insert(store, run)
        await store.put_tasks(run.id, tasks, durable=True)
    return len(readable)


def _warn_added(number: int) -> None:
    if number:
        log.warning("the index lacked runs; added them from their directories", runs=number)


async def _update_ended(store: RunStore, runs: Path) -> None:
    """Copy the ends of runs that the index still has as active.

    The supervisor writes an end to the index first, so such an index is an older copy.
    """
    active = [Workspace(runs / run_id) for run_id in await store.active_owners()]
    for workspace in await asyncio.to_thread(
        lambda: [each for each in active if each.state.is_file()]
    ):
        pair = await asyncio.to_thread(_read, workspace)
        if pair is not None and pair[0].state.ended:
            await store.overwrite(pair[0])
            await store.put_tasks(pair[0].id, pair[1], durable=True)


def _read(workspace: Workspace) -> tuple[Run, list[TaskLog]] | None:
    try:
        run, tasks = read_run(workspace)
    except _UNREADABLE as error:
        if not workspace.root.is_dir():  # removed meanwhile
            return None
        log.warning("run directory is unreadable", folder=workspace.root.name, error=f"{error}")
        return None
    if run.id != workspace.root.name:
        log.warning("run directory has another run's id", folder=workspace.root.name, run_id=run.id)
        return None
    return run, tasks


async def _insert(store: RunStore, run: Run) -> None:
    ids = IdSource()
    while True:
        try:
            await store.insert(run)
        except HandleTaken:
            handle = ids.handle()
            log.warning("handle of a run is taken; renaming it", run_id=run.id, new=handle)
            run = replace(run, handle=handle)
        else:
            return


# Clean-up of run directories.

_NAMES_SHOWN = 3


def trash(workspace: Workspace) -> Path:
    """Rename a run directory before it is deleted, and return the new path.

    A crash while it is deleted then leaves no half of a run.
    """
    away = workspace.root.with_name(TRASH_PREFIX + workspace.root.name)
    with suppress(FileNotFoundError):  # another request may be removing the same run
        workspace.root.rename(away)
    return away


def delete(folder: Path) -> None:
    """Delete a folder with its content. Links are not followed, errors are ignored.

    Write-protected folders are deleted, too: Snakemake's `protected(directory())` makes them. So
    are folders that are too deep for the recursion of `rmtree`.
    """
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        with suppress(OSError):
            _delete_flat(folder)


def _delete_flat(folder: Path) -> None:
    """Delete a folder after moving all subfolders to its top, where their paths are short."""
    folder.chmod(stat.S_IRWXU)
    pending = [folder]
    while pending:
        current = pending.pop()
        with suppress(OSError):
            pending += _empty(current, folder)
            if current != folder:
                current.rmdir()
    folder.rmdir()


def _empty(folder: Path, top: Path) -> list[Path]:
    """Delete the files of a folder. Make its subfolders writable, move them to `top`, and return
    them."""
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    moved: list[Path] = []
    for entry in entries:
        with suppress(OSError):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                path.chmod(stat.S_IRWXU)
                moved.append(path.rename(top / uuid4().hex))
            else:
                path.unlink()
    return moved


def delete_all(runs: Path, run_ids: Collection[str]) -> None:
    """Delete the directories of these runs, of runs that are not in the index, and drafts."""
    indexed = set(run_ids)
    foreign = []
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        if folder.name in indexed or is_own_entry(folder):
            delete(folder)
        else:
            foreign.append(folder.name)
    _warn_foreign(foreign)


def _warn_foreign(foreign: list[str]) -> None:
    if foreign:
        log.warning(
            "unknown entries in the folder of the runs; leaving them alone",
            count=len(foreign),
            names=foreign[:_NAMES_SHOWN],
        )


# Check of the run directories while the server runs.

_BATCH = 500
"""Directories, or runs of the index, that are looked at without a pause."""

_REST = 4
"""A pause is four times as long as the work before it, so the check uses a fifth of a core."""


@dataclass(slots=True)
class _Inspected:
    """What entries of `runs/` seem to be; the index decides about `lost` and `drafts`."""

    lost: list[Workspace] = field(default_factory=list)
    drafts: list[Workspace] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


class DirectoryCheck:
    """Compares `runs/` with the index after the start, in the background.

    Adds runs that the index lacks; deletes trash, submissions that were not accepted, and inputs of
    ended runs; warns about runs without a directory and about foreign files. It pauses after every
    500 entries, so requests are served meanwhile.

    `is_open` says whether this server is receiving the submission with this id. `added` is called
    after runs were added.
    """

    def __init__(
        self,
        store: RunStore,
        runs: Path,
        *,
        is_open: Callable[[RunId], bool] = lambda run_id: False,
        added: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._runs = runs
        self._is_open = is_open
        self._added = added
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="check of the run directories")

    async def close(self) -> None:
        """Stop the check. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self.run()
        except Exception:
            log.exception("checking the run directories failed; the next start tries again")

    async def run(self) -> None:
        """Check all directories and all runs once."""
        lost: list[Workspace] = []
        foreign: list[str] = []
        names = await asyncio.to_thread(os.listdir, self._runs)
        for start in range(0, len(names), _BATCH):
            began = time.monotonic()
            inspected = await self._inspect(names[start : start + _BATCH])
            lost += await self._decide(inspected)
            foreign += inspected.foreign
            await asyncio.sleep(_REST * (time.monotonic() - began))
        if added := await add_runs(self._store, lost):
            _warn_added(added)
            self._added()
        _warn_foreign(sorted(foreign))
        await self._warn_missing()

    async def _inspect(self, names: Sequence[str]) -> _Inspected:
        known = await self._store.known(names)
        return await asyncio.to_thread(_inspect, self._runs, names, known)

    async def _decide(self, inspected: _Inspected) -> list[Workspace]:
        """Delete drafts that no run belongs to. Return the runs that the index lacks."""
        # A submission is open until its run is in the index. So if it is not open now, and not in
        # the index afterwards, it was refused, or an earlier server left it behind.
        drafts = [each for each in inspected.drafts if not self._is_open(RunId(each.root.name))]
        known = await self._store.known([each.root.name for each in (*drafts, *inspected.lost)])
        for draft in drafts:
            if draft.root.name in known:
                await asyncio.to_thread(draft.draft.unlink, missing_ok=True)
            else:
                await asyncio.to_thread(delete, draft.root)
        return [each for each in inspected.lost if each.root.name not in known]

    async def _warn_missing(self) -> None:
        missing: list[RunId] = []
        last = ""
        while ids := await self._store.ids_after(last, _BATCH):
            began = time.monotonic()
            missing += await asyncio.to_thread(self._without_directory, ids)
            last = ids[-1]
            await asyncio.sleep(_REST * (time.monotonic() - began))
        # A run that was removed meanwhile is not missing. Its directory goes before its row.
        for start in range(0, len(missing), _BATCH):
            known = await self._store.known(missing[start : start + _BATCH])
            missing[start : start + _BATCH] = sorted(known)
        if missing:
            log.warning(
                "run directories are missing; 'wesemu rebuild' drops these runs from the index",
                runs=len(missing),
                example=min(missing),
            )

    def _without_directory(self, ids: Iterable[RunId]) -> list[RunId]:
        return [run_id for run_id in ids if not (self._runs / run_id).is_dir()]


def _inspect(runs: Path, names: Iterable[str], known: Collection[str]) -> _Inspected:
    """Look at entries of `runs/`; delete trash and inputs of ended runs. Blocks.

    `known` are the names that are runs of the index.
    """
    found = _Inspected()
    for name in names:
        workspace, is_known = Workspace(runs / name), name in known
        if is_trash(workspace.root):
            delete(workspace.root)
            continue
        if workspace.draft.exists() if is_known else is_draft(workspace.root):
            found.drafts.append(workspace)
        elif not is_known and is_run_directory(workspace.root):
            found.lost.append(workspace)
        elif not is_known:
            found.foreign.append(name)
            continue
        if workspace.inputs.exists() and workspace.state.is_file():
            delete(workspace.inputs)
    return found
