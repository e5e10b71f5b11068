"""Copies of a data directory in one tar file, made while a server may be using it.

The index is copied by SQLite's own backup, so it is consistent. Run directories follow; one that
changes meanwhile is an active run, which a server resumes after the restore. Working directories,
fetched inputs and caches are left out: they can be made again.
"""

import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

from wesemu.datadir import DataDirectory
from wesemu.errors import InvalidRequest, SystemFault
from wesemu.runs.cleanup import is_run_directory

_RUN_FILES_LEFT_OUT = frozenset({"work", "tmp", "inputs", "cache", "run.lock", "events.fifo"})
_SMALL_FILES = ("secret", "clock.json", ".wesemu-data")
_TOP = frozenset({"wesemu.db", "runs", "buckets", "references", *_SMALL_FILES})


def save(data: DataDirectory, file: Path, *, buckets: bool = False) -> int:
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


def load(file: Path, data: DataDirectory) -> int:
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
