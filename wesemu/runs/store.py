"""The index of runs.

States move by compare-and-set against the transition table, so two actors can never both win.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wesemu.errors import RunNotFound, StoreError, TransitionRefused
from wesemu.runs import codec
from wesemu.runs.database import Database
from wesemu.runs.listing import EVERYTHING, Page, Selection, page_query
from wesemu.runs.model import TRANSITIONS, Owner, Run, RunId, RunState, TaskLog


class HandleTaken(StoreError):
    """The drawn handle belongs to another run; draw again."""


class RunStore:
    """All runs and their tasks. Open it with `open`, close it with `close` (idempotent)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, path: Path) -> "RunStore":
        """Raises StoreError for a file that is damaged or written by a newer wesemu."""
        return cls(await Database.open(path))

    async def close(self) -> None:
        await self._database.close()

    async def insert(self, run: Run) -> Run:
        """Commit a new run and return it with its sequence. Raises HandleTaken."""
        row = codec.run_to_row(run)
        columns = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        try:
            stored = await self._database.write(
                f"INSERT INTO runs ({columns}) VALUES ({marks}) RETURNING *", row
            )
        except sqlite3.IntegrityError as error:
            raise HandleTaken(f"the handle {run.handle} is taken") from error
        return codec.row_to_run(stored[0])

    async def get(self, run_id: str) -> Run:
        """Raises RunNotFound."""
        return await self._one("SELECT * FROM runs WHERE id = ?", run_id)

    async def by_handle(self, handle: str) -> Run:
        """Raises RunNotFound."""
        return await self._one("SELECT * FROM runs WHERE handle = ?", handle)

    async def page(
        self,
        owner: Owner,
        *,
        size: int,
        before: int | None = None,
        selection: Selection = EVERYTHING,
    ) -> Page:
        """At most `size` runs of an owner, newest first, by keyset: cost does not grow with
        the number of runs."""
        query, values = page_query(owner, selection, before, size + 1)
        rows = await self._database.rows(query, values)
        runs = tuple(codec.row_to_run(row) for row in rows[:size])
        return Page(runs, runs[-1].sequence if len(rows) > size else None)

    async def in_states(self, *states: RunState) -> list[Run]:
        """Runs of all owners, the best service level first, then the oldest."""
        rows = await self._database.rows(
            f"SELECT * FROM runs WHERE state IN ({', '.join('?' * len(states))}) "
            "ORDER BY service_rank, sequence",
            states,
        )
        return [codec.row_to_run(row) for row in rows]

    async def state_counts(self, owner: Owner) -> dict[RunState, int]:
        """Runs of an owner by state, every state named."""
        rows = await self._database.rows(
            "SELECT state, runs FROM state_counts WHERE owner = ?", [owner]
        )
        counted = {RunState(row["state"]): int(row["runs"]) for row in rows}
        return {state: counted.get(state, 0) for state in RunState}

    async def move(self, run_id: RunId, to: RunState, **values: Any) -> Run:
        """Move a run to another state if the transition table allows it, and set `values`.

        `values` are columns as `codec.run_to_row` names them. Raises TransitionRefused when
        the run's state has no such step any more, RunNotFound when the run is gone.
        """
        sources = [state for state, targets in TRANSITIONS.items() if to in targets]
        changes = "".join(f", {name} = :{name}" for name in values)
        marks = ", ".join(f"'{state}'" for state in sources)
        rows = await self._database.write(
            f"UPDATE runs SET state = :to{changes} WHERE id = :id AND state IN ({marks}) "
            "RETURNING *",
            values | {"to": to.value, "id": run_id},
        )
        if not rows:
            run = await self.get(run_id)
            raise TransitionRefused(f"run {run_id} is {run.state} and cannot become {to}")
        return codec.row_to_run(rows[0])

    async def delete(self, run_id: RunId) -> None:
        await self._database.write("DELETE FROM runs WHERE id = :id", {"id": run_id})

    async def put_tasks(self, run_id: RunId, tasks: Iterable[TaskLog]) -> None:
        """Insert or update attempts of tasks, in one commit."""
        rows = [codec.task_to_row(run_id, task) for task in tasks]
        if rows:
            columns = ", ".join(rows[0])
            marks = ", ".join(f":{name}" for name in rows[0])
            updates = ", ".join(f"{name} = excluded.{name}" for name in rows[0])
            await self._database.write_many(
                f"INSERT INTO tasks ({columns}) VALUES ({marks}) "
                f"ON CONFLICT (run_id, id, attempt) DO UPDATE SET {updates}",
                rows,
            )

    async def tasks(self, run_id: RunId) -> list[TaskLog]:
        """All attempts, in the order they were first seen."""
        rows = await self._database.rows(
            "SELECT * FROM tasks WHERE run_id = ? ORDER BY rowid", [run_id]
        )
        return [codec.row_to_task(row) for row in rows]

    async def _one(self, query: str, value: str) -> Run:
        rows = await self._database.rows(query, [value])
        if not rows:
            raise RunNotFound(f"there is no run {value[:80]!r}")
        return codec.row_to_run(rows[0])
