"""Buckets as a whole: create, remove, count and clean up; and the object services of a server."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from wesemu.errors import BucketNotEmpty, BucketNotFound, BucketTaken, SystemFault
from wesemu.runs.data_directory import IdSource
from wesemu.storage.buckets import FOLDER, INCOMING, RECORDS, UPLOADS, Buckets, remove_empty
from wesemu.storage.checksums import find_crc64
from wesemu.storage.multipart import MultipartUploads, is_incomplete
from wesemu.storage.objects import BUCKET, ObjectStore
from wesemu.storage.upload_file import is_upload_file
from wesemu.util.text import os_reason

log = structlog.get_logger("wesemu.buckets")


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """A bucket; `created` is the folder's mtime, since creation times are not portable."""

    name: str
    created: datetime


@dataclass(frozen=True, slots=True)
class BucketStatistics:
    """Counts of a bucket; `size` is in bytes, `modified` that of the newest object or None."""

    objects: int
    size: int
    uploads: int
    modified: datetime | None


class BucketAdmin:
    """Creates and removes the buckets below `root`. Synchronous, as the object store."""

    def __init__(self, root: Path, store: ObjectStore) -> None:
        self._root = root
        self._buckets = Buckets(root)
        self._store = store

    def names(self) -> list[str]:
        return self._buckets.names()

    def all(self) -> list[BucketInfo]:
        """Return all buckets, sorted by name."""
        return [self.info(name) for name in self.names()]

    def info(self, bucket: str) -> BucketInfo:
        """Return the bucket. Raise InvalidRequest, BucketNotFound."""
        folder = self._store.folder(bucket)
        return BucketInfo(bucket, datetime.fromtimestamp(folder.stat().st_mtime, UTC))

    def create(self, bucket: str) -> None:
        """Create the bucket, unless it exists. Raise InvalidRequest, BucketTaken."""
        try:
            self._store.folder(bucket)
        except BucketNotFound:
            try:
                (self._root / bucket).mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise BucketTaken(
                    f"{bucket!r} is a file in the folder of the buckets; choose another name",
                    field=BUCKET,
                ) from error

    def remove(self, bucket: str) -> None:
        """Remove an empty bucket. Raise InvalidRequest, BucketNotFound, BucketNotEmpty."""
        folder = self._store.folder(bucket)
        if any(True for _ in self._store.all(bucket)) or _uploads(folder):
            raise BucketNotEmpty(f"the bucket {bucket!r} still holds objects or unfinished uploads")
        if folder.is_symlink():
            raise BucketNotEmpty(f"the bucket {bucket!r} is a link made by hand; remove it by hand")
        _remove_server_files(folder)
        if not remove_empty(folder):
            raise BucketNotEmpty(f"the bucket {bucket!r} still holds files that are not objects")

    def empty(self) -> None:
        """Remove every bucket and its contents; for a bucket that is a link, remove the link only.

        Other files below the root stay. Raise SystemFault if the file system refuses.
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
                        f"the bucket {name!r} cannot be removed: {os_reason(error)}; check the "
                        "permissions of its files"
                    ) from error

    def statistics(self, bucket: str) -> BucketStatistics:
        """Count the bucket's contents. Reads every file's status.

        Raise InvalidRequest, BucketNotFound.
        """
        folder = self._store.folder(bucket)
        infos = list(self._store.all(bucket))
        return BucketStatistics(
            objects=len(infos),
            size=sum(info.size for info in infos),
            uploads=_uploads(folder),
            modified=max((info.modified for info in infos), default=None),
        )

    def clean_up(self) -> None:
        """Remove unfinished uploads of an earlier server. Call it before serving requests.

        Logs buckets that it cannot read or write, and goes on.
        """
        for bucket in self.names():
            try:
                _remove_unfinished(self._root / bucket)
                _remove_incomplete(self._root / bucket)
            except OSError as error:
                log.warning("bucket is not accessible", bucket=bucket, error=os_reason(error))


def _remove_server_files(folder: Path) -> None:
    """Remove the server's own files from a bucket.

    Keeps other contents of `.wesemu/`, which may be a data directory.
    """
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


def _remove_incomplete(folder: Path) -> None:
    """Remove multipart uploads that an earlier server had not made, or removed, completely."""
    uploads = folder / UPLOADS
    if uploads.is_symlink() or uploads.parent.is_symlink() or not uploads.is_dir():
        return
    for path in uploads.iterdir():
        if is_incomplete(path) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _uploads(folder: Path) -> int:
    uploads = folder / UPLOADS
    return sum(1 for _ in uploads.iterdir()) if uploads.is_dir() else 0


@dataclass(frozen=True, slots=True)
class ObjectServices:
    """The services behind the OSS API, for one folder of buckets."""

    store: ObjectStore
    buckets: BucketAdmin
    uploads: MultipartUploads

    @classmethod
    def open(cls, root: Path, ids: IdSource) -> "ObjectServices":
        """Open the buckets below `root` and remove unfinished uploads of an earlier server.

        Only one server at a time may use `root`.
        """
        store = ObjectStore(root, find_crc64())
        buckets = BucketAdmin(root, store)
        buckets.clean_up()
        return cls(store, buckets, MultipartUploads(store, ids))
