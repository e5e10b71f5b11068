"""Objects: files below the buckets' folders, written whole or not at all.

Everything here is synchronous; callers on the event loop use `asyncio.to_thread`. Methods that
take a bucket and a key raise InvalidRequest (its `field` is BUCKET or KEY) for names that cannot
be, and BucketNotFound.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wesemu.errors import InvalidRequest, NotAppendable, ObjectExists, ObjectNotFound, WrongPosition
from wesemu.runs.digests import FileDigests
from wesemu.storage.buckets import INCOMING, RECORDS, Buckets, parse, remove_empty, sync_folders
from wesemu.storage.checksums import Crc64, combine_crc64
from wesemu.storage.listing import KeyPage, KeyWalk, page
from wesemu.storage.upload_buffer import Digests, UploadFile

# What a file alone cannot tell of an object: its digests, headers and metadata.


_WITH_INODES = 5

Kind = Literal["Normal", "Multipart", "Appendable"]


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """`etag` is the upper-case MD5 of the object (or of its parts' MD5, `-` and their number).

    `headers` are those that are sent back as they came (Content-Type, …), `metadata` the user's
    own (names without prefix); `upload` is the id of the multipart upload that made the object.
    """

    kind: Kind = "Normal"
    etag: str | None = None
    crc64: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    upload: str = ""


class MetadataStore:
    """The records of the bucket in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / RECORDS

    def load(self, key: str, stat: os.stat_result) -> ObjectRecord | None:
        """None where there is no record, or one of a file that is no more."""
        try:
            content = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        if not self._fits(content.pop("file", None), key, stat):
            return None
        known = {field.name for field in fields(ObjectRecord)}
        return ObjectRecord(**{name: value for name, value in content.items() if name in known})

    def save(self, key: str, stat: os.stat_result, record: ObjectRecord) -> None:
        """Not made durable: an object whose record is lost is one that was made by hand."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = [*_file(key, stat), stat.st_ino, self._folder.stat().st_ino]
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"file": file, **asdict(record)}))
        temporary.replace(path)

    def has(self, key: str) -> bool:
        """Whether there is a record, be it of this file or an earlier one."""
        return self._path(key).exists()

    def remove(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _fits(self, told: object, key: str, stat: os.stat_result) -> bool:
        """Records of earlier versions have no inodes."""
        if not isinstance(told, list) or told[:3] != _file(key, stat):
            return False
        if key.endswith("/") or len(told) < _WITH_INODES:
            return True
        inode, home = told[3:5]
        return bool(inode == stat.st_ino or home != self._folder.stat().st_ino)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.json"


def _file(key: str, stat: os.stat_result) -> list[str | int]:
    """What tells a file from a later one; a folder's size and time change with what is in it."""
    return [key, 0, 0] if key.endswith("/") else [key, stat.st_size, stat.st_mtime_ns]


# Where an object lies: the file of a key, its record, and the folders on the way.


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
class ObjectPath:
    """`folder` is the bucket's. A key that ends with `/` is a folder that is an object itself."""

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


BUCKET = "bucket"
"""What an error's `field` says when the bucket's name is to blame."""

_LOCKS = 64


class ObjectStore:
    """The objects below `root`, a folder a bucket.

    `limit` is the most bytes that one request may bring. Without `crc64` objects have no CRC.

    A lock for each key keeps a file and its record together; it is taken before `_writing`, which
    guards the folders.
    """

    def __init__(self, root: Path, crc64: Crc64 | None, *, limit: int = 5 << 30) -> None:
        self._buckets = Buckets(root)
        self._crc64 = crc64
        self._limit = limit
        self._writing = threading.Lock()
        self._key_locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def folder(self, bucket: str) -> Path:
        return self._buckets.folder(bucket, field=BUCKET)

    def new_upload(self, bucket: str) -> UploadFile:
        """Where an object's bytes are put until `put` or `append` takes them."""
        return UploadFile(self.folder(bucket) / INCOMING, self._crc64, limit=self._limit)

    def check(self, bucket: str, key: str) -> None:
        """Whether there could be such an object."""
        self._place(bucket, key)

    def find(self, bucket: str, key: str) -> ObjectInfo:
        """Raises ObjectNotFound."""
        place = self._place(bucket, key)
        info = place.info(place.status())
        if info.is_described or not place.records.has(key):
            return info
        with self._alone(place):  # a writer may have been between the record and the file
            return place.info(place.status())

    def open(self, bucket: str, key: str) -> tuple[ObjectInfo, io.FileIO]:
        """The object and its bytes, which stay these whatever happens to the key.

        Raises ObjectNotFound.
        """
        place = self._place(bucket, key)
        opened = _open(place)
        if opened[0].is_described or not place.records.has(key):
            return opened
        opened[1].close()
        with self._alone(place):
            return _open(place)

    def put(
        self,
        bucket: str,
        key: str,
        incoming: UploadFile,
        record: ObjectRecord,
        *,
        overwrite: bool = True,
    ) -> ObjectInfo:
        """Let a finished `incoming` be the object. Raises ObjectExists, if so wished.

        The object is on disk when this returns. Whoever reads the key sees the one before or
        this one, whole. The answer describes what this call wrote, whoever writes meanwhile.
        """
        place = self._place(bucket, key)
        if key.endswith("/"):
            return self._put_folder(place, incoming, record)
        with self._alone(place):
            info = self._replace(place, incoming.path, incoming.stat(), record, overwrite)
        sync_folders(place.path.parent, place.folder)
        return info

    @property
    def crc64(self) -> Crc64 | None:
        return self._crc64

    def prepare(self, url: str, path: Path, digests: FileDigests) -> Callable[[], ObjectInfo]:
        """For the file `path` in the bucket of the oss:// `url`; calling the result makes it the
        object at `url`. Raises OSError, as the result does."""
        bucket, key = parse(url)
        place = self._place(bucket, key)
        record = ObjectRecord(etag=digests.md5.upper(), crc64=digests.crc64)

        def adopt() -> ObjectInfo:
            with self._alone(place):
                return self._replace(place, path, path.stat(), record, overwrite=True)

        return adopt

    def replace_metadata(self, bucket: str, key: str, record: ObjectRecord) -> ObjectInfo:
        """Give an object other headers and metadata; its bytes, digests and time stay."""
        place = self._place(bucket, key)
        with self._alone(place):
            status = place.status()
            known = place.info(status).record
            changed = replace(known, headers=record.headers, metadata=record.metadata)
            place.records.save(key, status, changed)
        return place.described(status, changed)

    def append(
        self,
        bucket: str,
        key: str,
        position: int,
        incoming: UploadFile,
        digests: Digests,
        record: ObjectRecord,
    ) -> ObjectInfo:
        """Write a finished `incoming` at the end of an object that was made by appending.

        `record` holds for a new object only. Raises WrongPosition, NotAppendable.
        """
        place = self._place(bucket, key)
        with self._alone(place):
            try:
                before = place.info(place.status())
            except ObjectNotFound:
                info = self._begin(place, position, incoming, digests, record)
            else:
                return _extend(place, before, position, incoming, digests)
        sync_folders(place.path.parent, place.folder)
        return info

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; that there is none is no fault."""
        place = self._place(bucket, key)
        with self._alone(place), self._writing:
            if key.endswith("/"):
                _remove_folder(place.path)
            elif place.path.is_symlink() or place.path.is_file():
                place.path.unlink()
            place.records.remove(key)

    def page(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", limit: int
    ) -> tuple[KeyPage, list[ObjectInfo]]:
        """A part of the bucket's listing, and what its keys' objects are."""
        walk = self._walk(bucket, prefix, after)
        found = page(walk, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        return found, list(self._infos(bucket, found.keys))

    def all(self, bucket: str) -> Iterator[ObjectInfo]:
        return self._infos(bucket, self._walk(bucket, "", ""))

    def _alone(self, place: ObjectPath) -> threading.Lock:
        """Only one thread at a time changes the file and the record of a key."""
        return self._key_locks[hash((place.folder, place.key)) % _LOCKS]

    def _replace(
        self,
        place: ObjectPath,
        new: Path,
        status: os.stat_result,
        record: ObjectRecord,
        overwrite: bool,
    ) -> ObjectInfo:
        """Let the file `new` be the object. The caller holds the key's lock."""
        with self._writing:
            if not overwrite and os.path.lexists(place.path):
                raise ObjectExists(f"{place.key!r} exists, and the request forbids to overwrite it")
            place.make_room()
            place.records.save(place.key, status, record)
            new.replace(place.path)
        return place.described(status, record)

    def _begin(
        self,
        place: ObjectPath,
        position: int,
        incoming: UploadFile,
        digests: Digests,
        record: ObjectRecord,
    ) -> ObjectInfo:
        """The first addition. The caller holds the key's lock."""
        if position:
            raise WrongPosition(
                f"{place.key!r} does not exist; begin at 0, not {position}", length=0
            )
        new = replace(record, kind="Appendable", etag=digests.etag, crc64=digests.crc64)
        return self._replace(place, incoming.path, incoming.stat(), new, overwrite=False)

    def _infos(self, bucket: str, keys: Iterable[str]) -> Iterator[ObjectInfo]:
        for key in keys:
            with suppress(ObjectNotFound):  # removed meanwhile
                yield self.find(bucket, key)

    def _walk(self, bucket: str, prefix: str, after: str) -> KeyWalk:
        def is_object(key: str) -> bool:
            try:
                self.find(bucket, key)
            except (ObjectNotFound, InvalidRequest):
                return False
            return True

        return KeyWalk(self.folder(bucket), prefix, after, is_object)

    def _place(self, bucket: str, key: str) -> ObjectPath:
        folder = self.folder(bucket)
        path = self._buckets.locate(bucket, key.removesuffix("/"), field=KEY)
        return ObjectPath(key, folder, path)

    def _put_folder(
        self, place: ObjectPath, incoming: UploadFile, record: ObjectRecord
    ) -> ObjectInfo:
        """An empty object whose key ends with a slash: what consoles call a folder."""
        if incoming.stat().st_size:
            raise InvalidRequest(
                f"the key {place.key!r} ends with a slash, so it is a folder and can hold no bytes",
                field=KEY,
            )
        with self._alone(place), self._writing:
            place.make_folders(place.path)
            status = place.path.stat()
            place.records.save(place.key, status, record)
        sync_folders(place.path, place.folder)
        return place.described(status, record)


def _open(place: ObjectPath) -> tuple[ObjectInfo, io.FileIO]:
    """What `place` has and its open file, which are of one moment. Raises ObjectNotFound."""
    place.status()
    if place.key.endswith("/"):
        return place.info(place.path.stat()), io.FileIO(os.devnull)
    try:
        # O_NONBLOCK: opening a pipe that somebody left would wait for its other end.
        file = io.FileIO(os.open(place.path, os.O_RDONLY | os.O_NONBLOCK))
    except FileNotFoundError as error:
        raise place.missing() from error
    return place.info(os.fstat(file.fileno())), file


def _extend(
    place: ObjectPath, before: ObjectInfo, position: int, incoming: UploadFile, digests: Digests
) -> ObjectInfo:
    """A further addition. The caller holds the key's lock."""
    if before.record.kind != "Appendable":
        raise NotAppendable(f"{place.key!r} was not made by appending; upload it anew instead")
    if position != before.size:
        raise WrongPosition(
            f"{place.key!r} has {before.size} bytes; go on there, not at {position}",
            length=before.size,
        )
    status = _append(place.path, incoming.path)
    record = _appended(before, digests)
    place.records.save(place.key, status, record)
    return place.described(status, record)


def _remove_folder(path: Path) -> None:
    """Unless it holds other objects, or was never there."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise


def _append(path: Path, addition: Path) -> os.stat_result:
    """All of it or nothing, unless the machine fails meanwhile."""
    with path.open("r+b") as file, addition.open("rb") as source:
        size = file.seek(0, os.SEEK_END)
        try:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.ftruncate(file.fileno(), size)
            raise
        return os.fstat(file.fileno())


def _appended(before: ObjectInfo, digests: Digests) -> ObjectRecord:
    """The ETag is new with every addition, but no MD5 of the whole: OSS promises none either."""
    crc = None
    if before.record.crc64 is not None and digests.crc64 is not None:
        crc = combine_crc64([(before.record.crc64, before.size), (digests.crc64, digests.size)])
    text = f"{before.etag}{digests.etag}".encode()
    etag = hashlib.md5(text, usedforsecurity=False).hexdigest().upper()
    return replace(before.record, etag=etag, crc64=crc)
