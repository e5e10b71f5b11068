"""The index database: SQLite in WAL mode, one connection that writes, one that reads."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from wesemu.errors import DiskFull, StoreError
from wesemu.runs.room import Reserve
from wesemu.runs.schema import MIGRATIONS

T = TypeVar("T")

_QUICKLY_CHECKED = 32 << 20
"""Bytes: an index of some thousand runs is checked in a moment."""

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
"""What SQLite says on a full disk: the others where it cannot make its files beside the index."""


class Database:
    """Open it with `open`, close it with `close` (idempotent). Every call is one hop to SQLite's
    thread. When the disk is full, a write is tried once more with the room of `reserve`; it raises
    DiskFull when there is none even so."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        reserve: Reserve,
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
                reserve = Reserve(path.with_name(f"{path.name}.reserve"))
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
        if error.sqlite_errorcode & 0xFF not in _NO_ROOM:
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
