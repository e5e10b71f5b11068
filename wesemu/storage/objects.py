"""Objects: files below the buckets' folders, written completely or not at all.

The parts of this module are the records with digests and metadata, the paths of objects, and the
store. Everything is synchronous; callers on the event loop use `asyncio.to_thread`. Methods with a
bucket and a key raise InvalidRequest for invalid names (`field` is BUCKET or KEY) and
BucketNotFound.
"""

import errno
import hashlib
import io
import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wesemu.errors import InvalidRequest, NotAppendable, ObjectExists, ObjectNotFound, WrongPosition
from wesemu.runs.digests import FileDigests
from wesemu.storage.buckets import INCOMING, RECORDS, Buckets, parse, remove_empty, sync_folders
from wesemu.storage.checksums import Crc64, combine_crc64
from wesemu.storage.listing import KeyPage, KeyWalk, page
from wesemu.storage.upload_buffer import Digests, UploadFile, held_open

# Records: digests and metadata of objects, which the files themselves do not contain.

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


# Paths: the file of a key, its record and its folders.

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

    def check_overwrite(self, allowed: bool) -> None:
        """Raise ObjectExists if the object exists, unless `allowed`."""
        with suppress(ObjectNotFound):
            if not allowed and self.status():
                raise ObjectExists(f"{self.key!r} exists, and the request forbids overwriting it")

    def info(self, status: os.stat_result) -> ObjectInfo:
        return self.info_with(status, self.records.load(self.key, status) or ObjectRecord())

    def info_with(self, status: os.stat_result, record: ObjectRecord) -> ObjectInfo:
        """Return the info for a known status and record, without reading the disk."""
        return ObjectInfo(
            self.key,
            0 if self.key.endswith("/") else status.st_size,
            datetime.fromtimestamp(status.st_mtime, UTC),
            record.etag or f"{_hashed(f'{status.st_size} {status.st_mtime_ns}')}-1",
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


def _hashed(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()


# The store.

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
        """Raise the errors of `put`: before an upload, which can take long."""
        self._locate(bucket, key).check_overwrite(overwrite)

    def find(self, bucket: str, key: str) -> ObjectInfo:
        """Raises ObjectNotFound."""
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
        """Return a function that makes `path`, a file in the bucket, the object at the oss://
        `url`.

        A caller that puts the earlier file back restores the earlier object with its record. Both
        raise OSError.
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
        return self._infos(bucket, self._walk(bucket, "", ""))

    @contextmanager
    def _key_lock(self, target: ObjectPath) -> Iterator[None]:
        """Lock the file and the record of a key. A replaced file is freed later."""
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
    return replace(before.record, etag=_hashed(f"{before.etag}{digests.etag}"), crc64=crc)
