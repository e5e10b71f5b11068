"""The buckets themselves: made, removed, counted."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wesemu.errors import BucketNotEmpty, BucketNotFound, BucketTaken, SystemFault
from wesemu.runs.data_directory import IdSource
from wesemu.storage.buckets import FOLDER, INCOMING, RECORDS, UPLOADS, Buckets, remove_empty
from wesemu.storage.checksums import find_crc64
from wesemu.storage.multipart import MultipartUploads
from wesemu.storage.objects import BUCKET, ObjectStore
from wesemu.storage.upload_buffer import is_upload_file
from wesemu.util.text import os_reason


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """`created` is the folder's time: file systems keep no better one everywhere."""

    name: str
    created: datetime


@dataclass(frozen=True, slots=True)
class BucketStatistics:
    """`size` in bytes; `modified` is that of the newest object, or None."""

    objects: int
    size: int
    uploads: int
    modified: datetime | None


class BucketAdmin:
    """The buckets below `root`, whose objects `store` has. Synchronous, as the store is."""

    def __init__(self, root: Path, store: ObjectStore) -> None:
        self._root = root
        self._buckets = Buckets(root)
        self._store = store

    def names(self) -> list[str]:
        return self._buckets.names()

    def all(self) -> list[BucketInfo]:
        """Sorted by name."""
        return [self.info(name) for name in self.names()]

    def info(self, bucket: str) -> BucketInfo:
        """Raises InvalidRequest, BucketNotFound."""
        folder = self._store.folder(bucket)
        return BucketInfo(bucket, datetime.fromtimestamp(folder.stat().st_mtime, UTC))

    def create(self, bucket: str) -> None:
        """A bucket that there is already stays. Raises InvalidRequest, BucketTaken."""
        try:
            self._store.folder(bucket)
        except BucketNotFound:
            try:
                (self._root / bucket).mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise BucketTaken(
                    f"{bucket!r} is a file where buckets are folders; take another name",
                    field=BUCKET,
                ) from error

    def remove(self, bucket: str) -> None:
        """Raises InvalidRequest, BucketNotFound, BucketNotEmpty."""
        folder = self._store.folder(bucket)
        if any(True for _ in self._store.all(bucket)) or _uploads(folder):
            raise BucketNotEmpty(f"the bucket {bucket!r} still holds objects or unfinished uploads")
        if folder.is_symlink():
            raise BucketNotEmpty(f"the bucket {bucket!r} is a link made by hand; remove it by hand")
        _remove_own(folder)
        if not remove_empty(folder):
            raise BucketNotEmpty(f"the bucket {bucket!r} still holds files that are no objects")

    def empty(self) -> None:
        """Remove every bucket with all that is in it; of one that is a link, only the link.

        What lies beside the buckets and cannot be one stays. Raises SystemFault.
        """
        for name in self.names():
            folder = self._root / name
            if folder.is_symlink():
                folder.unlink()
            else:
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    raise SystemFault(
                        f"the bucket {name!r} cannot be removed: {os_reason(error)}; look at its "
                        "files' permissions"
                    ) from error

    def statistics(self, bucket: str) -> BucketStatistics:
        """Raises InvalidRequest, BucketNotFound. Looks at every file."""
        folder = self._store.folder(bucket)
        infos = list(self._store.all(bucket))
        return BucketStatistics(
            objects=len(infos),
            size=sum(info.size for info in infos),
            uploads=_uploads(folder),
            modified=max((info.modified for info in infos), default=None),
        )

    def clean_up(self) -> None:
        """Remove what was on its way in when the last server ended. Before anything is served."""
        for bucket in self.names():
            _remove_unfinished(self._root / bucket)


def _remove_own(folder: Path) -> None:
    """Remove what the server itself keeps in a bucket: of `.wesemu/` nothing that it did not make,
    which may be a data directory."""
    if (folder / FOLDER).is_symlink():
        return
    _remove_unfinished(folder)
    shutil.rmtree(folder / RECORDS, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    incoming = folder / INCOMING
    if incoming.is_symlink() or incoming.parent.is_symlink() or not incoming.is_dir():
        return
    for path in incoming.iterdir():
        if is_upload_file(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def _uploads(folder: Path) -> int:
    uploads = folder / UPLOADS
    return sum(1 for _ in uploads.iterdir()) if uploads.is_dir() else 0


# All that is done with objects, over one folder of buckets.


@dataclass(frozen=True, slots=True)
class ObjectServices:
    store: ObjectStore
    buckets: BucketAdmin
    uploads: MultipartUploads

    @classmethod
    def open(cls, root: Path, ids: IdSource) -> "ObjectServices":
        """Also removes what an earlier server left half-written; only one may use `root`."""
        store = ObjectStore(root, find_crc64())
        buckets = BucketAdmin(root, store)
        buckets.clean_up()
        return cls(store, buckets, MultipartUploads(store, ids))
