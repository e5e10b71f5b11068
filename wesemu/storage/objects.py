"""Objects: files below the buckets' folders, written completely or not at all.

`ObjectStore` is synchronous; callers on the event loop use `open_object`, `open_upload` and
`asyncio.to_thread`. Methods with a bucket and a key raise InvalidRequest for invalid names
(`field` is BUCKET or KEY) and BucketNotFound.
"""

import asyncio
import errno
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from wesemu.errors import InvalidRequest, NotAppendable, ObjectNotFound, WrongPosition
from wesemu.runs.digests import FileDigests
from wesemu.storage.buckets import INCOMING, Buckets, parse, sync_folders
from wesemu.storage.checksums import Crc64, combine_crc64
from wesemu.storage.listing import KeyPage, KeyWalk, page
from wesemu.storage.object_records import KEY, ObjectInfo, ObjectPath, ObjectRecord, hashed
from wesemu.storage.upload_file import Digests, UploadFile, held_open
from wesemu.util.cancellation import open_in_thread

BUCKET = "bucket"
"""The `field` of errors about the bucket's name."""

_LOCKS = 64


class ObjectStore:
    """Reads and writes the objects below `root`.

    `limit` is the largest upload in bytes. Without `crc64`, objects have no CRC. Lock order: the
    lock of the key (file and record), then `_folders_lock`.
    """

    def __init__(self, root: Path, crc64: Crc64 | None, *, limit: int = 5 << 30) -> None:
        self._buckets = Buckets(root)
        self.crc64 = crc64
        self._limit = limit
        self._folders_lock = threading.Lock()
        self._key_locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def folder(self, bucket: str) -> Path:
        return self._buckets.folder(bucket, field=BUCKET)

    def new_upload(self, bucket: str) -> UploadFile:
        """Open a temporary file in the bucket for `put` or `append`."""
        return UploadFile(self.folder(bucket) / INCOMING, self.crc64, limit=self._limit)

    def check(self, bucket: str, key: str, *, overwrite: bool = True) -> None:
        """Raise the errors of `put`. Call it before an upload, which may take long."""
        self._locate(bucket, key).check_overwrite(overwrite)

    def find(self, bucket: str, key: str) -> ObjectInfo:
        """Return the state of the object. Raise ObjectNotFound."""
        target = self._locate(bucket, key)
        info = target.info(target.status())
        if info.has_record or not target.records.has(key):
            return info
        with self._key_lock(target):  # a writer may be between saving the record and the file
            return target.info(target.status())

    def open(self, bucket: str, key: str) -> tuple[ObjectInfo, io.FileIO]:
        """Return the object and its open file, whose bytes survive an overwrite of the key.

        Raise ObjectNotFound.
        """
        target = self._locate(bucket, key)
        opened = _open(target)
        if opened[0].has_record or not target.records.has(key):
            return opened
        opened[1].close()
        with self._key_lock(target):
            return _open(target)

    def put(
        self,
        bucket: str,
        key: str,
        upload: UploadFile,
        record: ObjectRecord,
        *,
        overwrite: bool = True,
    ) -> ObjectInfo:
        """Make a finished upload the object, durably and atomically, and return its info.

        The result describes this write, even if another follows at once. Raise ObjectExists if
        `overwrite` is False and the key exists.
        """
        target = self._locate(bucket, key)
        if key.endswith("/"):
            return self._put_folder(target, upload, record, overwrite)
        with self._key_lock(target):
            info = self._replace(target, upload.path, record, overwrite)
        sync_folders(target.path.parent, target.folder)
        return info

    def prepare(self, url: str, path: Path, digests: FileDigests) -> Callable[[], ObjectInfo]:
        """Return a function that makes `path`, a file in the bucket, the object at `url` (oss://).

        Keeps the record of the earlier object. So a caller that moves the earlier file back
        restores the object with its record. This method and the function raise OSError.
        """
        bucket, key = parse(url)
        target = self._locate(bucket, key)
        record = ObjectRecord(etag=digests.md5.upper(), crc64=digests.crc64)
        with suppress(ObjectNotFound), self._key_lock(target):
            target.records.keep(key, target.status())

        def adopt() -> ObjectInfo:
            with self._key_lock(target):
                return self._replace(target, path, record, overwrite=True)

        return adopt

    def replace_metadata(self, bucket: str, key: str, record: ObjectRecord) -> ObjectInfo:
        """Replace headers and metadata; bytes, digests and mtime stay."""
        target = self._locate(bucket, key)
        with self._key_lock(target):
            status = target.status()
            known = target.info(status).record
            changed = replace(known, headers=record.headers, metadata=record.metadata)
            target.records.save(key, status, changed)
        return target.info_with(status, changed)

    def append(
        self,
        bucket: str,
        key: str,
        position: int,
        upload: UploadFile,
        digests: Digests,
        record: ObjectRecord,
    ) -> ObjectInfo:
        """Append a finished upload to an appendable object, or create one with `record`.

        Raise WrongPosition, NotAppendable.
        """
        target = self._locate(bucket, key)
        if key.endswith("/"):
            raise NotAppendable(f"{key!r} ends with a slash, so it is a folder; append to a file")
        with self._key_lock(target):
            try:
                before = target.info(target.status())
            except ObjectNotFound:
                info = self._start_appendable(target, position, upload, digests, record)
            else:
                return _append_to(target, before, position, upload, digests)
        sync_folders(target.path.parent, target.folder)
        return info

    def remove(self, bucket: str, key: str) -> None:
        """Remove the object, if it exists."""
        target = self._locate(bucket, key)
        with self._key_lock(target), self._folders_lock:
            if key.endswith("/"):
                _remove_folder(target.path)
            elif target.path.is_symlink() or target.path.is_file():
                target.path.unlink()
            target.records.remove(key)

    def page(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", limit: int
    ) -> tuple[KeyPage, list[ObjectInfo]]:
        """Return one page of the bucket's listing and the infos of its keys."""
        walk = self._walk(bucket, prefix, after)
        listing = page(walk, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        return listing, list(self._infos(bucket, listing.keys))

    def all(self, bucket: str) -> Iterator[ObjectInfo]:
        """Yield the objects of the bucket, in the order of their keys."""
        return self._infos(bucket, self._walk(bucket, "", ""))

    @contextmanager
    def _key_lock(self, target: ObjectPath) -> Iterator[None]:
        """Lock the file and the record of a key. Frees a replaced file after the lock."""
        with held_open(target.path), self._key_locks[hash((target.folder, target.key)) % _LOCKS]:
            yield

    def _replace(
        self, target: ObjectPath, new: Path, record: ObjectRecord, overwrite: bool
    ) -> ObjectInfo:
        """Make the file `new` the object. The caller holds the key's lock."""
        status = new.stat()
        with self._folders_lock:
            target.check_overwrite(overwrite)
            target.make_parents()
            # The record first: without its file it matches nothing and is ignored.
            target.records.save(target.key, status, record)
            new.replace(target.path)
        return target.info_with(status, record)

    def _start_appendable(
        self,
        target: ObjectPath,
        position: int,
        upload: UploadFile,
        digests: Digests,
        record: ObjectRecord,
    ) -> ObjectInfo:
        """Create the object by its first append. The caller holds the key's lock."""
        if position:
            raise WrongPosition(
                f"{target.key!r} does not exist; begin at 0, not {position}", length=0
            )
        new = replace(record, kind="Appendable", etag=digests.etag, crc64=digests.crc64)
        return self._replace(target, upload.path, new, overwrite=False)

    def _infos(self, bucket: str, keys: Iterable[str]) -> Iterator[ObjectInfo]:
        for key in keys:
            with suppress(ObjectNotFound):  # removed meanwhile
                yield self.find(bucket, key)

    def _walk(self, bucket: str, prefix: str, after: str) -> KeyWalk:
        def is_object(key: str) -> bool:
            with suppress(ObjectNotFound, InvalidRequest):
                self.find(bucket, key)
                return True
            return False

        return KeyWalk(self.folder(bucket), prefix, after, is_object)

    def _locate(self, bucket: str, key: str) -> ObjectPath:
        folder = self.folder(bucket)
        path = self._buckets.locate(bucket, key.removesuffix("/"), field=KEY)
        return ObjectPath(key, folder, path)

    def _put_folder(
        self, target: ObjectPath, upload: UploadFile, record: ObjectRecord, overwrite: bool
    ) -> ObjectInfo:
        """Create an empty object whose key ends with a slash: a folder in OSS consoles."""
        if upload.stat().st_size:
            raise InvalidRequest(
                f"the key {target.key!r} ends with a slash, so it is a folder and can hold no "
                "bytes",
                field=KEY,
            )
        with self._key_lock(target), self._folders_lock:
            target.check_overwrite(overwrite)
            target.make_folders(target.path)
            status = target.path.stat()
            target.records.save(target.key, status, record)
        sync_folders(target.path, target.folder)
        return target.info_with(status, record)


async def open_object(store: ObjectStore, bucket: str, key: str) -> tuple[ObjectInfo, io.FileIO]:
    """Call `ObjectStore.open` in a thread. A cancelled caller leaves no open file."""
    return await open_in_thread(lambda opened: opened[1].close(), store.open, bucket, key)


@asynccontextmanager
async def open_upload(store: ObjectStore, bucket: str) -> AsyncIterator[UploadFile]:
    """Create a temporary file for an upload. It is removed unless the store keeps it."""
    upload = await open_in_thread(UploadFile.close, store.new_upload, bucket)
    try:
        yield upload
    finally:
        await asyncio.to_thread(upload.close)


def _open(target: ObjectPath) -> tuple[ObjectInfo, io.FileIO]:
    """Return a consistent pair of info and open file. Raise ObjectNotFound."""
    target.status()
    if target.key.endswith("/"):
        return target.info(target.path.stat()), io.FileIO(os.devnull)
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer.
        file = io.FileIO(os.open(target.path, os.O_RDONLY | os.O_NONBLOCK))
    except FileNotFoundError as error:
        raise target.missing() from error
    return target.info(os.fstat(file.fileno())), file


def _append_to(
    target: ObjectPath, before: ObjectInfo, position: int, upload: UploadFile, digests: Digests
) -> ObjectInfo:
    """Append to an existing object. The caller holds the key's lock."""
    if before.record.kind != "Appendable":
        raise NotAppendable(f"{target.key!r} was not created by AppendObject; upload it as a whole")
    if position != before.size:
        raise WrongPosition(
            f"{target.key!r} has {before.size} bytes; append there, not at {position}",
            length=before.size,
        )
    status = upload.append_to(target.path)
    record = _record_after_append(before, digests)
    target.records.save(target.key, status, record)
    return target.info_with(status, record)


def _remove_folder(path: Path) -> None:
    """Remove the folder, unless it is missing or holds other objects."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise


def _record_after_append(before: ObjectInfo, digests: Digests) -> ObjectRecord:
    """Return the record with a new ETag, which is not an MD5 of the whole (OSS promises none)."""
    crc = None
    if before.record.crc64 is not None and digests.crc64 is not None:
        crc = combine_crc64([(before.record.crc64, before.size), (digests.crc64, digests.size)])
    return replace(before.record, etag=hashed(f"{before.etag}{digests.etag}"), crc64=crc)
