"""Objects: files below the buckets' folders, written whole or not at all.

Everything here is synchronous; callers on the event loop use `asyncio.to_thread`. Methods that
take a bucket and a key raise InvalidRequest (its `field` is BUCKET or KEY) for names that cannot
be, and BucketNotFound.
"""

import hashlib
import io
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from wesemu.errors import InvalidRequest, ObjectNotFound
from wesemu.objects.buckets import Buckets
from wesemu.objects.crc64 import Crc64, join
from wesemu.objects.errors import NotAppendable, ObjectExists, WrongPosition
from wesemu.objects.hidden import INCOMING, is_hidden, sync_folders
from wesemu.objects.incoming import Digests, Incoming
from wesemu.objects.listing import KeyPage, KeyWalk, page
from wesemu.objects.records import ObjectRecord, Records

BUCKET = "bucket"
KEY = "key"


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


@dataclass(frozen=True, slots=True)
class _Place:
    key: str
    folder: Path
    path: Path

    @property
    def records(self) -> Records:
        return Records(self.folder)

    def info(self, status: os.stat_result) -> ObjectInfo:
        record = self.records.load(self.key, status) or ObjectRecord()
        return ObjectInfo(
            self.key,
            0 if self.key.endswith("/") else status.st_size,
            datetime.fromtimestamp(status.st_mtime, UTC),
            record.etag or _etag_of_file(status),
            record,
        )


class ObjectStore:
    """The objects below `root`, a folder a bucket.

    `limit` is the most bytes that one request may bring. Without `crc64` objects have no CRC.
    """

    def __init__(self, root: Path, crc64: Crc64 | None, *, limit: int = 5 << 30) -> None:
        self._buckets = Buckets(root)
        self._crc64 = crc64
        self._limit = limit
        self._writing = threading.Lock()

    def folder(self, bucket: str) -> Path:
        return self._buckets.folder(bucket, field=BUCKET)

    def incoming(self, bucket: str, *, limit: int | None = None) -> Incoming:
        """Where an object's bytes are put until `put` or `append` takes them."""
        return Incoming(
            self.folder(bucket) / INCOMING, self._crc64, limit=self._limit if limit is None else limit
        )

    def find(self, bucket: str, key: str) -> ObjectInfo:
        """Raises ObjectNotFound."""
        place = self._place(bucket, key)
        return place.info(_existing(place))

    def open(self, bucket: str, key: str) -> tuple[ObjectInfo, io.FileIO]:
        """The object and its bytes, which stay these whatever happens to the key.

        Raises ObjectNotFound.
        """
        place = self._place(bucket, key)
        _existing(place)
        if key.endswith("/"):
            file = io.FileIO(os.devnull)
            return place.info(place.path.stat()), file
        try:
            # O_NONBLOCK: opening a pipe that somebody left would wait for its other end.
            file = io.FileIO(os.open(place.path, os.O_RDONLY | os.O_NONBLOCK))
        except FileNotFoundError as error:
            raise _missing(place) from error
        return place.info(os.fstat(file.fileno())), file

    def put(
        self,
        bucket: str,
        key: str,
        incoming: Incoming,
        record: ObjectRecord,
        *,
        overwrite: bool = True,
    ) -> ObjectInfo:
        """Let a finished `incoming` be the object. Raises ObjectExists, if so wished.

        The object is on disk when this returns. Whoever reads the key sees the one before or
        this one, whole.
        """
        place = self._place(bucket, key)
        if key.endswith("/"):
            return self._put_folder(place, incoming, record)
        with self._writing:
            if not overwrite and os.path.lexists(place.path):
                raise ObjectExists(f"{key!r} exists, and the request forbids to overwrite it")
            _make_room(place)
            status = incoming.stat()
            place.records.save(key, status, record)
            incoming.path.replace(place.path)
        sync_folders(place.path.parent, place.folder)
        return place.info(status)

    def describe(self, bucket: str, key: str, record: ObjectRecord) -> ObjectInfo:
        """Give an object other headers and metadata; its bytes, digests and time stay."""
        place = self._place(bucket, key)
        with self._writing:
            status = _existing(place)
            known = place.info(status).record
            changed = replace(known, headers=record.headers, metadata=record.metadata)
            place.records.save(key, status, changed)
        return place.info(status)

    def append(
        self,
        bucket: str,
        key: str,
        position: int,
        incoming: Incoming,
        digests: Digests,
        record: ObjectRecord,
    ) -> ObjectInfo:
        """Write a finished `incoming` at the end of an object that was made by appending.

        `record` holds for a new object only. Raises WrongPosition, NotAppendable.
        """
        place = self._place(bucket, key)
        try:
            before = self.find(bucket, key)
        except ObjectNotFound:
            if position:
                raise WrongPosition(
                    f"{key!r} does not exist; begin at 0, not {position}", length=0
                ) from None
            new = replace(record, kind="Appendable", etag=digests.etag, crc64=digests.crc64)
            return self.put(bucket, key, incoming, new, overwrite=False)
        if before.record.kind != "Appendable":
            raise NotAppendable(f"{key!r} was not made by appending; upload it anew instead")
        with self._writing:
            status = _existing(place)
            if not position == status.st_size == before.size:
                raise WrongPosition(
                    f"{key!r} has {status.st_size} bytes; go on there, not at {position}",
                    length=status.st_size,
                )
            status = _append(place.path, incoming.path)
            place.records.save(key, status, _appended(before, digests))
        return place.info(status)

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; that there is none is no fault."""
        place = self._place(bucket, key)
        with self._writing:
            if key.endswith("/"):
                with suppress(OSError):  # it holds other objects, or was never there
                    place.path.rmdir()
            elif place.path.is_symlink() or place.path.is_file():
                place.path.unlink()
            place.records.remove(key)

    def page(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", limit: int
    ) -> tuple[KeyPage, list[ObjectInfo]]:
        """A part of the bucket's listing, and what its keys' objects are."""
        walk = self._walk(bucket, prefix, after)
        found = page(walk, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        infos = []
        for key in found.keys:
            with suppress(ObjectNotFound):  # removed meanwhile
                infos.append(self.find(bucket, key))
        return found, infos

    def keys(self, bucket: str) -> Iterator[str]:
        return iter(self._walk(bucket, "", ""))

    def _walk(self, bucket: str, prefix: str, after: str) -> KeyWalk:
        def is_object(key: str) -> bool:
            try:
                self.find(bucket, key)
            except (ObjectNotFound, InvalidRequest):
                return False
            return True

        return KeyWalk(self.folder(bucket), prefix, after, is_object)

    def _place(self, bucket: str, key: str) -> _Place:
        folder = self.folder(bucket)
        if is_hidden(key):
            raise InvalidRequest(f"the name {key!r} is kept for the server's own files", field=KEY)
        path = self._buckets.locate(bucket, key.removesuffix("/"), field=KEY)
        return _Place(key, folder, path)

    def _put_folder(self, place: _Place, incoming: Incoming, record: ObjectRecord) -> ObjectInfo:
        """An empty object whose key ends with a slash: what consoles call a folder."""
        if incoming.stat().st_size:
            raise InvalidRequest(
                f"the key {place.key!r} ends with a slash, so it is a folder and can hold no bytes",
                field=KEY,
            )
        with self._writing:
            _make_folders(place, place.path)
            status = place.path.stat()
            place.records.save(place.key, status, record)
        sync_folders(place.path, place.folder)
        return place.info(status)


def _existing(place: _Place) -> os.stat_result:
    try:
        status = place.path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(place) from error
    if place.key.endswith("/"):
        known = stat.S_ISDIR(status.st_mode) and place.records.load(place.key, status) is not None
    else:
        known = stat.S_ISREG(status.st_mode)
    if not known:
        raise _missing(place)
    return status


def _missing(place: _Place) -> ObjectNotFound:
    return ObjectNotFound(f"the bucket {place.folder.name!r} has no object {place.key!r}")


def _make_room(place: _Place) -> None:
    """Folders for a file, and none in its stead: empty ones that removed objects left may go."""
    _make_folders(place, place.path.parent)
    if not place.path.is_dir() or place.path.is_symlink():
        return
    if any(True for _ in _files(place.path)) or place.records.load(
        f"{place.key}/", place.path.stat()
    ):
        raise InvalidRequest(
            f"{place.key!r} is a folder here, since there are objects {place.key + '/'}…; "
            "a file system cannot have both",
            field=KEY,
        )
    shutil.rmtree(place.path)


def _files(folder: Path) -> Iterator[str]:
    for _, _, files in os.walk(folder):
        yield from files


def _make_folders(place: _Place, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidRequest(
            f"{place.key!r} cannot be written: a part of the path is an object already, and a "
            "file system cannot have objects below it",
            field=KEY,
        ) from error


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
    crc = before.record.crc64
    if crc is not None and digests.crc64 is not None:
        crc = join([(crc, before.size), (digests.crc64, digests.size)])
    text = f"{before.etag}{digests.etag}".encode()
    etag = hashlib.md5(text, usedforsecurity=False).hexdigest().upper()
    return replace(before.record, etag=etag, crc64=crc)


def _etag_of_file(status: os.stat_result) -> str:
    text = f"{status.st_size} {status.st_mtime_ns}".encode()
    return f"{hashlib.md5(text, usedforsecurity=False).hexdigest().upper()}-1"
