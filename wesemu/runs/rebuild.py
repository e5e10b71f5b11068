"""The index held against the run directories, which are the truth."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from wesemu.ids import IdSource
from wesemu.runs.model import Run, RunId, RunState, TaskLog
from wesemu.runs.records import read_run, run_folders
from wesemu.runs.store import HandleTaken, RunStore
from wesemu.runs.workspace import Workspace

log = structlog.get_logger("wesemu.rebuild")

_ACTIVE = tuple(state for state in RunState if state.active)
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


async def rebuild(store: RunStore, runs: Path) -> int:
    """Put every run that the index lacks into it, oldest first; returns how many those were.

    A run that had not ended is queued again, and taken up where its process is or was. Runs that
    have ended since the index was written are brought up to date.
    """
    folders = await asyncio.to_thread(lambda: list(run_folders(runs)))
    return await _put_back(store, folders, await store.ids())


async def reconcile(store: RunStore, runs: Path) -> None:
    """At start-up: notice an index that is missing, empty or older than the run directories, and
    put back what it lacks. Before `clean_up`."""
    known = await store.ids()
    folders = await asyncio.to_thread(lambda: list(run_folders(runs)))
    # a submission that was never accepted may lack in an index that has others
    lost = await asyncio.to_thread(
        lambda: [folder for folder in folders if not known or not folder.draft.exists()]
    )
    if added := await _put_back(store, lost, known):
        log.warning("the index lacked runs; they are put back from their directories", runs=added)
    gone = known - {folder.root.name for folder in folders}
    if gone:
        log.warning(
            "the directories of runs are gone; 'wesemu rebuild' drops these runs from the index",
            runs=len(gone),
            example=min(gone),
        )


async def drop_missing(store: RunStore, runs: Path) -> int:
    """Drop the runs whose directories are gone; returns how many those were."""
    known = await store.ids()
    gone = await asyncio.to_thread(
        lambda: [run_id for run_id in known if not (runs / run_id).is_dir()]
    )
    for run_id in gone:
        await store.delete(run_id)
    return len(gone)


async def _put_back(store: RunStore, folders: Iterable[Workspace], known: Collection[RunId]) -> int:
    missing = [folder for folder in folders if folder.root.name not in known]
    await _refresh(store, [folder for folder in folders if folder.root.name in known])
    read = [await asyncio.to_thread(_read, folder) for folder in missing]
    found = [pair for pair in read if pair is not None]
    for run, tasks in sorted(found, key=lambda pair: pair[0].created):
        await _insert(store, run)
        await store.put_tasks(run.id, tasks)
    return len(found)


async def _refresh(store: RunStore, folders: Iterable[Workspace]) -> None:
    """A directory tells of a run's end after the index does, so an index that does not know the
    end is an older one."""
    active = {run.id for run in await store.in_states(*_ACTIVE)}
    for workspace in folders:
        if workspace.root.name not in active:
            continue
        pair = await asyncio.to_thread(_read, workspace)
        if pair is not None and pair[0].state.ended:
            await store.overwrite(pair[0])
            await store.put_tasks(pair[0].id, pair[1])


def _read(workspace: Workspace) -> tuple[Run, list[TaskLog]] | None:
    try:
        run, tasks = read_run(workspace)
    except _UNREADABLE as error:
        log.warning("a run directory is unreadable", folder=workspace.root.name, error=f"{error}")
        return None
    if run.id != workspace.root.name:
        log.warning("a run directory is another run's", folder=workspace.root.name, run_id=run.id)
        return None
    return run, tasks


async def _insert(store: RunStore, run: Run) -> None:
    ids = IdSource()
    while True:
        try:
            await store.insert(run)
        except HandleTaken:
            handle = ids.handle()
            log.warning("a run's handle belongs to another run", run_id=run.id, new=handle)
            run = replace(run, handle=handle)
        else:
            return
