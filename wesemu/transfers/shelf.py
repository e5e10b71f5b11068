"""The cache's files: contents by their SHA-256, and which source had which content.

`blobs/ab/<sha256>` is read-only and written once; `sources/<hash>.json` says what a source was
when it was fetched; `partial/` holds what is on its way in. A run has a hard link of what it
uses, so nothing that is removed here is missed there.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_STALE_NANOSECONDS = 7 * 24 * 3600 * 10**9
_HASH = re.compile(r"[0-9a-f]{64}")
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a source was: `etag` and `modified` as its server told them."""

    sha256: str
    size: int
    etag: str | None = None
    modified: str | None = None


class Shelf:
    """The files below `root`, `limit` bytes at most unless more is in use. All methods block."""

    def __init__(self, root: Path, limit: int) -> None:
        self.partials = root / "partial"
        self._blobs = root / "blobs"
        self._sources = root / "sources"
        self._limit = limit
        self._using = threading.Lock()

    def sweep(self) -> None:
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

    def find(self, key: str) -> Entry | None:
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

    def put(self, key: str, path: Path, entry: Entry) -> None:
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


def _read(path: Path) -> Entry | None:
    try:
        sha256, size, etag, modified = json.loads(path.read_bytes())
        return Entry(str(sha256), int(size), etag, modified)
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
