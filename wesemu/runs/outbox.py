"""Changes of state that somebody asked to be told of, until they have been told."""

from dataclasses import dataclass

from wesemu.runs.database import Database
from wesemu.runs.model import RunId, RunState


@dataclass(frozen=True, slots=True)
class Message:
    """A run's state for `url`. `number` grows from message to message, `moved` is when it
    happened (ISO 8601, UTC, wall clock), `due` when to try next (Unix time)."""

    number: int
    run_id: RunId
    url: str
    state: RunState
    moved: str
    attempts: int
    due: float


class Outbox:
    """Filled by the index itself, in the transaction that moves a run
    (`RunRequest.marks["callback_url"]`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self, limit: int) -> list[Message]:
        """The oldest message of each run, those that are due first at the front."""
        rows = await self._database.rows(
            "SELECT * FROM callbacks WHERE number IN "
            "(SELECT min(number) FROM callbacks GROUP BY run_id) ORDER BY due, number LIMIT ?",
            [limit],
        )
        return [Message(**row | {"state": RunState(row["state"])}) for row in rows]

    async def remove(self, message: Message) -> None:
        await self._database.write(
            "DELETE FROM callbacks WHERE number = :number", {"number": message.number}
        )

    async def postpone(self, message: Message, due: float) -> None:
        """One more attempt has failed."""
        await self._database.write(
            "UPDATE callbacks SET attempts = attempts + 1, due = :due WHERE number = :number",
            {"number": message.number, "due": due},
        )
