"""Deletes run directories, and nothing that this server did not certainly make.

The folder of the runs may hold what others have put there. A run directory is recognised by its
name and by what lies in it; everything else stays.
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

from wesemu.errors import (
    InvalidRequest,
    SystemFault,
)
from wesemu.runs.data_directory import (
    _REMOVED,
    DataDirectory,
    IdSource,
    _is_draft,
    _is_put_away,
    is_ours,
    is_run_directory,
)
from wesemu.runs.model import Run, RunId, RunState, TaskLog
from wesemu.runs.run_directory import Workspace
from wesemu.runs.serialization import read_run, run_folders
from wesemu.runs.store import HandleTaken, RunStore

# The index held against the run directories, which are the truth.


log = structlog.get_logger("wesemu.rebuild")

_ACTIVE = tuple(state for state in RunState if state.active)
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


async def rebuild_index(store: RunStore, runs: Path) -> int:
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


_NAMES_SHOWN = 3


def trash(workspace: Workspace) -> Path:
    """Rename a run directory, the first half of removing it. Returns where it is now."""
    away = workspace.root.with_name(_REMOVED + workspace.root.name)
    return workspace.root.rename(away) if workspace.root.exists() else away


def delete(folder: Path) -> None:
    """Delete a run directory that was put away. A link is not followed."""
    shutil.rmtree(folder, ignore_errors=True)


async def clean_up(runs: Path, store: RunStore) -> None:
    """At start-up: delete what was put away, submissions that were never accepted, and what runs
    that have ended hold of fetched inputs. Call it once the index is known to be whole."""
    drafts = await asyncio.to_thread(_clean_up_ended, runs)
    known = await store.many([RunId(folder.name) for folder in drafts])
    for folder in drafts:
        if folder.name not in known:
            await asyncio.to_thread(delete, folder)
        else:
            await asyncio.to_thread(Workspace(folder).draft.unlink, missing_ok=True)


def delete_all(runs: Path, run_ids: Collection[str]) -> None:
    """Delete the directories of these runs, of runs that the index does not know, and drafts."""
    indexed = set(run_ids)
    strange = []
    for folder in _entries(runs):
        if folder.name in indexed or is_ours(folder):
            delete(folder)
        else:
            strange.append(folder.name)
    _warn(strange)


def _clean_up_ended(runs: Path) -> list[Path]:
    """Returns the drafts, which are for the index to confirm."""
    drafts, strange = [], []
    for folder in _entries(runs):
        workspace = Workspace(folder)
        if _is_put_away(folder):
            delete(folder)
        elif _is_draft(folder):
            drafts.append(folder)
        elif not is_run_directory(folder):
            strange.append(folder.name)
        elif workspace.state.is_file():
            delete(workspace.inputs)
    _warn(strange)
    return drafts


def _entries(runs: Path) -> Iterator[Path]:
    yield from sorted(runs.iterdir())


def _warn(strange: list[str]) -> None:
    if strange:
        log.warning(
            "entries of the folder of the runs are no run directories; they are left alone",
            count=len(strange),
            names=strange[:_NAMES_SHOWN],
        )


# Removes runs that ended long ago, or what they no longer need, to free the disk.


_RUN_FILES_LEFT_OUT = frozenset({"work", "tmp", "inputs", "cache", "run.lock", "events.fifo"})
_SMALL_FILES = ("secret", "clock.json", ".wesemu-data")
_TOP = frozenset({"wesemu.db", "runs", "buckets", "references", *_SMALL_FILES})


def save_backup(data: DataDirectory, file: Path, *, buckets: bool = False) -> int:
    """Write the backup; the number of runs in it. With `buckets` it has all buckets and references.

    The file appears whole or not at all. Raises SystemFault, OSError.
    """
    if not data.index.is_file():
        raise SystemFault(f"{data.root} has no index (wesemu.db); is it a data directory?")
    partial = file.with_name(f".{file.name}.partial")
    try:
        with (
            os.fdopen(_create(partial), "wb") as stream,
            # hard links as files: a result lies in a bucket, too, which may be left out
            tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1, dereference=True) as archive,
        ):
            runs = _add_all(archive, data, buckets=buckets)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return runs


def restore_backup(file: Path, data: DataDirectory) -> int:
    """Unpack a backup into an absent or empty directory; the number of runs in it.

    Raises InvalidRequest for a file that is no backup, SystemFault for a directory in use, OSError.
    """
    if data.root.exists() and any(data.root.iterdir()):
        raise SystemFault(
            f"{data.root} is not empty; restore into a new directory and move it afterwards"
        )
    data.make_root()
    try:
        with tarfile.open(file) as archive:
            for member in archive:
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
    """Backups hold what the data directory holds, and are as private."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def _add_all(archive: tarfile.TarFile, data: DataDirectory, *, buckets: bool) -> int:
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
    """Regular files and folders, `path` first; no links."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            yield from _below(entry)


def _add(archive: tarfile.TarFile, path: Path, name: Path) -> None:
    """What vanishes meanwhile is left out, and so is what is neither file nor folder."""
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
