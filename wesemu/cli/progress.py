"""How far runs are: live bars on a terminal, a line now and then elsewhere. All of it is talk."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from wesemu.cli.output import on_terminal, tell
from wesemu.cli.terminal import harmless_cell

_SILENCE_SECONDS = 10.0


class Board(Protocol):
    """Shows one row for each name. `done` of `total` steps; `state` is a word of the API; `note`
    says more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None: ...


def board() -> Board:
    """The one that suits stderr."""
    return Bars() if on_terminal() else Lines()


class Lines:
    """A line for every new state, and one when nothing has been said for ten seconds."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        before, told = self._told.get(name, ("", 0.0))
        news = f"{state} {note}"
        if news != before or now - told > _SILENCE_SECONDS:
            steps = f"  {done} of {total} steps" if total else ""
            tell(f"{name:<20} {state}{steps}" + (f"  {note}" if note else ""))
            self._told[name] = (news, now)


class Bars:
    """Bars drawn by rich on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
        )
        self._rows: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, name: str, state: str, done: int, total: int, note: str = "") -> None:
        from rich.progress import TaskID

        name, state, note = map(harmless_cell, (name, state, note))
        if name not in self._rows:
            self._rows[name] = self._progress.add_task(f"{name:<20}", total=1, state="")
        self._progress.update(
            TaskID(self._rows[name]),
            completed=done,
            total=max(total, 1),
            state=f"{state.lower()} {note}",
        )
