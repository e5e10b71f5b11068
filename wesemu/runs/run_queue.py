"""RunQueue: queries for the queued runs in the index.

Each reads index ranges only, so its cost does not grow with the length of the queue, or, for
counts, only with the entries of one index.
"""

from collections.abc import Mapping
from datetime import datetime

from wesemu.runs import serialization
from wesemu.runs.database import Database
from wesemu.runs.model import Run

_LEAST_GPUS = "coalesce(json_extract(resources, '$.least_gpus'), 0)"
"""The expression of the index `runs_queued`."""

_RANGE = (
    "SELECT sequence FROM (SELECT sequence FROM runs WHERE state = 'QUEUED' "
    f"AND service_rank = ? AND {_LEAST_GPUS} = ? ORDER BY sequence LIMIT ?)"
)


class RunQueue:
    """Queued runs of all owners: best service level first, then oldest first."""

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
