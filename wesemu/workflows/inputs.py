"""From the locations in a request to files on this machine."""

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

# References made ready off the event loop: one thread for each that is being indexed.


_CLOSE_SECONDS = 2.0
_THREADS = 4


@dataclass(slots=True)
class _Turn:
    """Who wants one file, the one whose turn it is among them."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class ReferenceIndexer:
    """Runs `ReferenceStore.ready` for many runs at once.

    Runs that want the same file wait for one thread, by whatever path each of them has it: what
    was fetched lies as a link in every run directory. Indexing goes on when the run that
    asked is cancelled, since the next one profits; `close` ends it.
    """

    def __init__(self, references: ReferenceStore) -> None:
        self._references = references
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="reference")
        self._working: set[Future[Path]] = set()
        self._turns: dict[tuple[int, int], _Turn] = {}

    @property
    def records_folder(self) -> Path:
        """Where it is remembered which indexes were compared with their FASTA."""
        return self._references.records_folder

    async def ready(self, fasta: Path, name: str, mapper: str = "bwa") -> Path:
        """The FASTA for `fasta`, which the caller called `name`, indexed for `mapper`.

        Raises InputError (in the caller's words) for a file that is no usable FASTA, SystemFault.
        """
        async with self._turn(fasta):
            try:
                work = self._threads.submit(self._references.ready, fasta, mapper)
                self._working.add(work)
                work.add_done_callback(self._working.discard)
                return await asyncio.wrap_future(work)
            except InputError as error:
                message = error.message.replace(str(fasta), name)
                raise InputError(message, file=name, record=error.record) from error
            except SystemFault as error:
                raise type(error)(error.message.replace(str(fasta), name)) from error

    @asynccontextmanager
    async def _turn(self, fasta: Path) -> AsyncIterator[None]:
        status = await asyncio.to_thread(fasta.stat)
        file = (status.st_dev, status.st_ino)
        turn = self._turns.setdefault(file, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[file]

    async def close(self) -> None:
        """End what is being indexed. Idempotent. A thread that reads a huge FASTA is left behind:
        it has made nothing yet."""
        self._references.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(wait, set(self._working), timeout=_CLOSE_SECONDS)


# Locations outside this server's own buckets: URLs, remote buckets, folders that are opened.


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Where a run's own files lie: what came with its request, and, once it has begun, what was
    fetched for it."""

    attachments: Path | None = None
    staged: Path | None = None


@dataclass(frozen=True, slots=True)
class LaneFiles:
    """One lane's two files (`second` is None if they are interleaved), the caller's names for
    them, and the caller's read group. `entry` is the request's (`reads.0`)."""

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
    """Finds what a request names. Errors carry the parameter's name. Synchronous, quick.

    Before a run has begun, what lies elsewhere is only checked for what can be told without
    asking anybody.
    """

    def __init__(
        self, buckets: Buckets, references: ReferenceStore, elsewhere: RemoteLocations | None = None
    ) -> None:
        self._buckets = buckets
        self._references = references
        self._elsewhere = elsewhere or RemoteLocations()

    def has_remote(self, params: MappingParams) -> bool:
        """Whether something has to be fetched, whose size nobody knows yet."""
        return any(
            location is not None and self._elsewhere.is_remote(location)
            for lane in params.reads
            for location in (lane.first, lane.second)
        )

    def lanes(self, params: MappingParams, files: RunFiles) -> list[LaneFiles]:
        """Every lane, folders opened up; before the run has begun only those that lie here.

        Raises ObjectNotFound, InvalidRequest for a file that is in two lanes, …
        """
        found: list[LaneFiles] = []
        remote: list[list[NamedFile]] = []
        for number, lane in enumerate(params.reads):
            field = f"reads.{number}"
            if files.staged is None and self._has_remote_mate(lane):
                self._check(lane, field, files)
                remote.append([*self._named_files(lane, field, files)])
            else:
                found += self._lane(lane, field, files)
        check_files_differ([*remote, *map(_named_files, found)])
        return found

    def more(self, params: MappingParams, files: RunFiles) -> dict[str, Path]:
        """The files of `params.more_files`; before the run has begun only those that lie here.

        Raises ObjectNotFound, InvalidRequest.
        """
        found = {}
        for name, location in params.more_files.items():
            if files.staged is None and self._elsewhere.is_remote(location):
                self._elsewhere.remote(location, field=name)
                continue
            found[name] = self._existing(location, name, files)
            if not found[name].is_file():
                raise InvalidRequest(f"{name}: {location} is a folder; name a file", field=name)
        return found

    def reference(self, location: str, files: RunFiles) -> Path | None:
        """The FASTA that a reference parameter means (module docstring of `params`); None for
        one that is not fetched yet."""
        attachments = files.attachments
        if self._elsewhere.is_remote(location):
            return self._remote_reference(location, files)
        if self._elsewhere.is_file(location):
            path = self._elsewhere.file(location, field="reference")
            return path if path.is_file() else _only_fasta(path, location)
        if not location.startswith(SCHEME):
            if (registered := self._references.find(location)) is not None:
                return registered
            if attachments is not None and "/" not in location and "://" not in location:
                attached = attachments / safe_name(location)
                if attached.is_file():
                    return attached
            raise self._no_reference(location)
        bucket, key = parse(location.rstrip("/"), field="reference")
        path = self._buckets.locate(bucket, key, field="reference")
        if path.is_file():
            return path
        if path.is_dir():
            return _only_fasta(path, location)
        if (registered := self._references.find(key.rpartition("/")[2])) is not None:
            return registered
        raise self._no_reference(location)

    def _has_remote_mate(self, lane: LaneParams) -> bool:
        mates = [location for location in (lane.first, lane.second) if location is not None]
        return any(self._elsewhere.is_remote(location) for location in mates)

    def _check(self, lane: LaneParams, field: str, files: RunFiles) -> None:
        """Of a lane of which something lies elsewhere what can be told now."""
        for mate, location in (("first", lane.first), ("second", lane.second)):
            if location is None:
                continue
            if not self._elsewhere.is_remote(location):
                self._existing(location, f"{field}.{mate}", files)
                continue
            remote = self._elsewhere.remote(location, field=f"{field}.{mate}")
            if lane.first == lane.second and not isinstance(remote, RemoteKey):
                raise InvalidRequest(
                    f"{redacted_url(location)} is named for both mates; name the second "
                    "mate's file",
                    field=f"{field}.second",
                )

    def _named_files(self, lane: LaneParams, field: str, files: RunFiles) -> Iterator[NamedFile]:
        """Of a lane of which something lies elsewhere; a folder counts once."""
        mates = {"first": lane.first}
        if lane.second is not None and lane.second != lane.first:
            mates["second"] = lane.second
        for mate, location in mates.items():
            entry = f"{field}.{mate}"
            identity: Hashable
            pin: str | None = None
            if not self._elsewhere.is_remote(location):
                identity = file_identity(self._existing(location, entry, files))
            else:
                match self._elsewhere.remote(location, field=entry):
                    case WebFile() as file:
                        identity, pin = file.cache_key, file.sha256
                    case RemoteKey() as remote:
                        identity = remote.bucket.url(remote.key.rstrip("/"))
                        pin = remote.sha256
            yield NamedFile(entry, redacted_url(location), identity)
            if pin is not None:
                yield NamedFile(entry, redacted_url(location), pin)

    def _remote_reference(self, location: str, files: RunFiles) -> Path | None:
        remote = self._elsewhere.remote(location, field="reference")
        if files.staged is None:
            return None
        if (path := staged_path(files.staged, location)) is not None:
            return path
        if isinstance(remote, RemoteKey):
            name = remote.key.rstrip("/").rpartition("/")[2]
            if (registered := self._references.find(name)) is not None:
                return registered
        raise self._no_reference(location)

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
            return _folder(lane, field, first, read_pairs(first, field=f"{field}.first"))
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
        if self._elsewhere.is_remote(location):
            path = None if files.staged is None else staged_path(files.staged, location)
            if path is None:
                raise ObjectNotFound(f"{redacted_url(location)} was not fetched", field=field)
            return path
        if self._elsewhere.is_file(location):
            return self._elsewhere.file(location, field=field)
        attachments = files.attachments
        if location.startswith(SCHEME):
            return self._buckets.existing(location, field=field)
        if "://" in location or location.startswith("/"):
            raise InvalidRequest(
                f"{redacted_url(location)[:80]!r} is not in a bucket; copy the file into a "
                "bucket and "
                "write oss://<bucket>/<key>, or send it as an attachment and write its name",
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

    def _no_reference(self, location: str) -> ReferenceNotFound:
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


def _folder(
    lane: LaneParams, entry: str, folder: Path, pairs: list[tuple[Path, Path]]
) -> list[LaneFiles]:
    """The lanes of a folder. The ID of a read group for the folder gets the lane's number."""
    prefix = lane.first.rstrip("/")
    found = []
    for number, (first, second) in enumerate(pairs, start=1):
        read_group = lane.read_group
        if read_group and len(pairs) > 1:
            group = parse_read_group(read_group)
            read_group = group.with_fields(ID=f"{group.id}.L{number}").line
        found.append(
            LaneFiles(
                entry,
                first,
                second,
                f"{prefix}/{first.relative_to(folder)}",
                f"{prefix}/{second.relative_to(folder)}",
                read_group,
            )
        )
    return found


def _only_fasta(folder: Path, location: str) -> Path:
    found = sorted(path for path in folder.iterdir() if path.name.lower().endswith(FASTA_SUFFIXES))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise InvalidRequest(
            f"the folder {location} holds {len(found)} FASTA files ({names}); name the file",
            field="reference",
        )
    if not found[0].resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(
            f"{found[0].name} in {location} is a link that leaves the folder", field="reference"
        )
    return found[0]
