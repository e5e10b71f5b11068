"""Where the commands of a run's tasks run: on this machine, or on a cluster's nodes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from wesemu.engines.snakemake.hooks import JobFacts
from wesemu.engines.task_process import Attempt, TaskProcess, Usage
from wesemu.runs.model import Resources

Ended = Callable[[int, Usage], None]
"""Told once: the exit status, and what was used."""


class Place(Protocol):
    """Thread-safe."""

    def is_elsewhere(self, job: JobFacts) -> bool:
        """Whether the job, once it is ready, does not run in this machine's own processes."""
        ...

    def start(
        self, job: JobFacts, attempt: Attempt, command: str, ended: Ended, options: dict[str, Any]
    ) -> TaskProcess:
        """Start a shell command; `options` are those of Popen."""
        ...

    def enter_group(
        self, jobids: Iterable[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        """Blocks until jobs that run together may start. Raises PlaceRefused."""
        ...

    def leave_group(self, jobids: Iterable[int]) -> None: ...

    def cancel(self) -> None:
        """Whoever waits in `enter_group` gets PlaceRefused."""
        ...


class PlaceRefused(RuntimeError):
    """Jobs that run together were given no place."""


class ThisMachine:
    """Implements Place."""

    def is_elsewhere(self, job: JobFacts) -> bool:
        return False

    def start(
        self, job: JobFacts, attempt: Attempt, command: str, ended: Ended, options: dict[str, Any]
    ) -> TaskProcess:
        return TaskProcess(command, ended, **options)

    def enter_group(
        self, jobids: Iterable[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        """They share this machine."""

    def leave_group(self, jobids: Iterable[int]) -> None:
        """Nothing was taken."""

    def cancel(self) -> None:
        """Nobody waits."""
