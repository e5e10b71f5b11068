"""Where an object lies: the file of a key, its record, and the folders on the way."""

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wesemu.errors import InvalidRequest, ObjectNotFound
from wesemu.objects.hidden import remove_empty
from wesemu.objects.records import ObjectRecord, Records

KEY = "key"
"""What an error's `field` says when the key is to blame."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as it is now.

    Without a record that fits the file, the ETag is made of its size and time and ends with
    `-1`, as of something that is no MD5, and `record` tells nothing.
    """

    key: str
    size: int
    modified: datetime
    etag: str
    record: ObjectRecord

    @property
    def is_described(self) -> bool:
        """Whether a record that fits the file was found."""
        return self.record.etag is not None


@dataclass(frozen=True, slots=True)
class Place:
    """`folder` is the bucket's. A key that ends with `/` is a folder that is an object itself."""

    key: str
    folder: Path
    path: Path

    @property
    def records(self) -> Records:
        return Records(self.folder)

    def status(self) -> os.stat_result:
        """Raises ObjectNotFound."""
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

    def info(self, status: os.stat_result) -> ObjectInfo:
        return self.described(status, self.records.load(self.key, status) or ObjectRecord())

    def described(self, status: os.stat_result, record: ObjectRecord) -> ObjectInfo:
        """What the file of `status` is with this record, whatever the disk has by now."""
        return ObjectInfo(
            self.key,
            0 if self.key.endswith("/") else status.st_size,
            datetime.fromtimestamp(status.st_mtime, UTC),
            record.etag or _etag_of_file(status),
            record,
        )

    def missing(self) -> ObjectNotFound:
        return ObjectNotFound(f"the bucket {self.folder.name!r} has no object {self.key!r}")

    def make_room(self) -> None:
        """Folders for a file, and none in its stead: empty ones that objects left behind may go.

        Raises InvalidRequest where other objects are in the way.
        """
        self.make_folders(self.path.parent)
        if not self.path.is_dir() or self.path.is_symlink():
            return
        is_object = self.records.load(f"{self.key}/", self.path.stat()) is not None
        if is_object or not remove_empty(self.path):
            raise InvalidRequest(
                f"{self.key!r} is a folder here, since there are objects {self.key + '/'!r}…; "
                "a file system cannot have both",
                field=KEY,
            )

    def make_folders(self, folder: Path) -> None:
        """Raises InvalidRequest where another object is in the way."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidRequest(
                f"{self.key!r} cannot be written: a part of the path is an object already, and a "
                "file system cannot have objects below it",
                field=KEY,
            ) from error


def _etag_of_file(status: os.stat_result) -> str:
    text = f"{status.st_size} {status.st_mtime_ns}".encode()
    return f"{hashlib.md5(text, usedforsecurity=False).hexdigest().upper()}-1"
