"""The index database: SQLite in WAL mode, with two writing and one reading connection.

One writing connection syncs each commit. The other does not: it is for changes that a power cut may
undo until the next durable commit. Only one of them writes at a time.

The module also has the schema with its migrations.
"""

import asyncio
import math
import shlex
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from wesemu.errors import DiskFull, IndexLocked, StoreError
from wesemu.runs.disk_full import FULL_DISK_ADVICE, DiskReserve

# Schema and migrations.


def _tags_of(run: str, source: str = "") -> str:
    """Return a query for the rows of run_tags of `run`; 256 characters is `store.TAG_LIMIT`."""
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
    # Lists by state and by tag: the rows of a tag contain the state, so one index range has both.
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
    # Idempotency keys: they are stored in the request, so the run directory has them, too.
    """
    CREATE UNIQUE INDEX runs_by_key
        ON runs (owner, json_extract(request, '$.marks.submission_key'))
        WHERE json_extract(request, '$.marks.submission_key') IS NOT NULL;
    """,
    # Callbacks: a trigger writes them in the transaction that changes the state, so none is lost.
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
    # SLA terms, and the wall clock time of the tools.
    """
    ALTER TABLE runs ADD COLUMN terms TEXT;
    ALTER TABLE runs ADD COLUMN real_seconds REAL;
    """,
    # The queue by service level and GPUs: runs that need more GPUs than the node has are not read.
    """
    CREATE INDEX runs_queued
        ON runs (service_rank, coalesce(json_extract(resources, '$.least_gpus'), 0), sequence)
        WHERE state = 'QUEUED';
    """,
    # What earlier versions stored in tags only (`run_figures.facts_of`).
    "ALTER TABLE runs ADD COLUMN facts TEXT;",
    # `TaskDetails` as JSON.
    "ALTER TABLE tasks ADD COLUMN details TEXT;",
)
"""Step N brings `PRAGMA user_version` from N to N + 1. Never edit a released step; add one."""

T = TypeVar("T")

_QUICKLY_CHECKED = 32 << 20
"""Bytes. Larger indexes are not checked at start-up, because it would take too long."""

_BUSY_MILLISECONDS = 5000

_FULL_DISK_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
"""SQLite's errors on a full disk. The last two: it cannot create its files beside the index."""

_INACCESSIBLE_CODES = (
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
)
"""SQLite's errors for a file that is not damaged, and cannot be opened."""


class Database:
    """SQLite connections. Open with `open`, close with `close` (idempotent).

    Each call runs in SQLite's thread. On a full disk, a write releases `reserve` and tries once
    more; it raises DiskFull if that fails, too. All calls raise IndexLocked if another program
    locks the file for more than 5 s.
    """

    def __init__(
        self,
        writer: aiosqlite.Connection,
        unsynced: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        reserve: DiskReserve,
        path: Path,
    ) -> None:
        self._path = path
        self._writer = writer
        self._unsynced = unsynced
        self._reader = reader
        self._reserve = reserve
        self._transaction = asyncio.Lock()
        self._found_locked = -math.inf
        """Time of the event loop at which a write last failed with IndexLocked."""
        self._closed = False
        self.writes = 0
        """The number of commits of this process."""

    @classmethod
    async def open(cls, path: Path) -> "Database":
        """Open or create the file, and migrate it to the current schema.

        Raises DiskFull, and StoreError for a damaged or inaccessible file or one of a newer wesemu.
        """
        async with AsyncExitStack() as opening:
            try:
                writer = await _connect(path, opening)
                await _check(writer, path)
                await _migrate(writer, path)
                unsynced = await _connect(path, opening)
                await unsynced.execute("PRAGMA synchronous = NORMAL")
                reader = await _connect(path, opening)
                await reader.execute("PRAGMA query_only = ON")
                reserve = DiskReserve(path.with_name(f"{path.name}.reserve"))
                await asyncio.to_thread(reserve.allocate)
            except sqlite3.DatabaseError as error:
                raise _unusable(path, error) from error
            opening.pop_all()
        return cls(writer, unsynced, reader, reserve, path)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            async with AsyncExitStack() as closing:
                for connection in (self._writer, self._unsynced, self._reader):
                    closing.push_async_callback(connection.close)

    async def write(
        self, statement: str, values: Mapping[str, Any], *, durable: bool = True
    ) -> list[dict[str, Any]]:
        """Execute and commit one statement. Return the rows of its RETURNING clause.

        Without `durable`, a kill of the server loses nothing, but a power cut may, until the next
        durable commit.
        """
        connection = self._writer if durable else self._unsynced
        records: Any = await self._with_reserve(
            lambda: connection.execute_fetchall(statement, values)
        )
        return list(records)

    async def write_many(
        self, statement: str, rows: Sequence[Mapping[str, Any]], *, durable: bool = True
    ) -> None:
        """Execute one statement for each of `rows`, in one commit; `durable` as in `write`."""
        connection = self._writer if durable else self._unsynced
        await self._with_reserve(lambda: _write_many(connection, statement, rows))

    async def _with_reserve(self, act: Callable[[], Awaitable[T]]) -> T:
        since = (loop := asyncio.get_running_loop()).time()
        async with self._transaction:
            # Writes that waited for that one fail, too: otherwise each would wait 5 s more.
            if self._found_locked > since:
                raise _locked(self._path)
            try:
                result = await _translate_errors(act, self._path)
            except DiskFull:
                if not await asyncio.to_thread(self._reserve.release):
                    raise
                return await _translate_errors(act, self._path)
            except IndexLocked:
                self._found_locked = loop.time()
                raise
            finally:
                self.writes += 1
            if not self._reserve.held:
                await asyncio.to_thread(self._reserve.allocate)
            return result

    async def rows(self, query: str, values: Iterable[object] = ()) -> list[dict[str, Any]]:
        """Execute a query. Raises StoreError for a damaged file."""
        try:
            records: Any = await self._reader.execute_fetchall(query, list(values))
        except sqlite3.DatabaseError as error:
            raise _translated(error, self._path) from error
        return list(records)


async def _write_many(
    connection: aiosqlite.Connection, statement: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    try:
        await connection.execute("BEGIN IMMEDIATE")
        await connection.executemany(statement, rows)
        await connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.OperationalError):
            await connection.execute("ROLLBACK")
        raise


async def _translate_errors(act: Callable[[], Awaitable[T]], path: Path) -> T:
    try:
        return await act()
    except sqlite3.DatabaseError as error:
        if _code(error) not in _FULL_DISK_CODES:
            raise _translated(error, path) from error
        raise DiskFull(f"the index cannot be written ({error}); {FULL_DISK_ADVICE}") from error


def _translated(error: sqlite3.DatabaseError, path: Path) -> Exception:
    match _code(error):
        case sqlite3.SQLITE_BUSY:
            return _locked(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(path, error)
        case _:
            return error


def _code(error: sqlite3.DatabaseError) -> int:
    """Return SQLite's primary result code; 0 for errors of the module sqlite3 itself."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _locked(path: Path) -> IndexLocked:
    return IndexLocked(
        f"another program, such as a backup, locks the index {path.name}; try again when it is done"
    )


def _unusable(path: Path, error: sqlite3.DatabaseError) -> StoreError | DiskFull:
    """Return the error for an index that cannot be opened. Only a damaged one needs a rebuild."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(
            f"cannot write the index {path}: the disk is full; make room, then try again"
        )
    if code in _INACCESSIBLE_CODES:
        return StoreError(
            f"cannot open the index {path}: {error}. Check that you may read and write this file "
            "and its folder, that the disk has room, and that no other program locks the file"
        )
    return _damaged(path, error)


def _damaged(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    index, data = shlex.quote(str(path)), shlex.quote(str(path.parent))
    return StoreError(
        f"cannot use the index {path}: {error}. The run directories keep what happened: stop the "
        f"server, move the file away (mv {index} {index}.damaged; rm -f {index}-wal {index}-shm), "
        f"then type: wesemu rebuild --data {data}"
    )


async def _connect(path: Path, opening: AsyncExitStack) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    opening.push_async_callback(connection.close)
    connection.row_factory = _Record
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    await connection.execute("PRAGMA foreign_keys = ON")
    await connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    return connection


class _Record(dict[str, Any]):
    """A row by column, made in SQLite's thread: a query may return 100,000 rows."""

    def __init__(self, cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> None:
        super().__init__(zip([column[0] for column in cursor.description], row, strict=True))


async def _check(connection: aiosqlite.Connection, path: Path) -> None:
    """Raise StoreError for a database of another program, sqlite3.DatabaseError for damage.

    Only small files are checked for damage.
    """
    tables = await connection.execute_fetchall("SELECT name FROM sqlite_master")
    version = await connection.execute_fetchall("PRAGMA user_version")
    if list(tables) and not next(iter(version))["user_version"]:
        raise StoreError(
            f"{path} is a database of another program; choose another data directory, or move it "
            "away"
        )
    if (await asyncio.to_thread(path.stat)).st_size <= _QUICKLY_CHECKED:
        [result] = await connection.execute_fetchall("PRAGMA quick_check(1)")
        if result["quick_check"] != "ok":
            raise sqlite3.DatabaseError(result["quick_check"])


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    version = int(row["user_version"]) if row else 0
    if version > len(MIGRATIONS):
        raise StoreError(f"the index {path} was written by a newer wesemu; use that one")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        await connection.executescript(f"BEGIN;{script}PRAGMA user_version = {number};COMMIT;")
