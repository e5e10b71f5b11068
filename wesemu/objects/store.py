"""Objects: files below the buckets' folders, written whole or not at all.

Everything here is synchronous; callers on the event loop use `asyncio.to_thread`. Methods that
take a bucket and a key raise InvalidRequest (its `field` is BUCKET or KEY) for names that cannot
be, and BucketNotFound.
"""

import errno
import hashlib
import io
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from wesemu.errors import InvalidRequest, ObjectNotFound
from wesemu.objects.buckets import Buckets
from wesemu.objects.crc64 import Crc64, join
from wesemu.objects.errors import NotAppendable, ObjectExists, WrongPosition
from wesemu.objects.hidden import INCOMING, is_hidden, sync_folders
from wesemu.objects.incoming import Digests, Incoming
from wesemu.objects.listing import KeyPage, KeyWalk, page
from wesemu.objects.places import KEY, ObjectInfo, Place
from wesemu.objects.records import ObjectRecord

BUCKET = "bucket"
"""What an error's `field` says when the bucket's name is to blame."""


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

    def incoming(self, bucket: str) -> Incoming:
        """Where an object's bytes are put until `put` or `append` takes them."""
        return Incoming(self.folder(bucket) / INCOMING, self._crc64, limit=self._limit)

    def check(self, bucket: str, key: str) -> None:
        """Whether there could be such an object."""
        self._place(bucket, key)

    def find(self, bucket: str, key: str) -> ObjectInfo:
        """Raises ObjectNotFound."""
        place = self._place(bucket, key)
        return place.info(place.status())

    def open(self, bucket: str, key: str) -> tuple[ObjectInfo, io.FileIO]:
        """The object and its bytes, which stay these whatever happens to the key.

        Raises ObjectNotFound.
        """
        place = self._place(bucket, key)
        place.status()
        if key.endswith("/"):
            file = io.FileIO(os.devnull)
            return place.info(place.path.stat()), file
        try:
            # O_NONBLOCK: opening a pipe that somebody left would wait for its other end.
            file = io.FileIO(os.open(place.path, os.O_RDONLY | os.O_NONBLOCK))
        except FileNotFoundError as error:
            raise place.missing() from error
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
            place.make_room()
            status = incoming.stat()
            place.records.save(key, status, record)
            incoming.path.replace(place.path)
        sync_folders(place.path.parent, place.folder)
        return place.info(status)

    def describe(self, bucket: str, key: str, record: ObjectRecord) -> ObjectInfo:
        """Give an object other headers and metadata; its bytes, digests and time stay."""
        place = self._place(bucket, key)
        with self._writing:
            status = place.status()
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
            status = place.status()
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

    def _place(self, bucket: str, key: str) -> Place:
        folder = self.folder(bucket)
        if is_hidden(key):
            raise InvalidRequest(f"the name {key!r} is kept for the server's own files", field=KEY)
        path = self._buckets.locate(bucket, key.removesuffix("/"), field=KEY)
        return Place(key, folder, path)

    def _put_folder(self, place: Place, incoming: Incoming, record: ObjectRecord) -> ObjectInfo:
        """An empty object whose key ends with a slash: what consoles call a folder."""
        if incoming.stat().st_size:
            raise InvalidRequest(
                f"the key {place.key!r} ends with a slash, so it is a folder and can hold no bytes",
                field=KEY,
            )
        with self._writing:
            place.make_folders(place.path)
            status = place.path.stat()
            place.records.save(place.key, status, record)
        sync_folders(place.path, place.folder)
        return place.info(status)


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
        crc = join([(before.record.crc64, before.size), (digests.crc64, digests.size)])
    text = f"{before.etag}{digests.etag}".encode()
    etag = hashlib.md5(text, usedforsecurity=False).hexdigest().upper()
    return replace(before.record, etag=etag, crc64=crc)
