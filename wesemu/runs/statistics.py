"""RunStatistics: queries for overviews of many runs, as the dashboard shows them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from wesemu.runs import serialization
from wesemu.runs.database import Database
from wesemu.runs.model import Run, RunId


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
