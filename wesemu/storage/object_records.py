"""Records of objects, with their digests and metadata, and the paths of keys. Synchronous."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wesemu.errors import (
    InvalidRequest,
    ObjectExists,
    ObjectNotFound,
)
from wesemu.storage.buckets import RECORDS, remove_empty

# Records: digests and metadata of objects, which the files themselves do not contain

_STAMP_LENGTH = 5
_EARLIER = ".earlier"

Kind = Literal["Normal", "Multipart", "Appendable"]


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """Digests and metadata of an object.

    `etag` is the upper-case MD5 of the object; for multipart uploads the MD5 of the parts' ETags,
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
