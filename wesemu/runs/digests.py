"""Digests of large files, computed in one pass and stored in the run directory.

Also interruptible copying and flushing of files. All functions block.
"""

import ctypes
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wesemu.runs.run_directory import Workspace, read_regular, write_json

Crc64 = Callable[[bytes, int], int]
"""(chunk, checksum of the bytes before it, 0 at the start) -> checksum including the chunk."""

_CHUNK = 1 << 20
_FLUSH = 64 << 20
_WORTH_KEEPING_SECONDS = 1.0
_LARGEST_RECORD = 64 << 20
_WAIT_BEFORE_WRITE_WAIT_AFTER = 7
"""SYNC_FILE_RANGE_* of sync_file_range(2)."""


class HashingStopped(Exception):
    """The stop event has interrupted work on files."""


@dataclass(frozen=True, slots=True)
class FileDigests:
    """`md5` and `sha256` in hexadecimal; `crc64` is None where this machine cannot compute it."""

    size: int
    sha256: str
    md5: str
    crc64: int | None = None


class DigestStore:
    """Digests of the results of one run; each is computed once.

    Digests that took over a second are stored in the run directory, so the next server need not
    read the files again. `stop` interrupts the work with HashingStopped.
    """

    def __init__(self, workspace: Workspace, stop: threading.Event, crc64: Crc64 | None) -> None:
        self._path = workspace.digests
        self._stop = stop
        self._crc64 = crc64
        self._known = _read(self._path)

    def of(self, name: str, file: Path) -> FileDigests:
        """Return the digests of `file`, stored as `name`. Raises OSError, HashingStopped."""
        began = time.monotonic()
        with file.open("rb", buffering=0) as opened:
            identity = _identity(os.fstat(opened.fileno()))
            if (known := self._find(name, identity)) is not None:
                return known
            digests = compute(opened.fileno(), self._crc64, self._stop)
        self._known[name] = {"file": identity, "digests": asdict(digests)}
        if time.monotonic() - began > _WORTH_KEEPING_SECONDS:
            write_json(self._path, self._known)
        return digests

    def _find(self, name: str, identity: list[int]) -> FileDigests | None:
        match self._known.get(name):
            case {"file": list(seen), "digests": dict(digests)} if seen == identity:
                try:
                    return FileDigests(**digests)
                except TypeError:
                    return None
        return None


def compute(descriptor: int, crc64: Crc64 | None, stop: threading.Event) -> FileDigests:
    """Read the open file from its position. Raises OSError, HashingStopped."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    crc = size = 0
    while chunk := os.read(descriptor, _CHUNK):
        check(stop)
        size += len(chunk)
        sha256.update(chunk)
        md5.update(chunk)
        if crc64 is not None:
            crc = crc64(chunk, crc)
    known_crc = None if crc64 is None else crc
    return FileDigests(size, sha256.hexdigest(), md5.hexdigest(), known_crc)


def copy(source: Path, target: Path, stop: threading.Event) -> None:
    """Copy the content of a file. Raises OSError, HashingStopped."""
    with source.open("rb", buffering=0) as read, target.open("xb", buffering=0) as written:
        while chunk := read.read(_CHUNK):
            check(stop)
            view = memoryview(chunk)
            while view:
                view = view[written.write(view) :]


def flush(path: Path, stop: threading.Event) -> None:
    """Make a file durable. Raises OSError, HashingStopped."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        # fsync of a large file cannot be interrupted, so write 64 MiB at a time first.
        if size > _FLUSH and (call := _sync_file_range()) is not None:
            for offset in range(0, size, _FLUSH):
                check(stop)
                call(descriptor, offset, _FLUSH, _WAIT_BEFORE_WRITE_WAIT_AFTER)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_file_system(folder: Path) -> bool:
    """Make a whole file system durable (syncfs), which is faster than fsync of many files.

    Return False if the system call is missing or fails.
    """
    call = _function("syncfs")
    if call is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return bool(call(descriptor) == 0)
    finally:
        os.close(descriptor)


def check(stop: threading.Event) -> None:
    """Raise HashingStopped if `stop` is set."""
    if stop.is_set():
        raise HashingStopped


@cache
def _sync_file_range() -> Any:
    call: Any = _function("sync_file_range")
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, size=_LARGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
