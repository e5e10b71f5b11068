"""Buckets as a whole: create, remove, count, clean up and seed; the object services of a server.

A seed is a folder whose folders become buckets and whose FASTAs become references. Two new servers
with one seed are equal: they have the same objects with the same times, the same start of emulated
time, and the same sequence of ids.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from wesemu.errors import BucketNotEmpty, BucketNotFound, BucketTaken, InvalidRequest, SystemFault
from wesemu.genomics.fasta import FASTA_SUFFIXES
from wesemu.runs.data_directory import IdSource
from wesemu.storage.buckets import FOLDER, INCOMING, RECORDS, UPLOADS, Buckets, remove_empty
from wesemu.storage.checksums import find_crc64
from wesemu.storage.multipart import MultipartUploads
from wesemu.storage.object_files import is_upload_file
from wesemu.storage.objects import BUCKET, ObjectStore
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


# The seed

START = datetime(2026, 1, 1, tzinfo=UTC)
"""Emulated time at the first start with a seed, and after each reset to it."""

_COMPANIONS = (".alt", ".fai")


@dataclass(frozen=True, slots=True)
class Seed:
    """Folders by bucket name, FASTA files by reference name, and a digest of names and sizes."""

    buckets: dict[str, Path]
    references: dict[str, Path]
    digest: bytes

    @property
    def number(self) -> int:
        """The seed of ids."""
        return int.from_bytes(self.digest[:8])

    def fill_buckets(self, buckets: Path) -> None:
        """Create the buckets that are missing below `buckets`.

        A bucket appears when it is complete. Times of files and folders are those of the seed.
        Raises OSError, and InvalidRequest for a file that cannot be copied, for example a pipe.
        """
        for name, source in self.buckets.items():
            target = buckets / name
            if target.exists():
                continue
            partial = buckets / f".seed-{name}"  # no valid name of a bucket
            shutil.rmtree(partial, ignore_errors=True)
            try:
                shutil.copytree(source, partial, ignore=shutil.ignore_patterns(FOLDER))
            except shutil.Error as error:
                file, _, reason = error.args[0][0]
                raise InvalidRequest(
                    f"the seed cannot be copied: {file}: {reason}", field="seed"
                ) from error
            partial.rename(target)

    def missing_references(self, known: list[str]) -> dict[str, Path]:
        """Return the references whose names are not `known`."""
        return {name: path for name, path in self.references.items() if name not in known}


def read_seed(folder: Path) -> Seed:
    """Return the buckets and references in `folder`. Ignores hidden files, and logs other files.

    Raises InvalidRequest if `folder` is not a folder, if a name in it cannot be that of a
    bucket, or if two files have the name of one reference.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"the seed {folder} is not a folder", field="seed")
    entries = [each for each in sorted(folder.iterdir()) if not each.name.startswith(".")]
    buckets = {each.name: each for each in entries if each.is_dir()}
    if wrong := set(buckets) - set(Buckets(folder).names()):
        raise InvalidRequest(
            f"the folder {min(wrong)!r} of the seed {folder} cannot become a bucket: names have 3 "
            "to 63 lower-case letters, digits and hyphens",
            field="seed",
        )
    references: dict[str, Path] = {}
    for each in filter(_is_fasta, entries):
        other = references.setdefault(_reference_name(each), each)
        if other is not each:
            raise InvalidRequest(
                f"{other.name} and {each.name} of the seed {folder} would become one reference; "
                "rename one of them",
                field="seed",
            )
    known = (*buckets.values(), *references.values())
    for other in entries:
        if other not in known and not other.name.endswith(_COMPANIONS):
            log.warning("a file of the seed is neither a folder nor a FASTA", file=other.name)
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
    return Seed(buckets, references, digest.digest())


def _is_fasta(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(FASTA_SUFFIXES)


def _reference_name(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return name.rpartition(".")[0]


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if Path(root, name).is_file())
