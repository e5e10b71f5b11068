"""The data directory: what lies where, and that only one server uses it."""

import asyncio
import contextlib
import fcntl
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

from wesemu.errors import (
    DataDirectoryLocked,
    DataDirectoryRefused,
)
from wesemu.runs.ports import Engine
from wesemu.runs.run_directory import Workspace
from wesemu.runs.store import RunStore
from wesemu.util.text import os_reason, os_sentence

# Where run ids and short handles come from; seedable, so that a test knows them beforehand.


HANDLE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of Kubernetes' generateName: no vowels, nothing that reads as something else."""

HANDLE_LENGTH = 5

_FREE_BITS = ~(0xF000 << 64 | 0xC000 << 48)
_VERSION_4 = 0x4000 << 64 | 0x8000 << 48
"""RFC 9562, section 5.4: what a random UUID leaves to chance, and what it does not."""


class IdSource:
    """Draws ids from the operating system's generator, or from a seeded one.

    Requests' ids never come from the seeded one: how many requests a client makes does not
    change the ids of its runs.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._chance = random.SystemRandom()
        self._requests = random.Random()  # ten times faster than the operating system's
        self._random: random.Random = self._chance
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Draw the same ids after every call with the same number; None: unpredictable ones."""
        self._random = self._chance if seed is None else random.Random(seed)

    def run_id(self) -> str:
        """A random UUID (RFC 9562, version 4), so that a short prefix is soon unique."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def handle(self) -> str:
        """Five letters that a person can type; unique on a server once the store has taken it."""
        return "".join(self._random.choices(HANDLE_ALPHABET, k=HANDLE_LENGTH))

    def request_id(self) -> str:
        """As a random UUID in capitals, like those of Alibaba's gateway. Who has seen many can
        guess the next one: it opens nothing."""
        digits = f"{self._requests.getrandbits(128) & _FREE_BITS | _VERSION_4:032X}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def upload_id(self) -> str:
        """32 letters that nobody guesses: who has it may write to the upload."""
        return f"{self._chance.getrandbits(128):032X}"


# Whether the server can carry runs out: its index answers, its engines are warm, there is disk.


_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0
"""Between the attempts to start an engine."""

LITTLE_DISK = 100 << 20
"""Bytes: with less free space in the data directory no run is worth beginning."""


class Readiness:
    """`begin` warms the engines in the background; `close` gives that up (idempotent)."""

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
        """One sentence for each thing that is not ready; none: the server serves."""
        found = [await self._index(), *map(self._engine, self._engines), await self._disk()]
        return [told for told in found if told is not None]

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
        told = self._failures.get(engine.name)
        if told is None:
            return f"the engine {engine.name} is getting ready"
        return f"the engine {engine.name} did not get ready: {told}; it is tried again"

    async def _warm(self, engine: Engine) -> None:
        """Try until it succeeds: what is wrong may be mended while the server runs."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await engine.warm()
            except Exception as error:
                told = os_sentence(error) if isinstance(error, OSError) else str(error)
                self._failures[engine.name] = told or type(error).__name__
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _disk(self) -> str | None:
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self._data)).free
        except OSError as error:
            return f"the data directory cannot be read: {os_reason(error)}"
        if free < LITTLE_DISK:
            return f"the disk of the data directory has {free >> 20} MiB left"
        return None


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


# Copies of a data directory in one tar file, made while a server may be using it.


def is_run_directory(folder: Path) -> bool:
    """Whether a submission has filled this folder."""
    return _has_run_id(folder) and Workspace(folder).request.is_file()


def is_ours(folder: Path) -> bool:
    """Whether an entry of the folder of the runs was certainly made by a server."""
    return _is_put_away(folder) or _is_draft(folder) or is_run_directory(folder)


def _is_put_away(folder: Path) -> bool:
    name = folder.name
    return name.startswith(_REMOVED) and bool(_RUN_ID.fullmatch(name.removeprefix(_REMOVED)))


def _is_draft(folder: Path) -> bool:
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


_REMOVED = ".removed-"
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OF_A_DRAFT = frozenset({"attachments", ".request.json.tmp"})
"""What submissions of earlier versions, which had no mark, leave when they are broken off."""
