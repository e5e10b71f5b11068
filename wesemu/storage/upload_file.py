"""Uploads in progress: a temporary file in the bucket and the digests of its bytes."""

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wesemu.errors import DigestMismatch, SystemFault, TooLarge
from wesemu.storage.checksums import Crc64

_MIB = 1 << 20
_MODE = 0o666
_NAME = re.compile(r"tmp[a-z0-9_]{8}")
"""The names that `tempfile` generates."""


def is_upload_file(name: str) -> bool:
    """Return True if the file name belongs to an upload in progress."""
    return bool(_NAME.fullmatch(name))


@dataclass(frozen=True, slots=True)
class Digests:
    """Size and digests of an upload.

    `size` is in bytes, `md5` has 16 bytes. `crc64` is None if this machine cannot compute it.
    """

    size: int
    md5: bytes
    crc64: int | None

    @property
    def etag(self) -> str:
        return self.md5.hex().upper()


class UploadFile:
    """Temporary file that becomes an object when it is moved.

    `close` and the end of `with` delete the file if it was not moved. One thread at a time stores,
    and one digests; another thread may sync or close the file meanwhile, for example when the
    request is cancelled. `limit` is in bytes.
    """

    def __init__(self, folder: Path, crc64: Crc64 | None, *, limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # mkstemp creates the file for its owner only: apply the mode a new file would have.
        descriptor, name = tempfile.mkstemp(prefix="tmp", dir=folder)
        self.path = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        os.fchmod(descriptor, _MODE & ~_umask(folder))
        self._crc64 = crc64
        self._limit = limit
        self._lock = threading.Lock()
        self._size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc = 0

    def expect(self, size: int) -> None:
        """Raise TooLarge if an announced size exceeds the limit."""
        if size > self._limit:
            raise TooLarge(f"more than {self._limit} bytes; upload larger objects in parts")

    def write(self, chunk: bytes) -> None:
        """Append the chunk and update the digests. Raise TooLarge above the limit."""
        self.store(chunk)
        self.digest(chunk)

    def store(self, chunk: bytes) -> None:
        """Append the chunk without updating the digests. Raise TooLarge above the limit."""
        self._size += len(chunk)
        self.expect(self._size)
        self._write(chunk)

    def digest(self, chunk: bytes) -> None:
        """Update the digests by a chunk that `store` appends."""
        self._md5.update(chunk)
        if self._crc64 is not None:
            self._crc = self._crc64(chunk, self._crc)

    def copy(self, source_fd: int, offset: int, size: int) -> None:
        """Append `size` bytes of an open file.

        Raise as `write`, and SystemFault if the file is shorter.
        """
        end = offset + size
        while offset < end:
            chunk = os.pread(source_fd, min(_MIB, end - offset), offset)
            if not chunk:
                raise SystemFault("the file was truncated while it was being copied; try again")
            self.write(chunk)
            offset += len(chunk)

    def finish(self, *, md5: bytes | None = None) -> Digests:
        """Sync the file to disk and return its digests.

        Raise DigestMismatch if `md5` is given and differs.
        """
        digests = Digests(
            self._size, self._md5.digest(), None if self._crc64 is None else self._crc
        )
        if md5 is not None and md5 != digests.md5:
            raise DigestMismatch(
                f"the {digests.size} bytes received have the MD5 {digests.md5.hex()}, not "
                f"{md5.hex()} as announced; send them again"
            )
        self.sync()
        return digests

    def append(self, path: Path) -> None:
        """Append a file without updating the digests: the caller knows them already."""
        with path.open("rb", buffering=0) as source:
            while chunk := source.read(_MIB):
                self._write(chunk)

    def append_to(self, path: Path) -> os.stat_result:
        """Append this file to another one, completely or not at all, unless the machine crashes."""
        with path.open("r+b") as file, self.path.open("rb") as source:
            size = file.seek(0, os.SEEK_END)
            try:
                shutil.copyfileobj(source, file, _MIB)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.ftruncate(file.fileno(), size)
                raise
            return os.fstat(file.fileno())

    def sync(self) -> None:
        # a copy of the descriptor, so that writing and closing need not wait for the disk
        with self._lock:
            descriptor = os.dup(self._file.fileno())
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _write(self, chunk: bytes) -> None:
        with self._lock:
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]

    def stat(self) -> os.stat_result:
        return os.fstat(self._file.fileno())

    def close(self) -> None:
        """Close the file, and delete it unless it was moved."""
        with self._lock:
            self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "UploadFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """Keep the file at `path` open, if there is one, so a replaced file is freed at the end.

    Freeing a large file takes seconds. Take locks inside this context, or others wait for it.
    """
    with ExitStack() as opened:
        with suppress(OSError):
            # O_NONBLOCK: opening a named pipe would wait for a writer
            opened.callback(os.close, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
        yield


def _umask(folder: Path) -> int:
    """Return the umask that the mode of the bucket's folder implies.

    Reading the process's own umask would change it for a moment, for all threads.
    """
    return ~folder.stat().st_mode & 0o777
