"""Who waits for a run to change is woken here."""

import asyncio
from collections import defaultdict

from wesemu.runs.model import RunId


class Changes:
    """A bell for each run. `ring` after a change is committed; `wait` for the next ring."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def ring(self, run_id: RunId) -> None:
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(None)

    def subscribe(self, run_id: RunId) -> asyncio.Future[None]:
        """A future that is done at the next ring; take it before reading the run."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[run_id].add(future)
        return future
