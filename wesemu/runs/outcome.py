"""Outcome of a run: final state and failure, from the engine's outcome, tasks and errors.

Also the count of crashes of the run process, which is stored in the run directory.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import PurePath

from wesemu.errors import EngineFault, SystemFault, WesemuError
from wesemu.runs.model import RunFailure, RunState, TaskLog, TaskState
from wesemu.runs.ports import Outcome
from wesemu.runs.run_directory import Workspace, read_json, write_json
from wesemu.util.text import os_reason

CRASH_LIMIT = 5
"""After so many crashes, over all servers, a run is not launched again."""


def count_crash(workspace: Workspace) -> None:
    """Count one more crash. Raises EngineFault at `CRASH_LIMIT`. Blocks."""
    crashes = _read(workspace) + 1
    write_json(workspace.crashes, {"crashes": crashes})
    if crashes >= CRASH_LIMIT:
        raise EngineFault(
            f"the engine's process vanished {crashes} times without an exit status, over all "
            "starts of the server; it is not started again. Did the machine run out of memory?"
        )


def _read(workspace: Workspace) -> int:
    try:
        return max(0, int(read_json(workspace.crashes, 1000)["crashes"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0


def cause(
    outcome: Outcome, failures: Sequence[RunFailure], described: RunFailure | None
) -> RunFailure:
    """Return the original failure: the workflow's own description, else the engine's first error.

    `described` is the result of `Planner.describe_failure`.
    """
    first = failures[0] if failures else None
    if described is not None and first is not None:
        return replace(described, task=first.task, exit_code=first.exit_code, stderr=first.stderr)
    return (
        described
        or first
        or RunFailure(
            message=f"the workflow ended with exit status {outcome.exit_code}",
            hint="its standard error tells more",
            exit_code=outcome.exit_code,
            stderr="stderr.log",
        )
    )


_MOST_NAMED = 50


def refused_outputs(outcome: Outcome) -> RunFailure | None:
    """Return the failure of a successful run with declared outputs that cannot be published."""
    declared = [each for each in outcome.unpublished if each.declared]
    if not declared:
        return None
    first = declared[0]
    more = f" (and {len(declared) - 1} more)" if len(declared) > 1 else ""
    return RunFailure(
        message=f"the output {first.path} cannot be published: {first.reason}{more}",
        hint="have the workflow write a regular file inside its working directory; the outputs "
        "that could be published are listed as partial",
        exit_code=outcome.exit_code,
    )


def unpublished_notes(outcome: Outcome) -> tuple[str, ...]:
    """Return a sentence for each result that cannot be published."""
    lines = [f"{each.path} is not published: {each.reason}" for each in outcome.unpublished]
    if len(lines) > _MOST_NAMED:
        lines[_MOST_NAMED:] = [f"{len(lines) - _MOST_NAMED} more files are not published"]
    return tuple(lines)


def cancel_open_tasks(tasks: Sequence[TaskLog], now: datetime) -> list[TaskLog]:
    """Return the open tasks of a canceled run as CANCELED; `now` is wall clock time.

    Tasks that never started get no end time.
    """
    return [
        replace(
            task,
            state=TaskState.CANCELED,
            ended=task.ended or (task.started and max(now, task.started)),
        )
        for task in tasks
        if task.state in (TaskState.QUEUED, TaskState.RUNNING)
    ]


def real_seconds(tasks: Sequence[TaskLog]) -> float | None:
    """Return the seconds from the first start to the last end of a task; None without tasks.

    0 if the wall clock was set back between two launches.
    """
    started = [task.started for task in tasks if task.started is not None]
    ended = [task.ended for task in tasks if task.ended is not None]
    return max((max(ended) - min(started)).total_seconds(), 0.0) if started and ended else None


class FailAtTask:
    """Finds the task at which an injected fault ends the run (`InjectedFault.fails_at_task`)."""

    def __init__(self, fails_at_task: int | None) -> None:
        self._number = fails_at_task
        self._started: set[str] = set()

    def match(self, task: TaskLog) -> bool:
        """Return True once: when the task that must fail starts. Call it with every change."""
        if task.started is None or task.id in self._started:
            return False
        self._started.add(task.id)
        return len(self._started) == self._number


def fault(error: Exception) -> tuple[RunState, RunFailure]:
    """Return the final state and the failure of a run that an exception ended.

    EXECUTOR_ERROR: the request or its inputs are wrong. SYSTEM_ERROR: this machine failed.
    """
    match error:
        case WesemuError():
            state = RunState.EXECUTOR_ERROR
            if isinstance(error, SystemFault):
                state = RunState.SYSTEM_ERROR
            return state, RunFailure(
                message=str(error),
                file=getattr(error, "file", None),
                record=getattr(error, "record", None),
            )
        case OSError():
            hint = "check the disk's free space and permissions"
            return RunState.SYSTEM_ERROR, RunFailure(message=_without_folder(error), hint=hint)
        case _:
            return RunState.SYSTEM_ERROR, RunFailure(message=f"{type(error).__name__}: {error}")


def _without_folder(error: OSError) -> str:
    """Return the error with the name of its file, without the folder: callers must not see paths
    of the server."""
    if not isinstance(error.filename, str):
        return os_reason(error)
    return f"{PurePath(error.filename).name}: {os_reason(error)}"
