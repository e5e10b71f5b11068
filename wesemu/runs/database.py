"""The index database: SQLite in WAL mode, one connection that writes, one that reads."""

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import structlog

from wesemu.errors import DiskFull, OutOfFiles, StoreError

# Room on the disk: what is kept for the moment when there is none, and what is said then.


_RESERVE = 4 << 20
_AMPLE = 4 * _RESERVE
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_CAUSES = 10
_SCARCE = 1 << 20
_PATIENCE_SECONDS = 5.0
_FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = "make room on the disk of the data directory"

_T = TypeVar("_T")

log = structlog.get_logger("wesemu.room")


class DiskReserve:
    """A file of 4 MiB that is deleted when the disk is full, so that ends can still be written,
    and made again once there is ample room. All methods block, briefly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.held = False

    def take(self) -> None:
        """Hold the room, if there is enough of it."""
        with contextlib.suppress(OSError):
            if not self._path.exists() and shutil.disk_usage(self._path.parent).free < _AMPLE:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _RESERVE)
                self.held = True
            finally:
                os.close(descriptor)

    def give(self) -> bool:
        """Give the room back; False when it was given already."""
        held, self.held = self.held, False
        self._path.unlink(missing_ok=True)
        return held


def disk_full(error: BaseException) -> DiskFull | None:
    """What to say of an error that a full disk is to blame for; None for any other."""
    if isinstance(error, DiskFull):
        return error
    if isinstance(error, OSError) and error.errno in _FULL_DISK_ERRORS:
        return DiskFull(f"the server's disk is full; {_ADVICE}, then try again")
    return None


def out_of_files(error: BaseException) -> OutOfFiles | None:
    """What to say of an error that a lack of file descriptors is to blame for, directly or as its
    cause; None for any other."""
    seen: BaseException | None = error
    for _ in range(_CAUSES):
        if isinstance(seen, OutOfFiles):
            return seen
        if isinstance(seen, OSError) and seen.errno in _NO_FILES:
            return OutOfFiles(
                "too many files are open in this server; try again, or raise its limit "
                "(ulimit -n, LimitNOFILE=)"
            )
        if seen is None:
            return None
        seen = seen.__cause__ or seen.__context__
    return None


def check_room(folder: Path) -> None:
    """Raises DiskFull where next to nothing is left on the disk of `folder`. Blocks."""
    free = shutil.disk_usage(folder).free
    if free < _SCARCE:
        raise DiskFull(f"the disk is full ({free:,} bytes are free); {_ADVICE}, then submit again")


async def retry_on_full_disk(
    write: Callable[[], Awaitable[_T]], *, give_up: asyncio.Event | None = None
) -> _T:
    """Write to the index; where the disk is full, once somebody has made room. Raises DiskFull
    only in a `give_up`."""
    give_up = give_up or asyncio.Event()
    while True:
        try:
            return await write()
        except DiskFull as error:
            if give_up.is_set():
                raise
            log.error("the index waits for room", error=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await give_up.wait()


# The index database's tables, and the steps that bring an older file up to date.


def _tags_of(run: str, source: str = "") -> str:
    """The rows of run_tags for `run`; 256 letters is `listing.TAG_LIMIT`."""
    return (
        f"SELECT {run}.sequence, tag.key, tag.value, {run}.owner, {run}.state "  # noqa: S608
        f"FROM {source}json_each({run}.tags) AS tag "
        "WHERE length(tag.key) + length(tag.value) <= 256"
    )


MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE runs (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        handle TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        workflow TEXT NOT NULL,
        service_rank INTEGER NOT NULL,
        service_level TEXT NOT NULL,
        request TEXT NOT NULL,
        resources TEXT NOT NULL,
        tags TEXT NOT NULL,
        created TEXT NOT NULL,
        started TEXT,
        ended TEXT,
        exit_code INTEGER,
        counts TEXT,
        input_bytes INTEGER,
        outputs TEXT NOT NULL,
        failure TEXT
    ) STRICT;
    CREATE INDEX runs_by_owner ON runs (owner, sequence);
    CREATE INDEX runs_by_workflow ON runs (owner, workflow, sequence);
    CREATE INDEX runs_active ON runs (state, service_rank, sequence)
        WHERE state IN ('QUEUED', 'INITIALIZING', 'RUNNING', 'CANCELING');

    CREATE TABLE tasks (
        run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        wildcards TEXT NOT NULL,
        command TEXT,
        threads INTEGER,
        started TEXT,
        ended TEXT,
        exit_code INTEGER,
        stdout TEXT,
        stderr TEXT,
        cpu_seconds REAL,
        peak_memory INTEGER,
        PRIMARY KEY (run_id, id, attempt)
    ) STRICT;

    CREATE TABLE state_counts (
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        runs INTEGER NOT NULL,
        PRIMARY KEY (owner, state)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER runs_counted AFTER INSERT ON runs BEGIN
        INSERT INTO state_counts VALUES (NEW.owner, NEW.state, 1)
            ON CONFLICT (owner, state) DO UPDATE SET runs = runs + 1;
    END;
    CREATE TRIGGER runs_uncounted AFTER DELETE ON runs BEGIN
        UPDATE state_counts SET runs = runs - 1 WHERE owner = OLD.owner AND state = OLD.state;
    END;
    CREATE TRIGGER runs_recounted AFTER UPDATE OF state ON runs WHEN NEW.state <> OLD.state BEGIN
        UPDATE state_counts SET runs = runs - 1 WHERE owner = OLD.owner AND state = OLD.state;
        INSERT INTO state_counts VALUES (NEW.owner, NEW.state, 1)
            ON CONFLICT (owner, state) DO UPDATE SET runs = runs + 1;
    END;
    """,
    # Lists by state and by tag: a tag's rows carry the state, so that one range holds both.
    f"""
    CREATE INDEX runs_by_state ON runs (owner, state, sequence);
    CREATE TABLE run_tags (
        sequence INTEGER NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (sequence, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX run_tags_by_value ON run_tags (owner, name, value, state, sequence);
    CREATE TRIGGER tags_listed AFTER INSERT ON runs BEGIN
        INSERT INTO run_tags {_tags_of("NEW")};
    END;
    CREATE TRIGGER tags_relisted AFTER UPDATE OF tags ON runs WHEN NEW.tags <> OLD.tags BEGIN
        DELETE FROM run_tags WHERE sequence = OLD.sequence;
        INSERT INTO run_tags {_tags_of("NEW")};
    END;
    CREATE TRIGGER tags_moved AFTER UPDATE OF state ON runs WHEN NEW.state <> OLD.state BEGIN
        UPDATE run_tags SET state = NEW.state WHERE sequence = NEW.sequence;
    END;
    CREATE TRIGGER tags_unlisted AFTER DELETE ON runs BEGIN
        DELETE FROM run_tags WHERE sequence = OLD.sequence;
    END;
    INSERT INTO run_tags {_tags_of("runs", "runs, ")};
    """,  # noqa: S608
    # A submission's key lives in the run's request, so that the run directory has it, too.
    """
    CREATE UNIQUE INDEX runs_by_key
        ON runs (owner, json_extract(request, '$.marks.submission_key'))
        WHERE json_extract(request, '$.marks.submission_key') IS NOT NULL;
    """,
    # Who wants to be told of a run's states: written with the state itself, so that none is lost.
    # `due` is Unix time.
    """
    CREATE TABLE callbacks (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL,
        url TEXT NOT NULL,
        state TEXT NOT NULL,
        moved TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX callbacks_by_run ON callbacks (run_id, number);
    CREATE TRIGGER callbacks_wanted AFTER UPDATE OF state ON runs
        WHEN NEW.state <> OLD.state
        AND json_extract(NEW.request, '$.marks.callback_url') IS NOT NULL BEGIN
        INSERT INTO callbacks (run_id, url, state)
            VALUES (NEW.id, json_extract(NEW.request, '$.marks.callback_url'), NEW.state);
    END;
    """,
    # The terms of the service level, and how long the tools really took.
    """
    ALTER TABLE runs ADD COLUMN terms TEXT;
    ALTER TABLE runs ADD COLUMN real_seconds REAL;
    """,
)
"""Step N brings `PRAGMA user_version` from N to N + 1. Never edit a released step; add one."""


T = TypeVar("T")

_QUICKLY_CHECKED = 32 << 20
"""Bytes: an index of some thousand runs is checked in a moment."""

_FULL_DISK_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
"""What SQLite says on a full disk: the others where it cannot make its files beside the index."""


class Database:
    """Open it with `open`, close it with `close` (idempotent). Every call is one hop to SQLite's
    thread. When the disk is full, a write is tried once more with the room of `reserve`; it raises
    DiskFull when there is none even so."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        reserve: DiskReserve,
        path: Path,
    ) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._reserve = reserve
        self._transaction = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> "Database":
        """Raises StoreError for a file that is damaged or written by a newer wesemu."""
        async with AsyncExitStack() as opening:
            try:
                writer = await _connect(path, opening)
                await _check(writer, path)
                await _migrate(writer, path)
                reader = await _connect(path, opening)
                await reader.execute("PRAGMA query_only = ON")
                reserve = DiskReserve(path.with_name(f"{path.name}.reserve"))
                await asyncio.to_thread(reserve.take)
            except sqlite3.DatabaseError as error:
                raise _damaged(path, error) from error
            opening.pop_all()
        return cls(writer, reader, reserve, path)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                await self._reader.close()
            finally:
                await self._writer.close()

    async def write(self, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One statement, committed by itself; the rows of its RETURNING."""
        rows = await self._with_room(lambda: self._writer.execute_fetchall(statement, values))
        return [dict(row) for row in rows]

    async def write_many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """One statement for each of `rows`, in one commit."""
        await self._with_room(lambda: self._write_many(statement, rows))

    async def _write_many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            await self._writer.execute("BEGIN IMMEDIATE")
            await self._writer.executemany(statement, rows)
            await self._writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):
                await self._writer.execute("ROLLBACK")
            raise

    async def _with_room(self, act: Callable[[], Awaitable[T]]) -> T:
        async with self._transaction:
            try:
                done = await _told(act, self._path)
            except DiskFull:
                if not await asyncio.to_thread(self._reserve.give):
                    raise
                return await _told(act, self._path)
            if not self._reserve.held:
                await asyncio.to_thread(self._reserve.take)
            return done

    async def rows(self, query: str, values: Iterable[object] = ()) -> list[dict[str, Any]]:
        """Raises StoreError for pages that are damaged."""
        try:
            found = await self._reader.execute_fetchall(query, list(values))
        except sqlite3.DatabaseError as error:
            raise _damaged(self._path, error) if _is_damage(error) else error from error
        return [dict(row) for row in found]


async def _told(act: Callable[[], Awaitable[T]], path: Path) -> T:
    try:
        return await act()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _FULL_DISK_CODES:
            raise
        raise DiskFull(
            f"the index cannot be written ({error}); make room on the disk of the data directory"
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, error) if _is_damage(error) else error from error


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _damaged(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    return StoreError(
        f"cannot use the index {path}: {error}. The run directories keep what happened: stop the "
        f"server, move the file away (mv {path} {path}.damaged; rm -f {path}-wal {path}-shm), then "
        f"type: wesemu rebuild --data {path.parent}"
    )


async def _connect(path: Path, opening: AsyncExitStack) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    opening.push_async_callback(connection.close)
    connection.row_factory = sqlite3.Row
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    await connection.execute("PRAGMA foreign_keys = ON")
    await connection.execute("PRAGMA busy_timeout = 5000")
    return connection


async def _check(connection: aiosqlite.Connection, path: Path) -> None:
    """Raises StoreError for another program's database; sqlite3.DatabaseError for damage that is
    found in a small one."""
    tables = await connection.execute_fetchall("SELECT name FROM sqlite_master")
    version = await connection.execute_fetchall("PRAGMA user_version")
    if list(tables) and not next(iter(version))[0]:
        raise StoreError(
            f"{path} is a database of another program; choose another data directory, or move it "
            "away"
        )
    if (await asyncio.to_thread(path.stat)).st_size <= _QUICKLY_CHECKED:
        [found] = await connection.execute_fetchall("PRAGMA quick_check(1)")
        if found[0] != "ok":
            raise sqlite3.DatabaseError(found[0])


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    version = int(row[0]) if row else 0
    if version > len(MIGRATIONS):
        raise StoreError(f"the index {path} was written by a newer wesemu; use that one")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        await connection.executescript(f"BEGIN;{script}PRAGMA user_version = {number};COMMIT;")
