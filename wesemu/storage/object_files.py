"""The files of objects: records with digests and metadata, paths of keys, uploads in progress.

An upload is a temporary file in the bucket with the digests of its bytes. Everything is
synchronous.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wesemu.errors import (
    DigestMismatch,
    InvalidRequest,
    ObjectExists,
    ObjectNotFound,
    SystemFault,
    TooLarge,
)
from wesemu.storage.buckets import RECORDS, remove_empty
from wesemu.storage.checksums import Crc64

# Uploads in progress

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


# Records: digests and metadata of objects, which the files themselves do not contain

_STAMP_LENGTH = 5
_EARLIER = ".earlier"

Kind = Literal["Normal", "Multipart", "Appendable"]


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """Digests and metadata of an object.

    `etag` is the upper-case MD5 of the object; for multipart uploads the MD5 of the parts' MD5s,
    `-` and the number of parts. `headers` are returned unchanged (Content-Type, …). `metadata` is
    the user's own, without prefix. `upload` is the id of the multipart upload.
    """

    kind: Kind = "Normal"
    etag: str | None = None
    crc64: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    upload: str = ""


class MetadataStore:
    """Stores the records of the bucket in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / RECORDS

    def load(self, key: str, stat: os.stat_result) -> ObjectRecord | None:
        """Return the record, or None if there is none or the file has changed since."""
        path = self._path(key)
        for each in (path, path.with_suffix(_EARLIER)):
            try:
                content = json.loads(each.read_bytes())
            except FileNotFoundError:
                return None
            except (OSError, ValueError):
                continue
            if self._matches(content.pop("file", None), key, stat):
                known = {field.name for field in fields(ObjectRecord)}
                return ObjectRecord(**{n: value for n, value in content.items() if n in known})
        return None

    def save(self, key: str, stat: os.stat_result, record: ObjectRecord) -> None:
        """Save the record without syncing it.

        If a crash loses the record, the file counts as put there by hand.
        """
        self._write(self._path(key), key, stat, record)

    def keep(self, key: str, stat: os.stat_result) -> None:
        """Keep the record of the current file, in case its replacement is undone."""
        if (record := self.load(key, stat)) is not None:
            self._write(self._path(key).with_suffix(_EARLIER), key, stat, record)

    def _write(self, path: Path, key: str, stat: os.stat_result, record: ObjectRecord) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = [*_stamp(key, stat), stat.st_ino, self._folder.stat().st_ino]
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"file": file, **asdict(record)}))
        temporary.replace(path)

    def has(self, key: str) -> bool:
        """Return True if there is a record, of this file or an earlier one."""
        return self._path(key).exists()

    def remove(self, key: str) -> None:
        for path in (self._path(key), self._path(key).with_suffix(_EARLIER)):
            path.unlink(missing_ok=True)

    def _matches(self, saved: object, key: str, stat: os.stat_result) -> bool:
        """Return True if the saved stamp is that of this file."""
        if not isinstance(saved, list) or saved[:3] != _stamp(key, stat):
            return False
        if key.endswith("/") or len(saved) < _STAMP_LENGTH:  # earlier versions saved no inodes
            return True
        inode, folder_inode = saved[3:5]
        # The copy of a whole bucket has other inodes, and its records remain valid.
        return bool(inode == stat.st_ino or folder_inode != self._folder.stat().st_ino)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.json"


def _stamp(key: str, stat: os.stat_result) -> list[str | int]:
    """Return key, size and mtime. Those of a folder change with its contents and are left out."""
    return [key, 0, 0] if key.endswith("/") else [key, stat.st_size, stat.st_mtime_ns]


# Paths: the file of a key, its record and its folders

KEY = "key"
"""The `field` of errors about the key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The current state of an object.

    Without a matching record, `record` is empty, and the ETag is a hash of size and mtime with the
    suffix `-1`, so clients do not mistake it for an MD5.
    """

    key: str
    size: int
    modified: datetime
    etag: str
    record: ObjectRecord

    @property
    def has_record(self) -> bool:
        """Return True if a record of this file exists."""
        return self.record.etag is not None


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """The path of a key in the bucket `folder`; a key with a final `/` is a folder object."""

    key: str
    folder: Path
    path: Path

    @property
    def records(self) -> MetadataStore:
        return MetadataStore(self.folder)

    def status(self) -> os.stat_result:
        """Return the status of the file. Raise ObjectNotFound."""
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.missing() from error
        if self.key.endswith("/"):
            known = stat.S_ISDIR(status.st_mode) and self.records.load(self.key, status) is not None
        else:
            known = stat.S_ISREG(status.st_mode)
        if not known:
            raise self.missing()
        return status

    def check_overwrite(self, allowed: bool) -> None:
        """Raise ObjectExists if the object exists, unless `allowed`."""
        with suppress(ObjectNotFound):
            if not allowed and self.status():
                raise ObjectExists(f"{self.key!r} exists, and the request forbids overwriting it")

    def info(self, status: os.stat_result) -> ObjectInfo:
        """Return the info for a known status; reads the record."""
        return self.info_with(status, self.records.load(self.key, status) or ObjectRecord())

    def info_with(self, status: os.stat_result, record: ObjectRecord) -> ObjectInfo:
        """Return the info for a known status and record, without reading the disk."""
        return ObjectInfo(
            self.key,
            0 if self.key.endswith("/") else status.st_size,
            datetime.fromtimestamp(status.st_mtime, UTC),
            record.etag or f"{hashed(f'{status.st_size} {status.st_mtime_ns}')}-1",
            record,
        )

    def missing(self) -> ObjectNotFound:
        return ObjectNotFound(f"the bucket {self.folder.name!r} has no object {self.key!r}")

    def make_parents(self) -> None:
        """Create the folders for the file, and remove an empty folder at its path.

        Raise InvalidRequest if other objects are in the way.
        """
        self.make_folders(self.path.parent)
        if not self.path.is_dir() or self.path.is_symlink():
            return
        is_object = self.records.load(f"{self.key}/", self.path.stat()) is not None
        if is_object or not remove_empty(self.path):
            raise InvalidRequest(
                f"{self.key!r} is a folder, because there are objects {self.key + '/'!r}…; "
                "a file system cannot have both",
                field=KEY,
            )

    def make_folders(self, folder: Path) -> None:
        """Create the folders. Raise InvalidRequest if an object is in the way."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidRequest(
                f"{self.key!r} cannot be written: a part of the path is an object already, and a "
                "file system cannot have objects below it",
                field=KEY,
            ) from error


def hashed(text: str) -> str:
    """Return the MD5 of a text in upper-case hexadecimal, as in ETags."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()
