"""An object's bytes on their way in: a temporary file in the bucket, and their digests."""

import hashlib
import os
import re
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from wesemu.errors import DigestMismatch, SystemFault, TooLarge
from wesemu.storage.checksums import Crc64

_MIB = 1 << 20
_MODE = 0o666
_NAME = re.compile(r"tmp[a-z0-9_]{8}")
"""As `tempfile` calls its files."""


def is_upload_file(name: str) -> bool:
    """Whether a file of this name in the folder is one of these."""
    return bool(_NAME.fullmatch(name))


@dataclass(frozen=True, slots=True)
class Digests:
    """`md5` has 16 bytes; `crc64` is None where this machine cannot compute it."""

    size: int
    md5: bytes
    crc64: int | None

    @property
    def etag(self) -> str:
        return self.md5.hex().upper()


class UploadFile:
    """A file that becomes an object or nothing: unless moved, it is gone after `close`
    or `with`.

    Written by one thread at a time; another may close it meanwhile, as when a request is
    cancelled. `limit` is in bytes.
    """

    def __init__(self, folder: Path, crc64: Crc64 | None, *, limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="tmp", dir=folder)
        self.path = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        os.fchmod(descriptor, _MODE & ~_umask(folder))
        self._crc64 = crc64
        self._limit = limit
        self._using = threading.Lock()
        self._size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc = 0

    def expect(self, size: int) -> None:
        """Raises TooLarge for a size that is known beforehand."""
        if size > self._limit:
            raise TooLarge(f"more than {self._limit} bytes; upload larger objects in parts")

    def write(self, chunk: bytes) -> None:
        """Raises TooLarge."""
        self._size += len(chunk)
        self.expect(self._size)
        self._write(chunk)
        self._md5.update(chunk)
        if self._crc64 is not None:
            self._crc = self._crc64(chunk, self._crc)

    def copy(self, source: int, offset: int, size: int) -> None:
        """Write `size` bytes of the open file `source`. Raises as `write`."""
        end = offset + size
        while offset < end:
            chunk = os.pread(source, min(_MIB, end - offset), offset)
            if not chunk:
                raise SystemFault("the file became shorter while it was copied; try again")
            self.write(chunk)
            offset += len(chunk)

    def finish(self, *, md5: bytes | None = None) -> Digests:
        """Make the bytes durable. Raises DigestMismatch when `md5` is not theirs."""
        digests = Digests(
            self._size, self._md5.digest(), None if self._crc64 is None else self._crc
        )
        if md5 is not None and md5 != digests.md5:
            raise DigestMismatch(
                f"the {digests.size} bytes that came have the MD5 {digests.md5.hex()}, not "
                f"{md5.hex()} as announced; send them again"
            )
        self.sync()
        return digests

    def append(self, path: Path) -> None:
        """Write a file whose digests are known, and are not computed again."""
        with path.open("rb", buffering=0) as source:
            while chunk := source.read(_MIB):
                self._write(chunk)

    def sync(self) -> None:
        with self._using:
            os.fsync(self._file.fileno())

    def _write(self, chunk: bytes) -> None:
        with self._using:
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]

    def stat(self) -> os.stat_result:
        return os.fstat(self._file.fileno())

    def close(self) -> None:
        """Remove what was not moved."""
        with self._using:
            self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "UploadFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _umask(folder: Path) -> int:
    """As the bucket's folders have it: asking the process for its own would change it meanwhile."""
    return ~folder.stat().st_mode & 0o777
