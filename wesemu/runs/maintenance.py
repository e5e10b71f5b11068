"""Maintenance of the data directory: index repair, check of the run directories, backups.

Index repair adds runs from their directories, which are the source of truth. The check deletes only
entries of `runs/` that a server certainly created. A backup is one tar file; a server may be
running while it is written.
"""

import asyncio
import errno
import gzip
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
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
from wesemu.runs.model import Run, RunId, TaskLog
from wesemu.runs.run_directory import Workspace
from wesemu.runs.serialization import read_run, run_folders
from wesemu.runs.store import HandleTaken, RunStore
from wesemu.util.text import os_reason

log = structlog.get_logger("wesemu.rebuild")

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


# Index repair.


async def rebuild_index(store: RunStore, runs: Path) -> int:
    """Add the runs that the index lacks, oldest first. Return how many.

    Runs that had not ended are queued again; the supervisor resumes them. Runs that ended after
    the index was written are updated.
    """
    await _update_ended(store, runs)
    folders = await asyncio.to_thread(lambda: list(run_folders(runs)))
    known = await store.ids()
    return await add_runs(store, [folder for folder in folders if folder.root.name not in known])


async def repair_index(store: RunStore, runs: Path) -> None:
    """Repair what must be right before runs start. `DirectoryCheck` does the rest later.

    An empty index gets all runs. Runs that the index has as active although they have ended by
    their directories are updated: otherwise they would be executed again.
    """
    if await store.is_empty():
        folders = await asyncio.to_thread(lambda: list(run_folders(runs)))
        _warn_added(await add_runs(store, folders))
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
    """Add runs that the index lacks, by their creation; runs of one moment in the given order.

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
    return workspace.root.rename(away) if workspace.root.exists() else away


def delete(folder: Path) -> None:
    """Delete a folder with its content. Links are not followed, errors are ignored."""
    shutil.rmtree(folder, ignore_errors=True)


def delete_all(runs: Path, run_ids: Collection[str]) -> None:
    """Delete the directories of these runs, of runs that are not in the index, and drafts."""
    indexed = set(run_ids)
    foreign = []
    for folder in sorted(runs.iterdir()):
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
"""A pause is so many times as long as the work before it: the check uses a fifth of a core."""


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
        # A submission is open until its run is in the index. So one that is neither open nor, asked
        # for later, in the index was refused, or left behind by an earlier server.
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


# Backups.

_RUN_FILES_LEFT_OUT = frozenset({"work", "tmp", "inputs", "cache", "run.lock", "events.fifo"})
_SMALL_FILES = ("secret", "clock.json", ".wesemu-data")
_TOP = frozenset({"wesemu.db", "runs", "buckets", "references", *_SMALL_FILES})


def save_backup(data: DataDirectory, file: Path, *, buckets: bool = False) -> int:
    """Write a backup and return the number of its runs. `buckets`: also buckets and references.

    The file appears complete or not at all. Raises InvalidRequest, SystemFault, OSError.
    """
    if not data.index.is_file():
        raise SystemFault(f"{data.root} has no index (wesemu.db); is it a data directory?")
    if not file.parent.is_dir():
        raise InvalidRequest(f"the folder {file.parent} does not exist; create it first")
    partial = file.with_name(f".{file.name}.partial")
    try:
        with (
            os.fdopen(_create(partial), "wb") as stream,
            # Store hard links as files: the other name may lie in a bucket that is left out.
            tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1, dereference=True) as archive,
        ):
            runs = _add_all(archive, data, buckets=buckets, partial=partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return runs


def restore_backup(file: Path, data: DataDirectory) -> int:
    """Unpack a backup into an absent or empty directory. Return the number of its runs.

    Raises InvalidRequest for a file that is not a backup or is damaged, SystemFault for a
    directory that is not empty, OSError. After an error, the directory is empty.
    """
    if data.root.exists() and any(data.root.iterdir()):
        raise SystemFault(
            f"{data.root} is not empty; restore into a new directory and move it afterwards"
        )
    data.make_root()
    try:
        with gzip.open(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not _is_expected(member, path):
                    raise InvalidRequest(
                        f"{file} is not a backup of wesemu: it has {member.name!r}"
                    )
                _unpack(archive, member, data.root / path)
            _check_end(stream)
        if not (data.index.is_file() and data.runs.is_dir()):
            raise InvalidRequest(f"{file} is not a backup of wesemu: it has no index or no runs")
    except BaseException as error:
        _empty(data.root)
        if isinstance(error, _DAMAGED):
            raise InvalidRequest(f"{file} is not a complete backup: {error}") from error
        if isinstance(error, OSError) and error.errno in _UNUSABLE_NAME:
            reason = f"a name in it cannot be used ({os_reason(error)})"
            raise InvalidRequest(f"{file} is not a backup of wesemu: {reason}") from error
        raise
    return sum(is_run_directory(folder) for folder in data.runs.iterdir())


_DAMAGED = (
    *(tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
    *(ValueError, OverflowError),  # numbers in headers
)
_UNUSABLE_NAME = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_CHUNK = 1 << 20


def _is_expected(member: tarfile.TarInfo, path: PurePosixPath) -> bool:
    """Return whether `save_backup` writes such an entry: an archive from elsewhere could have links
    or paths that lead out of the directory."""
    if ".." in path.parts or path.parts[:1] == () or path.parts[0] not in _TOP:
        return False
    return member.isdir() or (member.isreg() and not member.issparse())


def _check_end(stream: gzip.GzipFile) -> None:
    """Read the rest of an archive: zeros only. Raises ReadError, BadGzipFile and EOFError.

    tarfile takes a damaged header for the end of the archive. The end of the gzip stream has a
    checksum of the whole content.
    """
    rest = stream.read(_CHUNK)
    is_ended = rest != b""
    while rest:
        is_ended = is_ended and not rest.strip(b"\0")
        rest = stream.read(_CHUNK)
    if not is_ended:
        raise tarfile.ReadError("it is cut off or damaged")


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


def _add_all(archive: tarfile.TarFile, data: DataDirectory, *, buckets: bool, partial: Path) -> int:
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
            if path.name != partial.name or not path.samefile(partial):
                _add(archive, path, path.relative_to(data.root))
    return runs


def _run_files(folder: Path) -> Iterator[Path]:
    yield folder
    for entry in _entries(folder):
        if entry.name not in _RUN_FILES_LEFT_OUT:
            yield from _below(entry)


def _below(path: Path) -> Iterator[Path]:
    """Yield `path` and everything below it. Links to folders are not followed."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for entry in _entries(path):
            yield from _below(entry)


def _entries(folder: Path) -> list[Path]:
    """Return the sorted entries; none if the folder has been removed meanwhile."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


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
