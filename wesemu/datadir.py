"""The data directory: what lies where, and that only one server uses it."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wesemu.errors import DataDirectoryLocked, DataDirectoryRefused
from wesemu.runs.cleanup import is_ours

_MARK = ".wesemu-data"
_SQLITE = b"SQLite format 3\0"
_SECRET_SIZE = 32

_MADE_BY_HAND = frozenset(
    {
        *("buckets", "references", "cache", "leases"),
        *("server.log", "server.lock", "wesemu.toml"),
        *("lost+found", ".DS_Store", ".gitignore", ".gitkeep"),
    }
)
"""What may lie in a directory before a server uses it for the first time: buckets and references
that a user has prepared, and what file systems put into the top folder of a disk."""

_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """`root` holds everything that a server keeps."""

    root: Path

    @property
    def buckets(self) -> Path:
        """`buckets/<bucket>/<key>`; folders made by hand are buckets."""
        return self.root / "buckets"

    @property
    def references(self) -> Path:
        """`references/<name>/`: registered references with their indexes."""
        return self.root / "references"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def leases(self) -> Path:
        """Which task has how much of this machine."""
        return self.root / "leases"

    @property
    def cache(self) -> Path:
        """What can be made again."""
        return self.root / "cache"

    @property
    def index(self) -> Path:
        return self.root / "wesemu.db"

    @property
    def clock(self) -> Path:
        """The emulated clock's course."""
        return self.root / "clock.json"

    def check(self, *, adopt: bool = False) -> None:
        """Raises DataDirectoryRefused where others have files in the directory, unless a server
        has used it before or it is to be adopted."""
        if not adopt and (strange := self._strange()):
            more = f" and {len(strange) - _NAMES_SHOWN} more" if len(strange) > _NAMES_SHOWN else ""
            raise DataDirectoryRefused(
                f"the directory {self.root} is not wesemu's: it has "
                f"{', '.join(strange[:_NAMES_SHOWN])}{more}. Choose an empty or new directory with "
                "--data; to use this one nevertheless say 'wesemu serve --adopt-data' or set "
                "adopt_data"
            )

    def create(self, *, adopt: bool = False) -> None:
        """Make the folders that are not there yet, and mark the directory as wesemu's.

        Raises DataDirectoryRefused as `check`, and then nothing has been made.
        """
        self.check(adopt=adopt)
        self.make_root()
        for folder in (self.buckets, self.references, self.runs, self.cache):
            folder.mkdir(parents=True, exist_ok=True)
        mark = self.root / _MARK
        if not mark.exists():
            mark.write_text("wesemu keeps its data in this directory\n")

    def make_root(self) -> None:
        """Make the directory where it is absent, for this user only."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.root.mkdir(mode=0o700)

    def _is_of_an_earlier_version(self) -> bool:
        """Whether a server that wrote no mark has left its index, or its secret and its lock."""
        try:
            with self.index.open("rb") as file:
                if file.read(len(_SQLITE)) == _SQLITE:
                    return True
        except OSError:
            pass
        secret = self.root / "secret"
        has_lock = (self.root / "server.lock").is_file()
        return has_lock and secret.is_file() and secret.stat().st_size == _SECRET_SIZE

    def _strange(self) -> list[str]:
        """What a directory that no server has used holds beside the preparations of a user."""
        if not self.root.is_dir() or (self.root / _MARK).is_file():
            return []
        if self._is_of_an_earlier_version():
            return []
        names = {entry.name for entry in self.root.iterdir()}
        strange = sorted(names - _MADE_BY_HAND - {self.runs.name})
        if self.runs.name in names and self.runs.is_dir():
            strange += sorted(
                f"{self.runs.name}/{entry.name}"
                for entry in self.runs.iterdir()
                if not is_ours(entry)
            )
        return strange

    def created(self) -> datetime:
        """When this directory was first used by a server."""
        return datetime.fromtimestamp((self.root / "secret").stat().st_mtime, UTC)

    def secret(self) -> bytes:
        """32 random bytes that are this directory's own; made at first use, for its server only."""
        path = self.root / "secret"
        try:
            with os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(secrets.token_bytes(_SECRET_SIZE))
        except FileExistsError:
            pass
        return path.read_bytes()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for this process. Raises DataDirectoryLocked."""
        path = self.root / "server.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 40, 0).decode(errors="replace").strip()
                raise DataDirectoryLocked(
                    f"another server (process {holder or 'unknown'}) uses the data directory "
                    f"{self.root}; stop it, or choose another directory with --data"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)
