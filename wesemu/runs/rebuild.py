"""The index made anew from the run directories, which are the truth."""

import asyncio
from pathlib import Path

import structlog

from wesemu.errors import RunNotFound
from wesemu.runs.records import read_run, run_folders
from wesemu.runs.store import HandleTaken, RunStore

log = structlog.get_logger("wesemu.rebuild")


async def rebuild(store: RunStore, runs: Path) -> int:
    """Put every run that the index lacks into it, oldest first; returns how many those were.

    A run that had not ended is queued again, and taken up where its process is or was.
    """
    found = []
    for workspace in await asyncio.to_thread(lambda: list(run_folders(runs))):
        try:
            found.append(await asyncio.to_thread(read_run, workspace))
        except (OSError, ValueError, KeyError) as error:
            log.warning("a run directory is unreadable", folder=workspace.root.name, error=error)
    added = 0
    for run, tasks in sorted(found, key=lambda pair: pair[0].created):
        try:
            await store.get(run.id)
        except RunNotFound:
            try:
                await store.insert(run)
            except HandleTaken:
                log.warning("a run's handle belongs to another run", run_id=run.id)
                continue
            await store.put_tasks(run.id, tasks)
            added += 1
    return added
