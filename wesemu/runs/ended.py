"""Runs that have ended never change: the ones asked for last are kept as objects."""

from collections import OrderedDict
from typing import Generic, TypeVar

from wesemu.runs.listing import Head
from wesemu.runs.model import Owner, Run

_RUNS = 2_000
_HEADS = 10_000
_LARGEST_ROW = 32_000
"""Letters of a row; what is larger is read again, so that memory stays bounded."""

T = TypeVar("T")


class EndedRuns:
    """A run that was removed while it was being read is not kept: who remembers one tells the
    `removals` of before the reading."""

    def __init__(self) -> None:
        self._runs = _Latest[Run](_RUNS)
        self._heads = _Latest[tuple[Owner, Head]](_HEADS)
        self.removals = 0

    def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def remember(self, run: Run, size: int, removals: int) -> None:
        """`size` is that of the run's row, in letters."""
        if run.state.active or size > _LARGEST_ROW or removals != self.removals:
            return
        self._runs.keep(run.id, run)

    def head(self, run_id: str) -> tuple[Owner, Head] | None:
        """Whose the run is, and its head."""
        return self._heads.get(run_id)

    def remember_head(self, owner: Owner, head: Head, removals: int) -> None:
        if head.state.active or removals != self.removals:
            return
        self._heads.keep(head.id, (owner, head))

    def forget(self, run_id: str) -> None:
        """The run is being removed."""
        self.removals += 1
        self._runs.forget(run_id)
        self._heads.forget(run_id)

    def forget_all(self) -> None:
        self.removals += 1
        self._runs.forget_all()
        self._heads.forget_all()


class _Latest(Generic[T]):
    """What was kept or asked for last, by its run; `most` of it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, T] = OrderedDict()

    def get(self, run_id: str) -> T | None:
        found = self._kept.get(run_id)
        if found is not None:
            self._kept.move_to_end(run_id)
        return found

    def keep(self, run_id: str, value: T) -> None:
        self._kept[run_id] = value
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, run_id: str) -> None:
        self._kept.pop(run_id, None)

    def forget_all(self) -> None:
        self._kept.clear()
