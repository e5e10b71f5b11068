"""The data directory of a server: paths, lock, secret, and which entries belong to wesemu.

Also ids (`IdSource`) and the checks behind `/_wesemu/ready` (`Readiness`).
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import random
import re
import secrets
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wesemu.errors import DataDirectoryLocked, DataDirectoryRefused, InvalidRequest
from wesemu.runs.disk_full import LITTLE_DISK
from wesemu.runs.ports import Engine
from wesemu.runs.run_directory import Workspace, write_atomically
from wesemu.runs.store import RunStore
from wesemu.util.text import os_reason, os_sentence

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
"""Entries that a new data directory may contain: buckets and references that a user prepared, and
files that file systems create in the top folder of a disk."""

INCOMING_PREFIX = "incoming-"
"""Names of the folders in the cache that receive uploads begin so."""

_NAMES_SHOWN = 3
_LONGEST_INDEX_PATH = 504
"""Bytes. SQLite opens no longer paths: it has 512 for the path and the suffix of its journal."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths below `root`, which contains everything that a server stores."""

    root: Path

    @property
    def buckets(self) -> Path:
        """`buckets/<bucket>/<key>`; folders that users create are buckets, too."""
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
        """The leases of tasks: cores, memory and GPUs of this machine."""
        return self.root / "leases"

    @property
    def cache(self) -> Path:
        """Files that can be created again."""
        return self.root / "cache"

    @property
    def index(self) -> Path:
        return self.root / "wesemu.db"

    @property
    def clock(self) -> Path:
        """The time and speed of the emulated clock."""
        return self.root / "clock.json"

    def check(self, *, adopt: bool = False) -> None:
        """Raise DataDirectoryRefused if the directory is a file, contains foreign files, has a long
        path or one that is not UTF-8, or if `runs` is a link.

        A directory that a server has used before may have other files, and so may any with `adopt`.
        """
        if self.root.exists() and not self.root.is_dir():
            raise DataDirectoryRefused(f"{self.root} is a file; choose a directory with --data")
        try:
            str(self.root.resolve()).encode()
        except UnicodeEncodeError:
            raise DataDirectoryRefused(
                f"the path of the directory {str(self.root)!r} is not UTF-8; choose another one "
                "with --data, because paths of runs are written to JSON"
            ) from None
        if (excess := len(os.fsencode(self.index.resolve())) - _LONGEST_INDEX_PATH) > 0:
            raise DataDirectoryRefused(
                f"the path of the directory {self.root} is {excess} bytes too long for the index "
                "(SQLite); choose a shorter one with --data"
            )
        if self.runs.is_symlink():  # the sandbox of a run shows the run by its path
            raise DataDirectoryRefused(
                f"{self.runs} is a link; move the whole data directory to the other disk (a link "
                "to it works), or mount the disk at this path"
            )
        if not adopt and (foreign := self._foreign_entries()):
            more = f" and {len(foreign) - _NAMES_SHOWN} more" if len(foreign) > _NAMES_SHOWN else ""
            raise DataDirectoryRefused(
                f"the directory {self.root} is not wesemu's: it has "
                f"{', '.join(foreign[:_NAMES_SHOWN])}{more}. Choose an empty or new directory with "
                "--data; to use this one anyway, run 'wesemu serve --adopt-data' or set adopt_data"
            )

    def create(self, *, adopt: bool = False) -> None:
        """Create missing folders and mark the directory as wesemu's.

        Raises DataDirectoryRefused as `check` does, before anything is created.
        """
        self.check(adopt=adopt)
        self.make_root()
        self.make_folders()
        mark = self.root / _MARK
        if not mark.exists():
            mark.write_text("wesemu keeps its data in this directory\n")

    def make_root(self) -> None:
        """Create the directory if it is missing; only this user can access it."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.root.mkdir(mode=0o700)

    def make_folders(self) -> None:
        """Create the folders that are missing: another program may remove them at any time."""
        for folder in (self.buckets, self.references, self.runs, self.cache):
            folder.mkdir(parents=True, exist_ok=True)

    def clean_up(self) -> None:
        """Remove what an earlier server was receiving when it was killed. Needs the lock."""
        for folder in self.cache.glob(f"{INCOMING_PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _is_of_an_earlier_version(self) -> bool:
        """Return whether a version without the mark file left an index, or a secret and a lock."""
        try:
            with self.index.open("rb") as file:
                if file.read(len(_SQLITE)) == _SQLITE:
                    return True
        except OSError:
            pass
        secret = self.root / "secret"
        has_lock = (self.root / "server.lock").is_file()
        return has_lock and secret.is_file() and secret.stat().st_size == _SECRET_SIZE

    def _foreign_entries(self) -> list[str]:
        """Return foreign entries; none if a server has used the directory before."""
        if not self.root.is_dir() or (self.root / _MARK).is_file():
            return []
        if self._is_of_an_earlier_version():
            return []
        names = {entry.name for entry in self.root.iterdir()}
        foreign = sorted(names - _MADE_BY_HAND - {self.runs.name})
        if self.runs.name in names and self.runs.is_dir():
            foreign += sorted(
                f"{self.runs.name}/{entry.name}"
                for entry in self.runs.iterdir()
                if not is_own_entry(entry)
            )
        return foreign

    def created(self) -> datetime:
        """Return when a server first used this directory."""
        return datetime.fromtimestamp((self.root / "secret").stat().st_mtime, UTC)

    def secret(self) -> bytes:
        """Return the 32 random bytes of this directory; create them at first use (mode 0600).

        A file that is too short, for example because the disk was full, is replaced.
        """
        path = self.root / "secret"
        with contextlib.suppress(FileNotFoundError):
            if len(content := path.read_bytes()) >= _SECRET_SIZE:
                return content
        content = secrets.token_bytes(_SECRET_SIZE)
        write_atomically(path, content, mode=0o600)
        return content

    def seed_secret(self, content: bytes, created: datetime) -> None:
        """Set the secret of a new directory, and the time of its creation.

        The same `content` gives the same secret, and so the same ids that are computed from it.
        """
        path = self.root / "secret"
        if not path.exists():
            write_atomically(path, hashlib.sha256(content).digest(), mode=0o600)
            os.utime(path, (created.timestamp(), created.timestamp()))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory for this process (flock). Raises DataDirectoryLocked."""
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


# Entries of the folder `runs/`. Users may have put other files there; a name and the content
# identify what a server created.


def is_run_directory(folder: Path) -> bool:
    """Return whether `folder` is the directory of an accepted submission."""
    return _has_run_id(folder) and Workspace(folder).request.is_file()


def run_directories(runs: Path) -> list[Path]:
    """Return the directories of accepted submissions, by name; none if `runs` is missing."""
    folders = sorted(runs.iterdir()) if runs.is_dir() else []
    return [folder for folder in folders if is_run_directory(folder)]


def is_own_entry(folder: Path) -> bool:
    """Return whether this entry of `runs/` is surely from a server, so it may be deleted."""
    return is_trash(folder) or is_draft(folder) or is_run_directory(folder)


def is_trash(folder: Path) -> bool:
    """Return whether `folder` is a run directory that was renamed for deletion."""
    name = folder.name
    return name.startswith(TRASH_PREFIX) and bool(
        _RUN_ID.fullmatch(name.removeprefix(TRASH_PREFIX))
    )


def is_draft(folder: Path) -> bool:
    """Return whether `folder` is the directory of a submission that was not accepted yet."""
    workspace = Workspace(folder)
    if not _has_run_id(folder):
        return False
    if workspace.draft.is_file():
        return True
    if workspace.request.exists():
        return False
    return {path.name for path in folder.iterdir()} <= _OF_A_DRAFT


def _has_run_id(folder: Path) -> bool:
    return bool(_RUN_ID.fullmatch(folder.name)) and folder.is_dir() and not folder.is_symlink()


TRASH_PREFIX = ".removed-"
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OF_A_DRAFT = frozenset({"attachments", ".request.json.tmp"})
"""Files of interrupted submissions of earlier versions, which wrote no draft mark."""


# Ids of runs, requests and uploads.

HANDLE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of Kubernetes' generateName: no vowels, no letters that look like others."""

HANDLE_LENGTH = 5

_FREE_BITS = ~(0xF000 << 64 | 0xC000 << 48)
_VERSION_4 = 0x4000 << 64 | 0x8000 << 48
"""RFC 9562, section 5.4: the random bits and the fixed version bits of a random UUID."""


class IdSource:
    """Draws ids from the generator of the operating system, or from a seeded one (for tests).

    Ids of requests never come from the seeded one, so the number of requests does not change the
    ids of runs.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._chance = random.SystemRandom()
        self._requests = random.Random()  # ten times faster than the operating system's
        self._random: random.Random = self._chance
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Draw the same ids after each call with the same seed; None: unpredictable ids."""
        self._random = self._chance if seed is None else random.Random(seed)

    def state(self) -> Any:
        """Return the state of the seeded generator as JSON, for `restore`; None without a seed."""
        if self._random is self._chance:
            return None
        version, numbers, spare = self._random.getstate()
        return [version, list(numbers), spare]

    def restore(self, state: Any) -> None:
        """Continue from an earlier `state`. Raises InvalidRequest for anything else."""
        if state is None:
            self.seed(None)
            return
        continued = random.Random()
        try:
            version, numbers, spare = state
            continued.setstate((version, tuple(numbers), spare))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest("the state of the ids is damaged") from error
        self._random = continued

    def run_id(self) -> str:
        """Return a random UUID (RFC 9562, version 4)."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def handle(self) -> str:
        """Return five letters that a person can type. The store checks that they are unique."""
        return "".join(self._random.choices(HANDLE_ALPHABET, k=HANDLE_LENGTH))

    def request_id(self) -> str:
        """Return a UUID in capitals, as Alibaba's gateway does. It is predictable, not a secret."""
        digits = f"{self._requests.getrandbits(128) & _FREE_BITS | _VERSION_4:032X}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def upload_id(self) -> str:
        """Return 32 unpredictable hexadecimal digits: the id gives write access to the upload."""
        return f"{self._chance.getrandbits(128):032X}"


# Readiness: the index answers, the engines are warm, the disk has free space.

_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0
"""Pauses between the attempts to start an engine."""


class Readiness:
    """Checks whether the server can execute runs.

    `begin` warms up the engines in the background; `close` stops that (idempotent).
    """

    def __init__(self, engines: Sequence[Engine], store: RunStore, data: Path) -> None:
        self._engines = engines
        self._store = store
        self._data = data
        self._warming: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, str] = {}

    def begin(self) -> None:
        for engine in self._engines:
            self._warming[engine.name] = asyncio.create_task(
                self._warm(engine), name=f"warm {engine.name}"
            )

    async def close(self) -> None:
        for warming in self._warming.values():
            warming.cancel()
        await asyncio.gather(*self._warming.values(), return_exceptions=True)

    async def problems(self) -> list[str]:
        """Return one sentence for each problem; an empty list means ready."""
        results = [await self._index(), *map(self._engine, self._engines), await self._disk()]
        return [problem for problem in results if problem is not None]

    async def _index(self) -> str | None:
        try:
            await self._store.all_state_counts()
        except (sqlite3.Error, ValueError) as error:
            return f"the index does not answer: {error}"
        return None

    def _engine(self, engine: Engine) -> str | None:
        warming = self._warming.get(engine.name)
        if warming is not None and warming.done():
            return None
        failure = self._failures.get(engine.name)
        if failure is None:
            return f"the engine {engine.name} is starting"
        return f"the engine {engine.name} did not start: {failure}; the server tries again"

    async def _warm(self, engine: Engine) -> None:
        """Try until it succeeds: the problem may be fixed while the server runs."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await engine.warm()
            except Exception as error:
                reason = os_sentence(error) if isinstance(error, OSError) else str(error)
                self._failures[engine.name] = reason or type(error).__name__
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _disk(self) -> str | None:
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self._data)).free
        except OSError as error:
            return f"the data directory cannot be read: {os_reason(error)}"
        runs = self._data / "runs"
        if not await asyncio.to_thread(os.access, runs, os.R_OK | os.W_OK | os.X_OK):
            return f"{runs} may not be read and written; check its permissions and its disk"
        if free < LITTLE_DISK:
            return f"the disk of the data directory has {free >> 20} MiB left"
        return None
