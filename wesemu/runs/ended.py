"""Runs that have ended never change: the ones asked for last are kept as objects."""

from collections import OrderedDict

from wesemu.runs.listing import Head
from wesemu.runs.model import Owner, Run

_RUNS = 2_000
_HEADS = 10_000
_LARGEST_ROW = 32_000
"""Letters of a row; what is larger is read again, so that memory stays bounded."""


class EndedRuns:
    """A run that was removed while it was being read is not kept: who remembers one tells the
    `removals` of before the reading."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._heads: OrderedDict[str, tuple[Owner, Head]] = OrderedDict()
        self.removals = 0

    def get(self, run_id: str) -> Run | None:
        run = self._runs.get(run_id)
        if run is not None:
            self._runs.move_to_end(run_id)
        return run

    def remember(self, run: Run, size: int, removals: int) -> None:
        """`size` is that of the run's row, in letters."""
        if run.state.active or size > _LARGEST_ROW or removals != self.removals:
            return
        self._runs[run.id] = run
        if len(self._runs) > _RUNS:
            self._runs.popitem(last=False)

    def head(self, run_id: str) -> tuple[Owner, Head] | None:
        """Whose the run is, and its head."""
        found = self._heads.get(run_id)
        if found is not None:
            self._heads.move_to_end(run_id)
        return found

    def remember_head(self, owner: Owner, head: Head, removals: int) -> None:
        if head.state.active or removals != self.removals:
            return
        self._heads[head.id] = owner, head
        if len(self._heads) > _HEADS:
            self._heads.popitem(last=False)

    def forget(self, run_id: str) -> None:
        """The run is being removed."""
        self.removals += 1
        self._runs.pop(run_id, None)
        self._heads.pop(run_id, None)

    def forget_all(self) -> None:
        self.removals += 1
        self._runs.clear()
        self._heads.clear()
