"""Inputs: from the locations in a request to files on this machine.

The parts of this module are `ReferenceIndexer`, which indexes references in threads, and `Inputs`,
which finds the files of lanes, references and other parameters.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wesemu.errors import InputError, InvalidRequest, ObjectNotFound, ReferenceNotFound, SystemFault
from wesemu.genomics.fasta import is_fasta_name
from wesemu.genomics.read_groups import (
    NamedFile,
    check_files_differ,
    file_identity,
    parse_read_group,
)
from wesemu.genomics.reference import ReferenceStore
from wesemu.runs.run_directory import safe_name
from wesemu.storage.buckets import Buckets, parse, read_pairs
from wesemu.storage.remote import RemoteKey, WebFile, redacted_url
from wesemu.workflows.locations import (
    BucketKey,
    FileUrl,
    InputLocation,
    Locations,
    PlainName,
    ReadPair,
)
from wesemu.workflows.params import DEFAULT_REFERENCE
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

    Errors carry the parameter's name. Before the start of the run, the checks of remote locations
    do not access the network.
    """

    def __init__(
        self, buckets: Buckets, references: ReferenceStore, locations: Locations | None = None
    ) -> None:
        self._buckets = buckets
        self._references = references
        self._locations = locations or Locations()

    def lanes(self, reads: Sequence[ReadPair], files: RunFiles) -> list[LaneFiles]:
        """Return the lanes, with folders expanded; before the start only the local ones.

        Raise ObjectNotFound, and InvalidRequest, for example for a file that is in two lanes.
        """
        lanes: list[LaneFiles] = []
        remote: list[list[NamedFile]] = []
        for pair in reads:
            if files.staged is None and pair.is_remote:
                self._check_mates(pair, files)
                remote.append([*self._remote_named_files(pair, files)])
            else:
                lanes += self._lane(pair, files)
        check_files_differ([*remote, *map(_named_files, lanes)])
        return lanes

    def more(self, inputs: Sequence[InputLocation], files: RunFiles) -> dict[str, Path]:
        """Return the files of `RunInputs.more_files` by parameter; before the start only the local
        ones.

        Raise ObjectNotFound, InvalidRequest.
        """
        paths = {}
        for each in inputs:
            if files.staged is None and each.is_remote:
                continue
            path = paths[each.field] = self._existing(each, files)
            if not path.is_file():
                raise InvalidRequest(f"{each.text} is a folder; name a file", field=each.field)
        return paths

    def reference(self, reference: InputLocation, files: RunFiles) -> Path | None:
        """Return the FASTA of the reference parameter (see the docstring of `params`).

        Return None for a remote reference that is not fetched yet.
        """
        match reference.location:
            case WebFile():
                return self._staged_reference(reference, "", files)
            case RemoteKey(key=key):
                return self._staged_reference(reference, _last_name(key), files)
            case FileUrl() as file:
                path = self._locations.file(file, field="reference")
                return path if path.is_file() else _only_fasta(path, file.url)
            case BucketKey(url):
                return self._bucket_reference(url)
            case PlainName(name):
                if (registered := self._references.find(name)) is not None:
                    return registered
                if files.attachments is not None and "/" not in name and "://" not in name:
                    attached = files.attachments / safe_name(name)
                    if attached.is_file():
                        return attached
        raise self._unknown_reference(reference.text)

    def _bucket_reference(self, url: str) -> Path:
        bucket, key = parse(url.rstrip("/"), field="reference")
        path = self._buckets.locate(bucket, key, field="reference")
        if path.is_file():
            return path
        if path.is_dir():
            return _only_fasta(path, url)
        if (registered := self._references.find(_last_name(key))) is not None:
            return registered
        raise self._unknown_reference(url)

    def _staged_reference(
        self, reference: InputLocation, name: str, files: RunFiles
    ) -> Path | None:
        """Return the fetched FASTA, or the registered reference called `name`."""
        if files.staged is None:
            return None
        if (path := staged_path(files.staged, reference.text)) is not None:
            return path
        if name and (registered := self._references.find(name)) is not None:
            return registered
        raise self._unknown_reference(reference.text)

    def _check_mates(self, pair: ReadPair, files: RunFiles) -> None:
        """Check a pair with a remote mate, as far as possible before the download."""
        for mate in pair.mates:
            if not mate.is_remote:
                self._existing(mate, files)
            elif mate.for_both_mates and isinstance(mate.location, WebFile):
                raise InvalidRequest(
                    f"{mate.name} is named for both mates; name the second mate's file",
                    field=f"{pair.field}.second",
                )

    def _remote_named_files(self, pair: ReadPair, files: RunFiles) -> Iterator[NamedFile]:
        """Yield the files of a pair with a remote mate; a folder counts once."""
        for mate in pair.mates[:1] if pair.first.for_both_mates else pair.mates:
            identity: Hashable
            pin: str | None = None
            match mate.location:
                case WebFile() as file:
                    identity, pin = file.cache_key, file.sha256
                case RemoteKey() as remote:
                    identity, pin = remote.bucket.url(remote.key.rstrip("/")), remote.sha256
                case _:
                    identity = file_identity(self._existing(mate, files))
            yield NamedFile(mate.field, mate.name, identity)
            if pin is not None:
                yield NamedFile(mate.field, mate.name, pin)

    def _lane(self, pair: ReadPair, files: RunFiles) -> list[LaneFiles]:
        paths = [self._existing(mate, files) for mate in pair.mates]
        first, second = paths[0], paths[1] if pair.second is not None else None
        if first.is_dir() and first == second:
            return _folder_lanes(pair, first, read_pairs(first, field=pair.first.field))
        advice = (
            "one interleaved file"
            if second is None
            else "one file, or the same folder for both mates"
        )
        for path, mate in zip(paths, pair.mates, strict=True):
            if not path.is_file():
                raise InvalidRequest(f"{mate.text} is a folder; name {advice}", field=mate.field)
        if second is not None and first.resolve() == second.resolve():
            raise InvalidRequest(
                f"{pair.first.text} is named for both mates; name the second mate's file",
                field=f"{pair.field}.second",
            )
        second_name = "" if pair.second is None else pair.second.name
        return [LaneFiles(pair.field, first, second, pair.first.name, second_name, pair.read_group)]

    def _existing(self, each: InputLocation, files: RunFiles) -> Path:
        match each.location:
            case FileUrl() as file:
                return self._locations.file(file, field=each.field)
            case BucketKey(url):
                return self._buckets.existing(url, field=each.field)
            case PlainName(name):
                return _attached(name, each.field, files.attachments)
        path = None if files.staged is None else staged_path(files.staged, each.text)
        if path is None:
            raise ObjectNotFound(f"{each.name} was not fetched", field=each.field)
        return path

    def _unknown_reference(self, location: str) -> ReferenceNotFound:
        names = ", ".join(self._references.names()) or "none yet"
        default = " (the default)" if location == DEFAULT_REFERENCE else ""
        return ReferenceNotFound(
            f"there is no reference {location[:80]!r}{default}: it is neither a FASTA file "
            f"in the bucket, a folder with one FASTA, nor a registered name ({names}); "
            "`wesemu reference add NAME FILE` registers one",
            field="reference",
        )


def _attached(name: str, field: str, attachments: Path | None) -> Path:
    if "://" in name or name.startswith("/"):
        raise InvalidRequest(
            f"{redacted_url(name)[:80]!r} is not in a bucket; copy the file into a bucket and "
            "write oss://<bucket>/<key>, or send it as an attachment and write its name",
            field=field,
        )
    path = (attachments or Path()) / safe_name(name)
    if attachments is None or not path.is_file():
        raise ObjectNotFound(
            f"{name[:80]!r} is not an attachment of this request; send it along, or "
            "write oss://<bucket>/<key>",
            field=field,
        )
    return path


def _last_name(key: str) -> str:
    return key.rstrip("/").rpartition("/")[2]


def _named_files(lane: LaneFiles) -> Iterator[NamedFile]:
    for mate, path in (("first", lane.first), ("second", lane.second)):
        if path is not None:
            yield NamedFile(f"{lane.entry}.{mate}", lane.names[path], file_identity(path))


def _folder_lanes(pair: ReadPair, folder: Path, mates: list[tuple[Path, Path]]) -> list[LaneFiles]:
    """Return the lanes of a folder; a given read group's ID gets the lane's number."""
    prefix = pair.first.text.rstrip("/")
    lanes = []
    for number, (first, second) in enumerate(mates, start=1):
        read_group = pair.read_group
        if read_group and len(mates) > 1:
            group = parse_read_group(read_group)
            read_group = group.with_fields(ID=f"{group.id}.L{number}").line
        lanes.append(
            LaneFiles(
                pair.field,
                first,
                second,
                f"{prefix}/{first.relative_to(folder)}",
                f"{prefix}/{second.relative_to(folder)}",
                read_group,
            )
        )
    return lanes


def _only_fasta(folder: Path, location: str) -> Path:
    fastas = sorted(path for path in folder.iterdir() if is_fasta_name(path.name))
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
