"""Input cache: content-addressed files on disk, and downloads that concurrent runs share."""

import asyncio
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from wesemu.storage.checksums import Crc64
from wesemu.storage.download import HttpFetcher, Validators
from wesemu.storage.partial_download import PartialFile
from wesemu.storage.remote import ByteCallback, Source

# Blobs: contents by their SHA-256, and records of the content of each source.

_STALE_NANOSECONDS = 7 * 24 * 3600 * 10**9
_HASH = re.compile(r"[0-9a-f]{64}")
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """The content of a source; `etag` and `modified` are its server's header values."""

    sha256: str
    size: int
    etag: str | None = None
    modified: str | None = None


class BlobCache:
    """Stores contents below `root`.

    Keeps at most `limit` bytes, unless runs use more. All methods block.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.partials = root / "partial"
        self._blobs = root / "blobs"
        self._sources = root / "sources"
        self._limit = limit
        self._lock = threading.Lock()

    def clean_up(self) -> None:
        """Remove records without content and stale partial downloads. Call it at start-up.

        Files with foreign names stay.
        """
        for record in _cache_files(self._sources, {".json"}):
            entry = _read_entry(record)
            if entry is None or not self._blob(entry.sha256).is_file():
                record.unlink(missing_ok=True)
        if self.partials.is_dir():
            stale = _now(self.partials) - _STALE_NANOSECONDS
            for part in _cache_files(self.partials, {".part", ".json"}):
                if part.stat().st_mtime_ns < stale:
                    part.unlink()
        self.trim()

    def find(self, key: str) -> BlobEntry | None:
        """Return the entry of a source if its content is in the cache, or None."""
        entry = _read_entry(self._record(key))
        return entry if entry is not None and self.has(entry.sha256) else None

    def has(self, sha256: str) -> bool:
        """Return True if the blob exists and has not been modified since."""
        path = self._blob(sha256)
        try:
            status = path.stat()
        except OSError:
            return False
        return _read_stamp(path) == [status.st_size, status.st_mtime_ns]

    def size(self, sha256: str) -> int:
        return self._blob(sha256).stat().st_size

    def put(self, key: str, path: Path, entry: BlobEntry) -> None:
        """Store the file at `path`, which is durable, as the content of a source."""
        blob = self._blob(entry.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        self._sources.mkdir(parents=True, exist_ok=True)
        path.chmod(0o444)
        status = path.stat()
        with self._lock:
            if self.has(entry.sha256):  # from another source
                path.unlink()
            else:
                _write_json(_stamp_path(blob), [status.st_size, status.st_mtime_ns])
                path.replace(blob)
            fields = [entry.sha256, entry.size, entry.etag, entry.modified]
            _write_json(self._record(key), fields)

    def link(self, sha256: str, target: Path) -> bool:
        """Link or copy the content to `target`, atomically. Return False if it is gone."""
        blob = self._blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{sha256}.part")
        with self._lock:
            if not self.has(sha256):
                return False
            # Mark the blob as used by its access time: the input of a run shares the mtime.
            os.utime(blob, ns=(_now(blob.parent), blob.stat().st_mtime_ns))
            temporary.unlink(missing_ok=True)
            try:
                os.link(blob, temporary)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                shutil.copyfile(blob, temporary)
            temporary.replace(target)
            temporary.unlink(missing_ok=True)  # rename(2) does nothing for two links of one file
        return True

    def trim(self) -> None:
        """Remove the least recently used blobs without links from runs, down to the limit."""
        with self._lock:
            folders = [path for path in self._blobs.glob("??") if not path.is_symlink()]
            blobs = [path for folder in folders for path in _cache_files(folder, {""})]
            statuses = [(path, path.stat()) for path in blobs]
            excess = sum(status.st_size for _, status in statuses) - self._limit
            for path, status in sorted(statuses, key=lambda each: each[1].st_atime_ns):
                if excess <= 0:
                    break
                if status.st_nlink == 1:  # no run has a link to it
                    path.unlink(missing_ok=True)
                    _stamp_path(path).unlink(missing_ok=True)
                    excess -= status.st_size

    def _blob(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256

    def _record(self, key: str) -> Path:
        return self._sources / f"{source_hash(key)}.json"


def source_hash(key: str) -> str:
    """Return a file name that does not reveal the source's address."""
    return hashlib.sha256(key.encode()).hexdigest()


def _cache_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the regular files named by a hash, with one of the suffixes."""
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


def _stamp_path(blob: Path) -> Path:
    return blob.with_suffix(".stamp")


def _read_stamp(blob: Path) -> object:
    try:
        return json.loads(_stamp_path(blob).read_bytes())
    except (OSError, ValueError):
        return None


def _read_entry(path: Path) -> BlobEntry | None:
    try:
        sha256, size, etag, modified = json.loads(path.read_bytes())
        return BlobEntry(str(sha256), int(size), etag, modified)
    except (OSError, ValueError, TypeError):
        return None


def _write_json(path: Path, value: object) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
    Path(temporary).replace(path)


def _now(folder: Path) -> int:
    """Return the file system's clock in ns, to compare with its access times."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime_ns


# Downloads that runs share.

_MAX_DOWNLOADS = 8
"""Concurrent downloads of all runs together."""

_MAX_DOWNLOADS_PER_SERVER = 4
"""Of these, downloads from one server, so a slow server does not block the others."""


@dataclass(frozen=True, slots=True)
class CachedInput:
    """A fetched input; `cached` is True if nothing was downloaded."""

    size: int
    sha256: str
    cached: bool


@dataclass(slots=True)
class _Download:
    """A running download and the callbacks of the callers that wait for it."""

    task: asyncio.Task[CachedInput]
    callbacks: list[ByteCallback] = field(default_factory=list)
    progress: tuple[int, int | None] | None = None


class InputCache:
    """Downloads sources into `blobs` and links them into run directories."""

    def __init__(self, blobs: BlobCache, fetcher: HttpFetcher, crc64: Crc64 | None = None) -> None:
        self._blobs = blobs
        self._fetcher = fetcher
        self._crc64 = crc64
        self._downloads: dict[str, _Download] = {}
        self._slots = asyncio.Semaphore(_MAX_DOWNLOADS)
        self._server_slots = WeakValueDictionary[str, asyncio.Semaphore]()

    async def fetch(self, source: Source, target: Path, report: ByteCallback) -> CachedInput:
        """Put the content of `source` at `target`.

        Raises the errors of `HttpFetcher.fetch` and of the source. A cancelled caller returns at
        once. When all callers are cancelled, the download stops.
        """
        while True:  # `trim` may remove the blob before it is linked
            fetched = await self._join_or_start(source, report)
            if await asyncio.to_thread(self._blobs.link, fetched.sha256, target):
                await asyncio.to_thread(self._blobs.trim)
                report(fetched.size, fetched.size)
                return fetched

    async def trim(self) -> None:
        """Trim the cache after a run has removed its links."""
        await asyncio.to_thread(self._blobs.trim)

    async def close(self) -> None:
        """Cancel the downloads. Partial files are kept for the next start."""
        tasks = [download.task for download in self._downloads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fetcher.close()

    async def _join_or_start(self, source: Source, report: ByteCallback) -> CachedInput:
        name = source_hash(f"{source.identity}#{source.sha256 or ''}")
        while (download := self._downloads.get(name)) is not None and not download.callbacks:
            await asyncio.wait({download.task})  # all callers have left: it is ending
        if download is None:
            download = self._start(name, source)
        download.callbacks.append(report)
        if download.progress is not None:
            report(*download.progress)
        try:
            return await asyncio.shield(download.task)
        finally:
            download.callbacks.remove(report)
            if not download.callbacks:
                download.task.cancel()

    def _start(self, name: str, source: Source) -> _Download:
        def report(done: int, total: int | None) -> None:
            download.progress = (done, total)
            for callback in download.callbacks:
                callback(done, total)

        coroutine = self._download(name, source, report)
        download = _Download(asyncio.create_task(coroutine, name=f"fetch {source.display_name}"))
        self._downloads[name] = download
        download.task.add_done_callback(partial(self._finish, name))
        return download

    def _finish(self, name: str, task: asyncio.Task[CachedInput]) -> None:
        del self._downloads[name]
        if not task.cancelled():
            task.exception()  # mark it as retrieved, or asyncio logs it

    def _server_slot(self, source: Source) -> asyncio.Semaphore:
        """Return the semaphore of the source's server, which lives while someone holds it."""
        return self._server_slots.setdefault(
            source.server, asyncio.Semaphore(_MAX_DOWNLOADS_PER_SERVER)
        )

    async def _download(self, name: str, source: Source, report: ByteCallback) -> CachedInput:
        pinned = source.sha256
        if pinned is not None and await asyncio.to_thread(self._blobs.has, pinned):
            size = await asyncio.to_thread(self._blobs.size, pinned)
            return CachedInput(size, pinned, cached=True)
        async with self._server_slot(source), self._slots:
            # Remote buckets state an ETag (no download if it is known); web servers get a
            # conditional request instead.
            expected = await source.describe()
            entry = await asyncio.to_thread(self._blobs.find, source.cache_key)
            if entry is not None and source.sha256 not in (None, entry.sha256):
                entry = None
            if entry and expected and expected.etag and expected.etag == entry.etag:
                return CachedInput(entry.size, entry.sha256, cached=True)
            received = await self._fetcher.fetch(
                source,
                partial := PartialFile(self._blobs.partials, name, self._crc64),
                report,
                expected=expected,
                known=Validators(entry.etag, entry.modified) if entry and not expected else None,
            )
            if received is None:
                assert entry is not None
                return CachedInput(entry.size, entry.sha256, cached=True)
            etag = expected.etag if expected else received.validators.etag
            entry = BlobEntry(received.sha256, received.size, etag, received.validators.modified)
            await asyncio.to_thread(self._blobs.put, source.cache_key, partial.path, entry)
            return CachedInput(received.size, received.sha256, cached=False)
