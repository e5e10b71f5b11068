"""Task logs on their way to the store: many quick changes become one commit."""

from functools import partial

from wesemu.runs.buffer import Buffer
from wesemu.runs.changes import Changes
from wesemu.runs.model import RunId, TaskLog
from wesemu.runs.store import RunStore

_DELAY_SECONDS = 0.05


class TaskBuffer(Buffer):
    """Collects changed tasks of one run and writes them a moment later; the rest at the end."""

    def __init__(self, store: RunStore, changes: Changes, run_id: RunId) -> None:
        super().__init__(changes, run_id)
        self._store = store
        self._pending: dict[tuple[str, int], TaskLog] = {}

    def add(self, task: TaskLog) -> None:
        self._pending[task.id, task.attempt] = task
        self._begin()

    async def _later(self) -> None:
        await self._wait(_DELAY_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        while self._pending:
            tasks, self._pending = list(self._pending.values()), {}
            await self._write(partial(self._store.put_tasks, self._run_id, tasks))
