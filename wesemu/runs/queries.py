"""Queries on the index of runs: RunQueue for the scheduler, RunStatistics for the dashboard."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from wesemu.runs import serialization
from wesemu.runs.database import Database
from wesemu.runs.model import Run, RunId, TaskState

_LEAST_GPUS = "coalesce(json_extract(resources, '$.least_gpus'), 0)"
"""The expression of the index `runs_queued`."""

_RANGE = (
    "SELECT sequence FROM (SELECT sequence FROM runs WHERE state = 'QUEUED' "
    f"AND service_rank = ? AND {_LEAST_GPUS} = ? ORDER BY sequence LIMIT ?)"
)


class RunQueue:
    """Queued runs of all owners: best service level first, then oldest first.

    Queries read index ranges only, so their cost does not grow with the length of the queue; the
    cost of counts grows with the entries of one index.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def next(self, most: Mapping[int, int], gpus: int) -> list[Run]:
        """Return the first runs of each service rank, in queue order.

        `most` maps a rank to its largest number of runs. Runs that need more than `gpus` GPUs are
        left out and not read.
        """
        # Only within one number of GPUs is the index sorted by age, so each has its own range.
        ranges = " UNION ALL ".join([_RANGE] * (gpus + 1))
        rank_query = f"SELECT * FROM (SELECT * FROM ({ranges}) ORDER BY sequence LIMIT ?)"
        values: list[int] = []
        for rank, number in most.items():
            for least in range(gpus + 1):
                values += [rank, least, number]
            values.append(number)
        queries = " UNION ALL ".join([rank_query] * len(most))
        rows = await self._database.rows(
            f"SELECT * FROM runs WHERE sequence IN ({queries}) ORDER BY service_rank, sequence",
            values,
        )
        return [serialization.row_to_run(row) for row in rows]

    async def first(self, limit: int) -> list[Run]:
        """Return the first runs in queue order, also those that need too many GPUs."""
        rows = await self._database.rows(
            "SELECT * FROM runs WHERE state = 'QUEUED' "
            # the condition of the partial index, or SQLite would read the whole table
            "AND state IN ('QUEUED', 'INITIALIZING', 'RUNNING', 'CANCELING') "
            "ORDER BY service_rank, sequence LIMIT ?",
            [limit],
        )
        return [serialization.row_to_run(row) for row in rows]

    async def count_beyond(self, gpus: int) -> int:
        """Count the runs that need more than `gpus` GPUs."""
        rows = await self._database.rows(
            f"SELECT count(*) AS runs FROM runs WHERE state = 'QUEUED' AND {_LEAST_GPUS} > ?",
            [gpus],
        )
        return int(rows[0]["runs"])

    async def levels(self) -> list[tuple[str, int, datetime]]:
        """Return service level, number of runs, and creation time of the oldest one."""
        rows = await self._database.rows(
            "SELECT service_level, first.runs AS runs, created FROM "
            "(SELECT min(sequence) AS sequence, count(*) AS runs FROM runs "
            "WHERE state = 'QUEUED' GROUP BY service_rank) AS first JOIN runs USING (sequence)"
        )
        return [
            (row["service_level"], int(row["runs"]), datetime.fromisoformat(row["created"]))
            for row in rows
        ]


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """Number of complete tasks of a run, and of all its tasks that are known so far."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class LeasedCores:
    """The cores of one attempt of a task, in wall clock time. `ended` is None while it runs."""

    started: datetime
    ended: datetime | None
    cores: int


class RunStatistics:
    """Queries whose cost does not grow with the number of stored runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def active_tasks(self) -> dict[TaskState, int]:
        """Count the tasks of all active runs by state; every state has an entry."""
        rows = await self._database.rows(
            "SELECT tasks.state AS state, count(*) AS tasks FROM runs "
            "JOIN tasks ON tasks.run_id = runs.id "
            "WHERE runs.state IN ('QUEUED', 'INITIALIZING', 'RUNNING', 'CANCELING') "
            "GROUP BY tasks.state"
        )
        counted = {TaskState(row["state"]): int(row["tasks"]) for row in rows}
        return {state: counted.get(state, 0) for state in TaskState}

    async def progress(self, run_ids: Sequence[RunId]) -> dict[RunId, TaskProgress]:
        """Count the tasks of each run; retries count once. Runs without tasks have no entry."""
        if not run_ids:
            return {}
        rows = await self._database.rows(
            "SELECT run_id, count(DISTINCT id) AS total, "
            "count(DISTINCT CASE state WHEN 'COMPLETE' THEN id END) AS done "
            f"FROM tasks WHERE run_id IN ({_marks(run_ids)}) GROUP BY run_id",
            run_ids,
        )
        return {
            RunId(row["run_id"]): TaskProgress(int(row["done"]), int(row["total"])) for row in rows
        }

    async def by_sequence(self, sequences: Iterable[int]) -> dict[int, Run]:
        """Return those runs of all owners that exist, by their sequence."""
        wanted = sorted(set(sequences))
        if not wanted:
            return {}
        rows = await self._database.rows(
            f"SELECT * FROM runs WHERE sequence IN ({_marks(wanted)})", wanted
        )
        return {run.sequence: run for run in map(serialization.row_to_run, rows)}

    async def leased_cores(self, most: int) -> list[LeasedCores]:
        """Return the leases of those of the last `most` attempts that have started."""
        rows = await self._database.rows(
            "SELECT started, ended, state, "
            "coalesce(json_extract(details, '$.cores'), threads, 1) AS cores FROM tasks "
            "WHERE rowid > (SELECT coalesce(max(rowid), 0) FROM tasks) - ? "
            # attempts of runs whose process was killed have no end
            "AND started IS NOT NULL AND (ended IS NOT NULL OR state = 'RUNNING')",
            [most],
        )
        return [
            LeasedCores(
                datetime.fromisoformat(row["started"]),
                serialization.parse_timestamp(row["ended"]),
                int(row["cores"]),
            )
            for row in rows
        ]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
