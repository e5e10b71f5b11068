"""Inputs that were fetched once are not fetched again, by as many runs as want them at once."""

import asyncio
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from wesemu.storage.checksums import Crc64
from wesemu.storage.download import HttpFetcher
from wesemu.storage.partial_download import PartialFile, Validators
from wesemu.storage.remote import ByteCallback, Source

# The cache's files: contents by their SHA-256, and which source had which content.


_STALE_NANOSECONDS = 7 * 24 * 3600 * 10**9
_HASH = re.compile(r"[0-9a-f]{64}")
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """What a source was: `etag` and `modified` as its server told them."""

    sha256: str
    size: int
    etag: str | None = None
    modified: str | None = None


class BlobCache:
    """The files below `root`, `limit` bytes at most unless more is in use. All methods block."""

    def __init__(self, root: Path, limit: int) -> None:
        self.partials = root / "partial"
        self._blobs = root / "blobs"
        self._sources = root / "sources"
        self._limit = limit
        self._using = threading.Lock()

    def clean_up(self) -> None:
        """At start-up: remove records whose content is gone, and parts that nobody goes on with.

        Files that are not called as the cache calls its own stay.
        """
        for record in _own(self._sources, {".json"}):
            entry = _read(record)
            if entry is None or not self._blob(entry.sha256).is_file():
                record.unlink(missing_ok=True)
        if self.partials.is_dir():
            stale = _now(self.partials) - _STALE_NANOSECONDS
            for part in _own(self.partials, {".part", ".json"}):
                if part.stat().st_mtime_ns < stale:
                    part.unlink()
        self.trim()

    def find(self, key: str) -> BlobEntry | None:
        """What the source `key` was, where its content is still here."""
        entry = _read(self._record(key))
        return entry if entry is not None and self.has(entry.sha256) else None

    def has(self, sha256: str) -> bool:
        """A blob that somebody has written to is none any more."""
        path = self._blob(sha256)
        try:
            status = path.stat()
        except OSError:
            return False
        return _stamp_of(path) == [status.st_size, status.st_mtime_ns]

    def size(self, sha256: str) -> int:
        return self._blob(sha256).stat().st_size

    def put(self, key: str, path: Path, entry: BlobEntry) -> None:
        """Let the file at `path`, which is durable, be the content of the source `key`."""
        blob = self._blob(entry.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        self._sources.mkdir(parents=True, exist_ok=True)
        path.chmod(0o444)
        status = path.stat()
        with self._using:
            if self.has(entry.sha256):  # by another name
                path.unlink()
            else:
                _write(_stamp(blob), [status.st_size, status.st_mtime_ns])
                path.replace(blob)
            told = [entry.sha256, entry.size, entry.etag, entry.modified]
            _write(self._record(key), told)

    def give(self, sha256: str, target: Path) -> bool:
        """Make `target` the content, whole or not at all; False where it is not here any more."""
        blob = self._blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{sha256}.part")
        with self._using:
            if not self.has(sha256):
                return False
            # by the time of access, since the other one is the run's input's, too
            os.utime(blob, ns=(_now(blob.parent), blob.stat().st_mtime_ns))
            temporary.unlink(missing_ok=True)
            try:
                os.link(blob, temporary)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                shutil.copyfile(blob, temporary)
            temporary.replace(target)
            temporary.unlink(missing_ok=True)  # two links of one file: rename(2) does nothing
        return True

    def trim(self) -> None:
        """Remove what was used longest ago and is in no run, until the limit is kept."""
        with self._using:
            folders = [path for path in self._blobs.glob("??") if not path.is_symlink()]
            blobs = [path for folder in folders for path in _own(folder, {""})]
            found = [(path, path.stat()) for path in blobs]
            excess = sum(status.st_size for _, status in found) - self._limit
            for path, status in sorted(found, key=lambda each: each[1].st_atime_ns):
                if excess <= 0:
                    break
                if status.st_nlink == 1:
                    path.unlink(missing_ok=True)
                    _stamp(path).unlink(missing_ok=True)
                    excess -= status.st_size

    def _blob(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256

    def _record(self, key: str) -> Path:
        return self._sources / f"{name_of(key)}.json"


def name_of(key: str) -> str:
    """A file name for a source: of its address nothing can be read in it."""
    return hashlib.sha256(key.encode()).hexdigest()


def _own(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files in `folder` that are named by a hash and have one of the suffixes."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if path.suffix in suffixes
        and _HASH.fullmatch(path.stem)
        and path.is_file()
        and not path.is_symlink()
    ]


def _stamp(blob: Path) -> Path:
    return blob.with_suffix(".stamp")


def _stamp_of(blob: Path) -> object:
    try:
        return json.loads(_stamp(blob).read_bytes())
    except (OSError, ValueError):
        return None


def _read(path: Path) -> BlobEntry | None:
    try:
        sha256, size, etag, modified = json.loads(path.read_bytes())
        return BlobEntry(str(sha256), int(size), etag, modified)
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, value: object) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
    Path(temporary).replace(path)


def _now(folder: Path) -> int:
    """The file system's own time, with which times of access are compared."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime_ns


_AT_ONCE = 8
"""Files that are fetched at a time, for all runs together."""

_AT_ONCE_FROM_ONE = 4
"""Of those, from one server: a slow one does not keep the others waiting."""


@dataclass(frozen=True, slots=True)
class CachedInput:
    """`cached` says that no byte of it had to be fetched."""

    size: int
    sha256: str
    cached: bool


@dataclass(slots=True)
class _Flight:
    """One source being fetched, and who waits for it."""

    task: asyncio.Task[CachedInput]
    waiting: list[ByteCallback] = field(default_factory=list)
    told: tuple[int, int | None] | None = None


class InputCache:
    """Fetches sources by `fetcher` into `shelf`, and gives runs what they asked for."""

    def __init__(self, shelf: BlobCache, fetcher: HttpFetcher, crc64: Crc64 | None = None) -> None:
        self._shelf = shelf
        self._fetcher = fetcher
        self._crc64 = crc64
        self._flights: dict[str, _Flight] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._server_turns = WeakValueDictionary[str, asyncio.Semaphore]()

    async def fetch(self, source: Source, target: Path, tell: ByteCallback) -> CachedInput:
        """Have `source` lie at `target`. Raises what HttpFetcher.fetch and `source` raise.

        A caller that is cancelled leaves at once; the last one takes the fetching along.
        """
        while True:
            fetched = await self._obtain(source, tell)
            if await asyncio.to_thread(self._shelf.give, fetched.sha256, target):
                await asyncio.to_thread(self._shelf.trim)
                tell(fetched.size, fetched.size)
                return fetched

    async def trim(self) -> None:
        """Links of a run are gone: what is too much may go."""
        await asyncio.to_thread(self._shelf.trim)

    async def close(self) -> None:
        """Break off what is being fetched; the parts are gone on with next time."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fetcher.close()

    async def _obtain(self, source: Source, tell: ByteCallback) -> CachedInput:
        name = name_of(f"{source.asked}#{source.sha256 or ''}")
        while (flight := self._flights.get(name)) is not None and not flight.waiting:
            await asyncio.wait({flight.task})  # it was left by all and is ending
        if flight is None:
            flight = self._depart(name, source)
        flight.waiting.append(tell)
        if flight.told is not None:
            tell(*flight.told)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting.remove(tell)
            if not flight.waiting:
                flight.task.cancel()

    def _depart(self, name: str, source: Source) -> _Flight:
        def tell(done: int, total: int | None) -> None:
            flight.told = (done, total)
            for waiting in flight.waiting:
                waiting(done, total)

        work = self._bring(name, source, tell)
        flight = _Flight(asyncio.create_task(work, name=f"fetch {source.shown}"))
        self._flights[name] = flight
        flight.task.add_done_callback(self._landed(name))
        return flight

    def _landed(self, name: str) -> Callable[[asyncio.Task[CachedInput]], None]:
        def landed(task: asyncio.Task[CachedInput]) -> None:
            del self._flights[name]
            if not task.cancelled():
                task.exception()  # told to those who waited, if any were left

        return landed

    def _turn_with(self, source: Source) -> asyncio.Semaphore:
        """Its server's turns; the holder keeps them alive, and others forget them."""
        return self._server_turns.setdefault(source.server, asyncio.Semaphore(_AT_ONCE_FROM_ONE))

    async def _bring(self, name: str, source: Source, tell: ByteCallback) -> CachedInput:
        pinned = source.sha256
        if pinned is not None and await asyncio.to_thread(self._shelf.has, pinned):
            size = await asyncio.to_thread(self._shelf.size, pinned)
            return CachedInput(size, pinned, cached=True)
        async with self._turn_with(source), self._turns:
            expected = await source.describe()
            entry = await asyncio.to_thread(self._shelf.find, source.key)
            if entry is not None and source.sha256 not in (None, entry.sha256):
                entry = None
            if entry and expected and expected.etag and expected.etag == entry.etag:
                return CachedInput(entry.size, entry.sha256, cached=True)
            received = await self._fetcher.fetch(
                source,
                partial := PartialFile(self._shelf.partials, name, self._crc64),
                tell,
                expected=expected,
                known=Validators(entry.etag, entry.modified) if entry and not expected else None,
            )
            if received is None:
                assert entry is not None
                return CachedInput(entry.size, entry.sha256, cached=True)
            etag = expected.etag if expected else received.validators.etag
            found = BlobEntry(received.sha256, received.size, etag, received.validators.modified)
            await asyncio.to_thread(self._shelf.put, source.key, partial.path, found)
            return CachedInput(received.size, received.sha256, cached=False)
