"""Figures that change while a run goes on, as its tags: told often, written twice a second."""

import json
from collections.abc import Mapping
from functools import partial

from wesemu.runs.buffer import Buffer
from wesemu.runs.changes import Changes
from wesemu.runs.model import Run
from wesemu.runs.store import RunStore

_DELAY_SECONDS = 0.5


class TagBuffer(Buffer):
    """Collects tags of one run and writes them a moment later; the rest at the end."""

    def __init__(self, store: RunStore, changes: Changes, run: Run) -> None:
        super().__init__(changes, run.id)
        self._store = store
        self._pending = False
        self.tags: dict[str, str] = dict(run.tags)

    def add(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags
        self._pending = True
        self._begin()

    async def _later(self) -> None:
        while self._pending and not self._closing.is_set():
            await self._flush()
            await self._wait(_DELAY_SECONDS)

    async def _flush(self) -> None:
        while self._pending:
            self._pending = False
            tags = json.dumps(self.tags, ensure_ascii=False)
            await self._write(partial(self._store.amend, self._run_id, tags=tags))
