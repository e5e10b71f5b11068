"""Backups: runs of a data directory, and on request buckets and references, in one tar file.

A server may be running while a backup is written.
"""

import contextlib
import errno
import gzip
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO

from wesemu.errors import InvalidRequest, SystemFault
from wesemu.runs.data_directory import DataDirectory, run_directories
from wesemu.runs.disk_full import disk_named
from wesemu.runs.run_directory import replaceable
from wesemu.util.text import os_reason

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
    file = replaceable(file)
    if _is_own(file, data):
        raise InvalidRequest(
            f"{file} is in the data directory, where it could replace a file of the server; name a "
            "file elsewhere, or in a bucket"
        )
    partial = file.with_name(f".{file.name}.partial")
    try:
        with (
            disk_named(file.parent),
            os.fdopen(_create(partial), "wb") as stream,
            # Store hard links as files: the other name may lie in a bucket that is left out.
            tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1, dereference=True) as archive,
        ):
            runs = _add_all(archive, data, buckets=buckets, partial=partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return runs


def _is_own(file: Path, data: DataDirectory) -> bool:
    """Whether `file` is in the data directory, but not in a bucket."""
    place = file.parent.resolve() / file.name
    return place.is_relative_to(data.root.resolve()) and not place.parent.is_relative_to(
        data.buckets.resolve()
    )


def restore_backup(file: Path, data: DataDirectory) -> int:
    """Unpack a backup into an absent or empty directory. Return the number of its runs.

    Raises InvalidRequest for a file that is not a backup or is damaged, SystemFault for a
    directory that is not empty, OSError. After an error, the directory is empty.
    """
    if data.root.exists() and any(data.root.iterdir()):
        raise SystemFault(
            f"{data.root} is not empty; restore into a new directory with --data, then move it"
        )
    with gzip.open(file) as stream, disk_named(data.root):
        data.make_root()
        # A restore that is killed leaves this folder, which servers refuse as foreign.
        with tempfile.TemporaryDirectory(dir=data.root, prefix=".restore-") as temporary:
            staged = DataDirectory(Path(temporary))
            try:
                _unpack_all(stream, staged)
            except _DAMAGED as error:
                raise InvalidRequest(f"{file} is not a complete backup: {error}") from error
            except OSError as error:
                if error.errno not in _UNUSABLE_NAME:
                    raise
                reason = f"a name in it cannot be used ({os_reason(error)})"
                raise InvalidRequest(f"{file} is not a complete backup: {reason}") from error
            for entry in sorted(staged.root.iterdir()):
                entry.rename(data.root / entry.name)
    return len(run_directories(data.runs))


def _unpack_all(stream: gzip.GzipFile, data: DataDirectory) -> None:
    """Raises one of _DAMAGED for anything that `save_backup` does not write, OSError."""
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not _is_expected(member, path):
                raise tarfile.ReadError(f"it has {member.name!r}")
            _unpack(archive, member, data.root / path)
        _check_end(stream)
    if not (data.index.is_file() and data.runs.is_dir()):
        raise tarfile.ReadError("it has no index or no runs")


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
        os.utime(target, ns=(modified_ns(member), modified_ns(member)))
    target.chmod(member.mode & 0o777 | 0o600)


def _create(path: Path) -> int:
    """Open a file that only this user can read: a backup contains the secret."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def _add_all(archive: tarfile.TarFile, data: DataDirectory, *, buckets: bool, partial: Path) -> int:
    # The copy is beside the backup: the disk of the data directory may be full.
    with tempfile.TemporaryDirectory(dir=partial.parent, prefix=".backup-") as temporary:
        copy = Path(temporary) / "wesemu.db"
        try:
            _copy_index(data.index, copy)
        except sqlite3.Error as error:
            where = f"the index {data.index} to {partial.parent}"
            raise SystemFault(f"cannot copy {where}: {error}") from error
        archive.add(copy, "wesemu.db")
    for name in _SMALL_FILES:
        if (data.root / name).is_file():
            archive.add(data.root / name, name)
    archive.add(data.runs, "runs", recursive=False)
    runs = 0
    for folder in run_directories(data.runs):
        runs += 1
        for path in _run_files(folder):
            _add(archive, path, Path("runs") / folder.name / path.relative_to(folder))
    for tree in [data.buckets, data.references] if buckets else []:
        for path in _below(tree):
            if path.name != partial.name or not path.samefile(partial):
                _add(archive, path, path.relative_to(data.root))
    return runs


def _copy_index(index: Path, target: Path) -> None:
    """Copy a consistent index by SQLite's backup API, even while the server writes to it."""
    with closing(sqlite3.connect(index)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


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
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink():
            return
        if path.is_dir():
            archive.add(path, str(name), recursive=False)
        elif path.is_file():
            with path.open("rb") as file:
                # the size of the open file: another one may be renamed to this path meanwhile
                entry = archive.gettarinfo(arcname=str(name), fileobj=file)
                entry.pax_headers = {MTIME: str(os.fstat(file.fileno()).st_mtime_ns)}
                add_entry(archive, entry, file, path)


MTIME = "WESEMU.mtime_ns"
"""A header of entries in a tar file: the mtime in nanoseconds, which records of objects compare.
tar's own mtime is less exact."""


def modified_ns(entry: tarfile.TarInfo) -> int:
    return int(entry.pax_headers.get(MTIME, int(entry.mtime) * 10**9))


def add_entry(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, content: IO[bytes], path: Path
) -> None:
    """Add the first `entry.size` bytes of `content`, the open file `path`.

    Raises SystemFault if it has fewer, OSError.
    """
    start = content.tell()
    try:
        archive.addfile(entry, content)
    except OSError as error:
        if error.errno is None and content.tell() - start < entry.size:
            raise SystemFault(f"{path} became shorter while it was read; try again") from error
        raise
