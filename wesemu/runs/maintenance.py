"""Maintenance of the data directory: index repair, clean-up of run directories, backups.

Index repair adds runs from their directories, which are the source of truth. Clean-up deletes only
entries of `runs/` that a server certainly created. A backup is one tar file; a server may be
running while it is written.
"""

import asyncio
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath

import structlog

from wesemu.errors import InvalidRequest, SystemFault
from wesemu.runs.data_directory import (
    TRASH_PREFIX,
    DataDirectory,
    IdSource,
    is_draft,
    is_own_entry,
    is_run_directory,
    is_trash,
)
from wesemu.runs.model import Run, RunId, RunState, TaskLog
from wesemu.runs.run_directory import Workspace
from wesemu.runs.serialization import read_run, run_folders
from wesemu.runs.store import HandleTaken, RunStore

log = structlog.get_logger("wesemu.rebuild")

_ACTIVE = tuple(state for state in RunState if state.active)
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


# Index repair.


async def rebuild_index(store: RunStore, runs: Path) -> int:
    """Add the runs that the index lacks, oldest first. Return how many.

    Runs that had not ended are queued again; the supervisor resumes them. Runs that ended after
    the index was written are updated.
    """
    folders = await asyncio.to_thread(lambda: list(run_folders(runs)))
    return await _add_missing(store, folders, await store.ids())


async def reconcile(store: RunStore, runs: Path) -> None:
    """Repair an index that is missing, empty or older than the run directories.

    Call it at start-up, before `clean_up`.
    """
    known = await store.ids()
    folders = await asyncio.to_thread(lambda: list(run_folders(runs)))
    # A directory with a draft mark may be a submission that was interrupted before its commit. If
    # the index has other runs, it lacks this one rightly.
    lost = await asyncio.to_thread(
        lambda: [folder for folder in folders if not known or not folder.draft.exists()]
    )
    if added := await _add_missing(store, lost, known):
        log.warning("the index lacked runs; added them from their directories", runs=added)
    gone = known - {folder.root.name for folder in folders}
    if gone:
        log.warning(
            "run directories are missing; 'wesemu rebuild' drops these runs from the index",
            runs=len(gone),
            example=min(gone),
        )


async def drop_missing(store: RunStore, runs: Path) -> int:
    """Delete the runs without a directory from the index. Return how many."""
    known = await store.ids()
    gone = await asyncio.to_thread(
        lambda: [run_id for run_id in known if not (runs / run_id).is_dir()]
    )
    for run_id in gone:
        await store.delete(run_id)
    return len(gone)


async def _add_missing(
    store: RunStore, folders: Iterable[Workspace], known: Collection[RunId]
) -> int:
    missing = [folder for folder in folders if folder.root.name not in known]
    await _update_ended(store, [folder for folder in folders if folder.root.name in known])
    pairs = [await asyncio.to_thread(_read, folder) for folder in missing]
    readable = [pair for pair in pairs if pair is not None]
    # by creation, because the order of insertion is the order of the queue
    for run, tasks in sorted(readable, key=lambda pair: pair[0].created):
        await _insert(store, run)
        await store.put_tasks(run.id, tasks)
    return len(readable)


async def _update_ended(store: RunStore, folders: Iterable[Workspace]) -> None:
    """Copy the ends of runs that the index still has as active.

    The supervisor writes an end to the index first, so such an index is an older copy.
    """
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
    return workspace.root.rename(away) if workspace.root.exists() else away


def delete(folder: Path) -> None:
    """Delete a folder with its content. Links are not followed, errors are ignored."""
    shutil.rmtree(folder, ignore_errors=True)


async def clean_up(runs: Path, store: RunStore) -> None:
    """Delete trash, submissions that were not accepted, and fetched inputs of ended runs.

    Call it at start-up, after `reconcile`: a draft that is not in the index is deleted.
    """
    drafts = await asyncio.to_thread(_clean_up_ended, runs)
    known = await store.many([RunId(folder.name) for folder in drafts])
    for folder in drafts:
        if folder.name not in known:
            await asyncio.to_thread(delete, folder)
        else:
            await asyncio.to_thread(Workspace(folder).draft.unlink, missing_ok=True)


def delete_all(runs: Path, run_ids: Collection[str]) -> None:
    """Delete the directories of these runs, of runs that are not in the index, and drafts."""
    indexed = set(run_ids)
    foreign = []
    for folder in sorted(runs.iterdir()):
        if folder.name in indexed or is_own_entry(folder):
            delete(folder)
        else:
            foreign.append(folder.name)
    _warn(foreign)


def _clean_up_ended(runs: Path) -> list[Path]:
    """Delete trash and inputs of ended runs. Return the drafts; the index decides about them."""
    drafts, foreign = [], []
    for folder in sorted(runs.iterdir()):
        workspace = Workspace(folder)
        if is_trash(folder):
            delete(folder)
        elif is_draft(folder):
            drafts.append(folder)
        elif not is_run_directory(folder):
            foreign.append(folder.name)
        elif workspace.state.is_file():
            delete(workspace.inputs)
    _warn(foreign)
    return drafts


def _warn(foreign: list[str]) -> None:
    if foreign:
        log.warning(
            "unknown entries in the folder of the runs; leaving them alone",
            count=len(foreign),
            names=foreign[:_NAMES_SHOWN],
        )


# Backups.

_RUN_FILES_LEFT_OUT = frozenset({"work", "tmp", "inputs", "cache", "run.lock", "events.fifo"})
_SMALL_FILES = ("secret", "clock.json", ".wesemu-data")
_TOP = frozenset({"wesemu.db", "runs", "buckets", "references", *_SMALL_FILES})


def save_backup(data: DataDirectory, file: Path, *, buckets: bool = False) -> int:
    """Write a backup and return the number of its runs. `buckets`: also buckets and references.

    The file appears complete or not at all. Raises SystemFault, OSError.
    """
    if not data.index.is_file():
        raise SystemFault(f"{data.root} has no index (wesemu.db); is it a data directory?")
    partial = file.with_name(f".{file.name}.partial")
    try:
        with (
            os.fdopen(_create(partial), "wb") as stream,
            # Store hard links as files: the other name may lie in a bucket that is left out.
            tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1, dereference=True) as archive,
        ):
            runs = _add_all(archive, data, buckets=buckets)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return runs


def restore_backup(file: Path, data: DataDirectory) -> int:
    """Unpack a backup into an absent or empty directory. Return the number of its runs.

    Raises InvalidRequest for a file that is no backup, SystemFault for a directory that is not
    empty, OSError. After an error, the directory is empty.
    """
    if data.root.exists() and any(data.root.iterdir()):
        raise SystemFault(
            f"{data.root} is not empty; restore into a new directory and move it afterwards"
        )
    data.make_root()
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                # Unpack only names that `save_backup` writes: an archive from elsewhere could have
                # links or paths that lead out of the directory.
                path = PurePosixPath(member.name)
                safe = ".." not in path.parts and path.parts[:1] and path.parts[0] in _TOP
                if not safe or not (member.isfile() or member.isdir()):
                    raise InvalidRequest(f"{file} is no backup of wesemu: it has {member.name!r}")
                _unpack(archive, member, data.root / path)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        _empty(data.root)
        raise InvalidRequest(f"{file} is no whole backup: {error}") from error
    except (FileExistsError, NotADirectoryError) as error:
        _empty(data.root)
        raise InvalidRequest(f"{file} is no backup of wesemu: it has a file twice") from error
    except BaseException:
        _empty(data.root)
        raise
    return sum(is_run_directory(folder) for folder in data.runs.iterdir())


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        content = archive.extractfile(member)
        assert content is not None  # a regular file has one
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("xb") as file:
            shutil.copyfileobj(content, file)
        os.utime(target, (member.mtime, member.mtime))
    target.chmod(member.mode & 0o777 | 0o600)


def _create(path: Path) -> int:
    """Open a file that only this user can read: a backup contains the secret."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def _add_all(archive: tarfile.TarFile, data: DataDirectory, *, buckets: bool) -> int:
    # SQLite's backup API copies a consistent database, even while the server writes to it.
    with tempfile.TemporaryDirectory(dir=data.root, prefix=".backup-") as temporary:
        copy = Path(temporary) / "wesemu.db"
        with closing(sqlite3.connect(data.index)) as source, closing(sqlite3.connect(copy)) as to:
            source.backup(to)
        archive.add(copy, "wesemu.db")
    for name in _SMALL_FILES:
        if (data.root / name).is_file():
            archive.add(data.root / name, name)
    archive.add(data.runs, "runs", recursive=False)
    runs = 0
    for folder in sorted(data.runs.iterdir()):
        if is_run_directory(folder):
            runs += 1
            for path in _run_files(folder):
                _add(archive, path, Path("runs") / folder.name / path.relative_to(folder))
    for tree in [data.buckets, data.references] if buckets else []:
        for path in _below(tree):
            _add(archive, path, path.relative_to(data.root))
    return runs


def _run_files(folder: Path) -> Iterator[Path]:
    yield folder
    for entry in sorted(folder.iterdir()):
        if entry.name not in _RUN_FILES_LEFT_OUT:
            yield from _below(entry)


def _below(path: Path) -> Iterator[Path]:
    """Yield `path` and everything below it. Links to folders are not followed."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            yield from _below(entry)


def _add(archive: tarfile.TarFile, path: Path, name: Path) -> None:
    """Add a file or folder; skip links, special files and files that have vanished."""
    try:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            return
        archive.add(path, str(name), recursive=False)
    except FileNotFoundError:
        return


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
