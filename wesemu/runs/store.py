"""RunStore: the index of runs and tasks.

States change by compare-and-set against the transition table, so of two actors only one wins.
Also the selection of lists (`Selection`, `page_query`) and the cache of ended runs (`RunCache`).
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from wesemu.errors import RunNotFound, StoreError, TransitionRefused
from wesemu.runs import serialization
from wesemu.runs.database import Database
from wesemu.runs.model import TRANSITIONS, Owner, Run, RunId, RunState, TaskLog
from wesemu.runs.queries import RunQueue, RunStatistics
from wesemu.runs.webhooks import Outbox

# Lists of runs.

TAG_LIMIT = 256
"""Maximum characters of a tag, key and value together; lists cannot be filtered by longer tags."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Filter of a list of runs: one of `workflows` (names of bundled pipelines), one of `states`,
    and all of `tags` (key, value). An empty field does not filter."""

    workflows: tuple[str, ...] = ()
    states: tuple[RunState, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Page:
    """Runs, newest first. `before` is the sequence to continue from; None: no more runs."""

    runs: tuple[Run, ...]
    before: int | None


@dataclass(frozen=True, slots=True)
class Head:
    """Id, sequence and state of a run."""

    id: RunId
    sequence: int
    state: RunState


@dataclass(frozen=True, slots=True)
class HeadPage:
    """As `Page`, with the heads of the runs only."""

    heads: tuple[Head, ...]
    before: int | None


@dataclass(frozen=True, slots=True)
class _Range:
    """An index range with an owner's runs by sequence, and further conditions."""

    table: str
    clauses: Sequence[str] = ()
    values: Sequence[str] = ()


def page_query(
    owner: Owner, selection: Selection, before: int | None, limit: int, columns: str = "*"
) -> tuple[str, list[object]]:
    """Return the query and its values for `limit` runs with sequences below `before`, newest first.

    The query reads `limit` rows of one index range for each state or workflow, so the cost does not
    grow with the number of runs. Only several tags, or tags or states together with workflows,
    read rows that do not match.
    """
    queries: list[str] = []
    bound: list[object] = []
    for found in _ranges(selection):
        clauses = " AND ".join(["owner = ?", *found.clauses, "sequence < ?"])
        queries.append(
            f"SELECT sequence FROM (SELECT sequence FROM {found.table} AS found "
            f"WHERE {clauses} ORDER BY sequence DESC LIMIT ?)"
        )
        bound += [owner, *found.values, before if before is not None else 1 << 62, limit]
    return (
        f"SELECT {columns} FROM runs WHERE sequence IN ({' UNION ALL '.join(queries)}) "
        "ORDER BY sequence DESC LIMIT ?",
        [*bound, limit],
    )


def _ranges(selection: Selection) -> list[_Range]:
    """Return disjoint ranges of indexes that together have the runs of `selection`."""
    states = [state.value for state in dict.fromkeys(selection.states)]
    workflows = list(dict.fromkeys(selection.workflows))
    if selection.tags:
        return [_tagged(selection, state) for state in states or RunState]
    if states:
        clause = f"workflow IN ({', '.join('?' * len(workflows))})"
        also = [clause] if workflows else []
        return [_Range("runs", ["state = ?", *also], [state, *workflows]) for state in states]
    if workflows:
        return [_Range("runs", ["workflow = ?"], [workflow]) for workflow in workflows]
    return [_Range("runs")]


def _tagged(selection: Selection, state: str) -> _Range:
    (name, tag), *others = selection.tags
    clauses = ["name = ? AND value = ? AND state = ?"]
    values = [name, tag, state]
    for other in others:
        clauses.append(
            "EXISTS (SELECT 1 FROM run_tags AS other WHERE other.sequence = found.sequence "
            "AND other.name = ? AND other.value = ?)"
        )
        values.extend(other)
    if selection.workflows:
        marks = ", ".join("?" * len(selection.workflows))
        clauses.append(
            "EXISTS (SELECT 1 FROM runs WHERE runs.sequence = found.sequence "
            f"AND runs.workflow IN ({marks}))"
        )
        values.extend(selection.workflows)
    return _Range("run_tags", clauses, values)


# Cache of ended runs, which never change.

_RUNS = 2_000
_HEADS = 10_000
_LARGEST_ROW = 32_000
"""Characters of a row. Larger rows are not cached, which limits the memory."""


class RunCache:
    """LRU caches of ended runs and their heads.

    `removals` counts removed runs. Pass its value from before the read to `remember`: a run that
    was removed while it was read is then not cached.
    """

    def __init__(self) -> None:
        self._runs: LRUCache[str, Run] = LRUCache(_RUNS)
        self._heads: LRUCache[str, tuple[Owner, Head]] = LRUCache(_HEADS)
        self.removals = 0

    def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def remember(self, run: Run, size: int, removals: int) -> None:
        """Cache an ended run. `size` is the size of its row in characters."""
        if run.state.active or size > _LARGEST_ROW or removals != self.removals:
            return
        self._runs[run.id] = run

    def head(self, run_id: str) -> tuple[Owner, Head] | None:
        """Return the owner and the head of the run."""
        return self._heads.get(run_id)

    def remember_head(self, owner: Owner, head: Head, removals: int) -> None:
        if head.state.active or removals != self.removals:
            return
        self._heads[head.id] = owner, head

    def forget(self, run_id: str) -> None:
        """Drop a run that is being removed."""
        self.removals += 1
        self._runs.pop(run_id, None)
        self._heads.pop(run_id, None)

    def forget_all(self) -> None:
        self.removals += 1
        self._runs.clear()
        self._heads.clear()


class HandleTaken(StoreError):
    """The handle belongs to another run; draw another one."""


class RunStore:
    """All runs and their tasks. Open with `open`, close with `close` (idempotent)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended = RunCache()
        self._watchers: list[Callable[[Run], None]] = []
        self.outbox = Outbox(database)
        self.queue = RunQueue(database)
        self.statistics = RunStatistics(database)

    @classmethod
    async def open(cls, path: Path) -> "RunStore":
        """Open or create the index. Raises as `Database.open` does."""
        return cls(await Database.open(path))

    async def close(self) -> None:
        await self._database.close()

    @property
    def change_number(self) -> int:
        """A number that grows with every change; while it stays, queries return the same."""
        return self._database.writes

    def watch(self, callback: Callable[[Run], None]) -> None:
        """Call `callback` with each run that changes its state, after the commit."""
        self._watchers.append(callback)

    async def insert(self, run: Run) -> Run:
        """Commit a new run and return it with its sequence. Raises HandleTaken."""
        row = serialization.run_to_row(run)
        columns = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        try:
            stored = await self._database.write(
                f"INSERT INTO runs ({columns}) VALUES ({marks}) RETURNING *", row
            )
        except sqlite3.IntegrityError as error:
            if "runs.handle" not in str(error):
                raise
            raise HandleTaken(f"the handle {run.handle} is taken") from error
        return serialization.row_to_run(stored[0])

    async def get(self, run_id: str) -> Run:
        """Return the run with this id. Raises RunNotFound."""
        return self._ended.get(run_id) or await self._one("SELECT * FROM runs WHERE id = ?", run_id)

    async def head(self, run_id: str) -> tuple[Owner, Head]:
        """Return the owner and head of a run, which is cheaper than `get`. Raises RunNotFound."""
        if (cached := self._ended.head(run_id)) is not None:
            return cached
        removals = self._ended.removals
        rows = await self._database.rows(
            "SELECT owner, id, sequence, state FROM runs WHERE id = ?", [run_id]
        )
        if not rows:
            raise _unknown(run_id)
        owner, head = Owner(rows[0]["owner"]), _head(rows[0])
        self._ended.remember_head(owner, head, removals)
        return owner, head

    async def many(self, run_ids: Sequence[RunId]) -> dict[RunId, Run]:
        """Return those runs that exist."""
        runs = {run_id: run for run_id in run_ids if (run := self._ended.get(run_id)) is not None}
        missing = [run_id for run_id in run_ids if run_id not in runs]
        if missing:
            removals = self._ended.removals
            rows = await self._database.rows(
                f"SELECT * FROM runs WHERE id IN ({', '.join('?' * len(missing))})", missing
            )
            runs |= {run.id: run for run in (self._read(row, removals) for row in rows)}
        return runs

    async def by_handle(self, handle: str) -> Run:
        """Return the run with this handle. Raises RunNotFound."""
        return await self._one("SELECT * FROM runs WHERE handle = ?", handle)

    async def by_submission_key(self, owner: Owner, key: str) -> Run | None:
        """Return the run that was submitted with this key (`service.SubmissionKey`)."""
        rows = await self._database.rows(
            "SELECT * FROM runs WHERE owner = ? "
            "AND json_extract(request, '$.marks.submission_key') = ?",
            [owner, key],
        )
        return serialization.row_to_run(rows[0]) if rows else None

    async def page(
        self,
        owner: Owner,
        *,
        size: int,
        before: int | None = None,
        selection: Selection = EVERYTHING,
    ) -> Page:
        """Return at most `size` runs of an owner, newest first.

        Keyset pagination: the cost does not grow with the number of runs.
        """
        query, values = page_query(owner, selection, before, size + 1)
        rows = await self._database.rows(query, values)
        runs = tuple(serialization.row_to_run(row) for row in rows[:size])
        return Page(runs, runs[-1].sequence if len(rows) > size else None)

    async def heads(
        self,
        owner: Owner,
        *,
        size: int,
        before: int | None = None,
        selection: Selection = EVERYTHING,
    ) -> HeadPage:
        """Return the heads of the runs that `page` would return."""
        query, values = page_query(owner, selection, before, size + 1, "id, sequence, state")
        rows = await self._database.rows(query, values)
        heads = tuple(_head(row) for row in rows[:size])
        return HeadPage(heads, heads[-1].sequence if len(rows) > size else None)

    async def in_states(self, *states: RunState) -> list[Run]:
        """Return runs of all owners in these active states: best service level, then oldest first.

        States of ended runs find nothing.
        """
        rows = await self._database.rows(
            f"SELECT * FROM runs WHERE state IN ({', '.join('?' * len(states))}) "
            # the condition of the partial index, or SQLite would read the whole table
            "AND state IN ('QUEUED', 'INITIALIZING', 'RUNNING', 'CANCELING') "
            "ORDER BY service_rank, sequence",
            states,
        )
        return [serialization.row_to_run(row) for row in rows]

    async def active_owners(self) -> dict[RunId, Owner]:
        """Return the owners of all runs that have not ended."""
        rows = await self._database.rows(
            "SELECT id, owner FROM runs "
            "WHERE state IN ('QUEUED', 'INITIALIZING', 'RUNNING', 'CANCELING')"
        )
        return {RunId(row["id"]): Owner(row["owner"]) for row in rows}

    async def latest_time(self) -> datetime | None:
        """Return the latest emulated time of the last 1000 runs; None without runs."""
        rows = await self._database.rows(
            "SELECT max(coalesce(ended, started, created)) AS latest FROM "
            "(SELECT * FROM runs ORDER BY sequence DESC LIMIT 1000)"
        )
        latest = rows[0]["latest"] if rows else None
        return serialization.parse_timestamp(latest)

    async def state_counts(self, owner: Owner) -> dict[RunState, int]:
        """Count the runs of an owner by state; every state has an entry."""
        rows = await self._database.rows(
            "SELECT state, runs FROM state_counts WHERE owner = ?", [owner]
        )
        return dict.fromkeys(RunState, 0) | {RunState(row["state"]): row["runs"] for row in rows}

    async def all_state_counts(self) -> dict[RunState, int]:
        """Count the runs of all owners by state; every state has an entry."""
        rows = await self._database.rows(
            "SELECT state, sum(runs) AS runs FROM state_counts GROUP BY state"
        )
        return dict.fromkeys(RunState, 0) | {RunState(row["state"]): row["runs"] for row in rows}

    async def move(self, run_id: RunId, to: RunState, **values: Any) -> Run:
        """Move a run to another state if the transition table allows it, and set `values`.

        `values` are columns as in `serialization.run_to_row`. Raises TransitionRefused if the
        table has no step from the current state, RunNotFound.
        """
        # Compare-and-set in one statement: the WHERE clause has the allowed source states.
        sources = [state for state, targets in TRANSITIONS.items() if to in targets]
        changes = "".join(f", {name} = :{name}" for name in values)
        marks = ", ".join(f"'{state}'" for state in sources)
        rows = await self._database.write(
            f"UPDATE runs SET state = :to{changes} WHERE id = :id AND state IN ({marks}) "
            "RETURNING *",
            values | {"to": to.value, "id": run_id},
            # A power cut ends the processes of a starting run, too: it may be QUEUED again then.
            # The commit of RUNNING makes both durable.
            durable=to is not RunState.INITIALIZING,
        )
        if not rows:
            run = await self.get(run_id)
            raise TransitionRefused(f"run {run_id} is {run.state} and cannot become {to}")
        moved = serialization.row_to_run(rows[0])
        for callback in self._watchers:
            callback(moved)
        return moved

    async def amend(self, run_id: RunId, *, durable: bool = True, **values: Any) -> None:
        """Set columns of an active run, as in `move`; the state stays. `durable`: see Database."""
        changes = ", ".join(f"{name} = :{name}" for name in values)
        marks = ", ".join(f"'{state}'" for state in RunState if state.active)
        await self._database.write(
            f"UPDATE runs SET {changes} WHERE id = :id AND state IN ({marks})",
            values | {"id": run_id},
            durable=durable,
        )

    async def overwrite(self, run: Run) -> None:
        """Replace all columns of a run except its sequence."""
        row = serialization.run_to_row(run)
        changes = ", ".join(f"{name} = :{name}" for name in row)
        await self._database.write(f"UPDATE runs SET {changes} WHERE id = :id", row)
        self._ended.forget(run.id)

    async def is_empty(self) -> bool:
        return not await self._database.rows("SELECT 1 FROM runs LIMIT 1")

    async def known(self, names: Iterable[str]) -> set[RunId]:
        """Return the `names`, such as names of files, that are ids of runs."""
        ids = [name for name in names if name.isascii()]  # others may not be UTF-8
        rows = await self._database.rows(
            f"SELECT id FROM runs WHERE id IN ({', '.join('?' * len(ids))})", ids
        )
        return {RunId(row["id"]) for row in rows}

    async def ids_after(self, last: str, limit: int) -> list[RunId]:
        """Return the next `limit` ids after `last`, ascending."""
        rows = await self._database.rows(
            "SELECT id FROM runs WHERE id > ? ORDER BY id LIMIT ?", [last, limit]
        )
        return [RunId(row["id"]) for row in rows]

    async def ids(self) -> list[RunId]:
        """Return the ids of all runs of all owners in the order of their submissions."""
        rows = await self._database.rows("SELECT id FROM runs ORDER BY sequence")
        return [RunId(row["id"]) for row in rows]

    async def delete(self, run_id: RunId) -> None:
        await self._database.write("DELETE FROM runs WHERE id = :id", {"id": run_id})
        self._ended.forget(run_id)

    async def clear(self) -> list[RunId]:
        """Delete all runs of all owners and their callbacks. Return the ids of the runs."""
        await self._database.write("DELETE FROM callbacks", {})
        rows = await self._database.write("DELETE FROM runs RETURNING id", {})
        self._ended.forget_all()
        return [RunId(row["id"]) for row in rows]

    async def put_tasks(
        self, run_id: RunId, tasks: Iterable[TaskLog], *, durable: bool = False
    ) -> None:
        """Insert or update task attempts in one commit.

        The commit of the run's end makes them durable. Until then the event log has them, too.
        """
        rows = [serialization.task_to_row(run_id, task) for task in tasks]
        if rows:
            columns = ", ".join(rows[0])
            marks = ", ".join(f":{name}" for name in rows[0])
            updates = ", ".join(f"{name} = excluded.{name}" for name in rows[0])
            await self._database.write_many(
                f"INSERT INTO tasks ({columns}) VALUES ({marks}) "
                f"ON CONFLICT (run_id, id, attempt) DO UPDATE SET {updates}",
                rows,
                durable=durable,
            )

    async def task(self, run_id: RunId, task_id: str, attempt: int) -> TaskLog | None:
        """Return one attempt of a task, None if there is none."""
        rows = await self._database.rows(
            "SELECT * FROM tasks WHERE run_id = ? AND id = ? AND attempt = ?",
            [run_id, task_id, attempt],
        )
        return serialization.row_to_task(rows[0]) if rows else None

    async def tasks(
        self, run_id: RunId, *, start: int = 0, size: int | None = None
    ) -> list[TaskLog]:
        """Return task attempts from `start` on: started ones by start time, then the others."""
        rows = await self._database.rows(
            # sort rowids, because a sort of whole rows would read all of them
            "SELECT tasks.* FROM (SELECT rowid AS number FROM tasks WHERE run_id = ? "
            "ORDER BY started IS NULL, started, rowid LIMIT ? OFFSET ?) "
            "JOIN tasks ON tasks.rowid = number ORDER BY started IS NULL, started, tasks.rowid",
            [run_id, -1 if size is None else size, start],
        )
        # in a thread: 100,000 tasks take seconds
        return await asyncio.to_thread(lambda: [*map(serialization.row_to_task, rows)])

    async def _one(self, query: str, value: str) -> Run:
        removals = self._ended.removals
        rows = await self._database.rows(query, [value])
        if not rows:
            raise _unknown(value)
        return self._read(rows[0], removals)

    def _read(self, row: dict[str, Any], removals: int) -> Run:
        run = serialization.row_to_run(row)
        letters = sum(len(value) for value in row.values() if isinstance(value, str))
        self._ended.remember(run, letters, removals)
        return run


_STATES = {state.value: state for state in RunState}
"""Faster than calling RunState."""


def _head(row: dict[str, Any]) -> Head:
    return Head(row["id"], row["sequence"], _STATES[row["state"]])


def _unknown(run_id: str) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id[:80]!r}")
