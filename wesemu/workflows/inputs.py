"""Inputs: from the locations in a request to files on this machine.

The parts of this module are `ReferenceIndexer`, which indexes references in threads, and `Inputs`,
which finds the files of lanes, references and other parameters.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wesemu.errors import InputError, InvalidRequest, ObjectNotFound, ReferenceNotFound, SystemFault
from wesemu.genomics.read_groups import (
    NamedFile,
    check_files_differ,
    file_identity,
    parse_read_group,
)
from wesemu.genomics.reference import ReferenceStore
from wesemu.runs.run_directory import safe_name
from wesemu.storage.buckets import SCHEME, Buckets, parse, read_pairs
from wesemu.storage.remote import WebFile, redacted_url
from wesemu.workflows.locations import RemoteKey, RemoteLocations
from wesemu.workflows.params import FASTA_SUFFIXES, LaneParams, MappingParams
from wesemu.workflows.staging import staged_path

# Indexing of references, in threads.


_CLOSE_SECONDS = 2.0
_THREADS = 4


@dataclass(slots=True)
class _FileLock:
    """The lock of one file and the number of runs that hold or await it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class ReferenceIndexer:
    """Runs `ReferenceStore.ready` for many runs at once.

    Runs with the same file (by inode, since staged references are links) share one thread. Indexing
    continues when a run is cancelled, since later runs use the index; `close` stops it.
    """

    def __init__(self, references: ReferenceStore) -> None:
        self._references = references
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="reference")
        self._futures: set[Future[Path]] = set()
        self._file_locks: dict[tuple[int, int], _FileLock] = {}

    @property
    def records_folder(self) -> Path:
        """Folder of the records of indexes that were compared with their FASTA."""
        return self._references.records_folder

    async def ready(self, fasta: Path, name: str, mapper: str = "bwa") -> Path:
        """Index the FASTA for `mapper` and return the path to use; `name` is the caller's name.

        Raise InputError (with the caller's name) for an invalid FASTA, SystemFault.
        """
        async with self._file_lock(fasta):
            try:
                future = self._threads.submit(self._references.ready, fasta, mapper)
                self._futures.add(future)
                future.add_done_callback(self._futures.discard)
                return await asyncio.wrap_future(future)
            except InputError as error:
                message = error.message.replace(str(fasta), name)
                raise InputError(message, file=name, record=error.record) from error
            except SystemFault as error:
                raise type(error)(error.message.replace(str(fasta), name)) from error

    @asynccontextmanager
    async def _file_lock(self, fasta: Path) -> AsyncIterator[None]:
        status = await asyncio.to_thread(fasta.stat)
        file = (status.st_dev, status.st_ino)
        file_lock = self._file_locks.setdefault(file, _FileLock())
        file_lock.users += 1
        try:
            async with file_lock.lock:
                yield
        finally:
            file_lock.users -= 1
            if not file_lock.users:
                del self._file_locks[file]

    async def close(self) -> None:
        """Stop indexing. Idempotent.

        A thread that is still reading a large FASTA is abandoned: it has written nothing yet.
        """
        self._references.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(wait, set(self._futures), timeout=_CLOSE_SECONDS)


# Files of requests and runs.


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Folders of a run's files: attachments, and inputs that were fetched after the start."""

    attachments: Path | None = None
    staged: Path | None = None


@dataclass(frozen=True, slots=True)
class LaneFiles:
    """Files of one lane, the caller's names for them, and the given read group.

    `second` is None for interleaved reads. `entry` is the request's parameter (`reads.0`).
    """

    entry: str
    first: Path
    second: Path | None
    first_name: str
    second_name: str
    read_group: str | None

    @property
    def names(self) -> dict[Path, str]:
        """The caller's names by file."""
        names = {self.first: self.first_name}
        return names if self.second is None else names | {self.second: self.second_name}


class Inputs:
    """Finds the files that a request names. Synchronous and quick.

    Errors carry the parameter's name. Before the run starts, remote locations are checked, but
    without network access.
    """

    def __init__(
        self, buckets: Buckets, references: ReferenceStore, locations: RemoteLocations | None = None
    ) -> None:
        self._buckets = buckets
        self._references = references
        self._locations = locations or RemoteLocations()

    def has_remote(self, params: MappingParams) -> bool:
        """Return True if any reads have to be fetched, so the input size is unknown."""
        return any(
            location is not None and self._locations.is_remote(location)
            for lane in params.reads
            for location in (lane.first, lane.second)
        )

    def lanes(self, params: MappingParams, files: RunFiles) -> list[LaneFiles]:
        """Return the lanes, with folders expanded; before the start only the local ones.

        Raise ObjectNotFound, and InvalidRequest, for example for a file that is in two lanes.
        """
        lanes: list[LaneFiles] = []
        remote: list[list[NamedFile]] = []
        for number, lane in enumerate(params.reads):
            field = f"reads.{number}"
            if files.staged is None and self._has_remote_mate(lane):
                self._check_mates(lane, field, files)
                remote.append([*self._remote_named_files(lane, field, files)])
            else:
                lanes += self._lane(lane, field, files)
        check_files_differ([*remote, *map(_named_files, lanes)])
        return lanes

    def more(self, params: MappingParams, files: RunFiles) -> dict[str, Path]:
        """Return the files of `params.more_files`; before the start only the local ones.

        Raise ObjectNotFound, InvalidRequest.
        """
        paths = {}
        for name, location in params.more_files.items():
            if files.staged is None and self._locations.is_remote(location):
                self._locations.remote(location, field=name)
                continue
            paths[name] = self._existing(location, name, files)
            if not paths[name].is_file():
                raise InvalidRequest(f"{name}: {location} is a folder; name a file", field=name)
        return paths

    def reference(self, location: str, files: RunFiles) -> Path | None:
        """Return the FASTA of a reference parameter (see the docstring of `params`).

        Return None for a remote reference that is not fetched yet.
        """
        attachments = files.attachments
        if self._locations.is_remote(location):
            return self._remote_reference(location, files)
        if self._locations.is_file(location):
            path = self._locations.file(location, field="reference")
            return path if path.is_file() else _only_fasta(path, location)
        if not location.startswith(SCHEME):
            if (registered := self._references.find(location)) is not None:
                return registered
            if attachments is not None and "/" not in location and "://" not in location:
                attached = attachments / safe_name(location)
                if attached.is_file():
                    return attached
            raise self._unknown_reference(location)
        bucket, key = parse(location.rstrip("/"), field="reference")
        path = self._buckets.locate(bucket, key, field="reference")
        if path.is_file():
            return path
        if path.is_dir():
            return _only_fasta(path, location)
        if (registered := self._references.find(key.rpartition("/")[2])) is not None:
            return registered
        raise self._unknown_reference(location)

    def _has_remote_mate(self, lane: LaneParams) -> bool:
        mates = [location for location in (lane.first, lane.second) if location is not None]
        return any(self._locations.is_remote(location) for location in mates)

    def _check_mates(self, lane: LaneParams, field: str, files: RunFiles) -> None:
        """Check what can be checked before the start of a lane with a remote mate."""
        for mate, location in (("first", lane.first), ("second", lane.second)):
            if location is None:
                continue
            if not self._locations.is_remote(location):
                self._existing(location, f"{field}.{mate}", files)
                continue
            remote = self._locations.remote(location, field=f"{field}.{mate}")
            if lane.first == lane.second and not isinstance(remote, RemoteKey):
                raise InvalidRequest(
                    f"{redacted_url(location)} is named for both mates; name the second "
                    "mate's file",
                    field=f"{field}.second",
                )

    def _remote_named_files(
        self, lane: LaneParams, field: str, files: RunFiles
    ) -> Iterator[NamedFile]:
        """Yield the files of a lane with a remote mate; a folder counts once."""
        mates = {"first": lane.first}
        if lane.second is not None and lane.second != lane.first:
            mates["second"] = lane.second
        for mate, location in mates.items():
            entry = f"{field}.{mate}"
            identity: Hashable
            pin: str | None = None
            if not self._locations.is_remote(location):
                identity = file_identity(self._existing(location, entry, files))
            else:
                match self._locations.remote(location, field=entry):
                    case WebFile() as file:
                        identity, pin = file.cache_key, file.sha256
                    case RemoteKey() as remote:
                        identity = remote.bucket.url(remote.key.rstrip("/"))
                        pin = remote.sha256
            yield NamedFile(entry, redacted_url(location), identity)
            if pin is not None:
                yield NamedFile(entry, redacted_url(location), pin)

    def _remote_reference(self, location: str, files: RunFiles) -> Path | None:
        remote = self._locations.remote(location, field="reference")
        if files.staged is None:
            return None
        if (path := staged_path(files.staged, location)) is not None:
            return path
        if isinstance(remote, RemoteKey):
            name = remote.key.rstrip("/").rpartition("/")[2]
            if (registered := self._references.find(name)) is not None:
                return registered
        raise self._unknown_reference(location)

    def _lane(self, lane: LaneParams, field: str, files: RunFiles) -> list[LaneFiles]:
        first = self._existing(lane.first, f"{field}.first", files)
        if lane.second is None:
            if not first.is_file():
                raise InvalidRequest(
                    f"{lane.first} is a folder; name one interleaved file", field=f"{field}.first"
                )
            return [LaneFiles(field, first, None, redacted_url(lane.first), "", lane.read_group)]
        second = self._existing(lane.second, f"{field}.second", files)
        if first.is_dir() and first == second:
            return _folder_lanes(lane, field, first, read_pairs(first, field=f"{field}.first"))
        for path, name, mate in ((first, lane.first, "first"), (second, lane.second, "second")):
            if not path.is_file():
                raise InvalidRequest(
                    f"{name} is a folder; name one file, or the same folder for both mates",
                    field=f"{field}.{mate}",
                )
        if first.resolve() == second.resolve():
            raise InvalidRequest(
                f"{lane.first} is named for both mates; name the second mate's file",
                field=f"{field}.second",
            )
        names = redacted_url(lane.first), redacted_url(lane.second)
        return [LaneFiles(field, first, second, *names, lane.read_group)]

    def _existing(self, location: str, field: str, files: RunFiles) -> Path:
        if self._locations.is_remote(location):
            path = None if files.staged is None else staged_path(files.staged, location)
            if path is None:
                raise ObjectNotFound(f"{redacted_url(location)} was not fetched", field=field)
            return path
        if self._locations.is_file(location):
            return self._locations.file(location, field=field)
        attachments = files.attachments
        if location.startswith(SCHEME):
            return self._buckets.existing(location, field=field)
        if "://" in location or location.startswith("/"):
            raise InvalidRequest(
                f"{redacted_url(location)[:80]!r} is not in a bucket; copy the file into a "
                "bucket and write oss://<bucket>/<key>, or send it as an attachment and write its "
                "name",
                field=field,
            )
        path = (attachments or Path()) / safe_name(location)
        if attachments is None or not path.is_file():
            raise ObjectNotFound(
                f"{location[:80]!r} is not an attachment of this request; send it along, or "
                "write oss://<bucket>/<key>",
                field=field,
            )
        return path

    def _unknown_reference(self, location: str) -> ReferenceNotFound:
        names = ", ".join(self._references.names()) or "none yet"
        return ReferenceNotFound(
            f"there is no reference {location[:80]!r}: it is neither a FASTA file in the bucket, "
            f"a folder with one FASTA, nor a registered name ({names}); `wesemu reference add "
            "NAME FILE` registers one",
            field="reference",
        )


def _named_files(lane: LaneFiles) -> Iterator[NamedFile]:
    for mate, path in (("first", lane.first), ("second", lane.second)):
        if path is not None:
            yield NamedFile(f"{lane.entry}.{mate}", lane.names[path], file_identity(path))


def _folder_lanes(
    lane: LaneParams, entry: str, folder: Path, pairs: list[tuple[Path, Path]]
) -> list[LaneFiles]:
    """Return the lanes of a folder; a given read group's ID gets the lane's number."""
    prefix = lane.first.rstrip("/")
    lanes = []
    for number, (first, second) in enumerate(pairs, start=1):
        read_group = lane.read_group
        if read_group and len(pairs) > 1:
            group = parse_read_group(read_group)
            read_group = group.with_fields(ID=f"{group.id}.L{number}").line
        lanes.append(
            LaneFiles(
                entry,
                first,
                second,
                f"{prefix}/{first.relative_to(folder)}",
                f"{prefix}/{second.relative_to(folder)}",
                read_group,
            )
        )
    return lanes


def _only_fasta(folder: Path, location: str) -> Path:
    fastas = sorted(path for path in folder.iterdir() if path.name.lower().endswith(FASTA_SUFFIXES))
    if len(fastas) != 1:
        names = ", ".join(path.name for path in fastas[:5]) or "none"
        raise InvalidRequest(
            f"the folder {location} holds {len(fastas)} FASTA files ({names}); name the file",
            field="reference",
        )
    if not fastas[0].resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(
            f"{fastas[0].name} in {location} is a link that leaves the folder", field="reference"
        )
    return fastas[0]
