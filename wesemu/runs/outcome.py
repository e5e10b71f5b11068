"""How a run's end is reckoned from what its engine and its tasks tell. Pure."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import PurePath

from wesemu.errors import EngineFault, SystemFault, WesemuError
from wesemu.runs.model import RunFailure, RunState, TaskLog, TaskState
from wesemu.runs.ports import Outcome
from wesemu.runs.run_directory import Workspace, read_regular, write_json
from wesemu.util.text import os_reason

# How often the process of a run has vanished, counted over all servers that carried it out.


CRASH_LIMIT = 5
"""A run whose process has vanished so often is given up."""


def count_crash(workspace: Workspace) -> None:
    """One more. Raises EngineFault where the run is to be given up. Blocks."""
    crashes = _read(workspace) + 1
    write_json(workspace.crashes, {"crashes": crashes})
    if crashes >= CRASH_LIMIT:
        raise EngineFault(
            f"the engine's process vanished {crashes} times without an exit status, over all "
            "starts of the server; the run is given up. Was it killed for want of memory?"
        )


def _read(workspace: Workspace) -> int:
    try:
        return max(0, int(json.loads(read_regular(workspace.crashes, size=1000))["crashes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def cause(
    outcome: Outcome, failures: Sequence[RunFailure], explained: RunFailure | None
) -> RunFailure:
    """The original failure: what the workflow says itself, else the engine's first word."""
    first = failures[0] if failures else None
    if explained is not None and first is not None:
        return replace(explained, task=first.task, exit_code=first.exit_code, stderr=first.stderr)
    return (
        explained
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
    """The failure of a run that was successful but for outputs that cannot be published."""
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


def unpublished_note(outcome: Outcome) -> str:
    """One line for each result that cannot be published; "" for none."""
    lines = [f"{each.path} is not published: {each.reason}" for each in outcome.unpublished]
    if len(lines) > _MOST_NAMED:
        lines[_MOST_NAMED:] = [f"{len(lines) - _MOST_NAMED} more files are not published"]
    return "\n".join(lines)


def cancel_open_tasks(tasks: Sequence[TaskLog], now: datetime) -> list[TaskLog]:
    """Of the tasks of a canceled run those that had not ended, ended; `now` is on the wall clock.

    One that never began has no end.
    """
    return [
        replace(
            task,
            state=TaskState.CANCELED,
            ended=task.ended or (now if task.started else None),
        )
        for task in tasks
        if task.state in (TaskState.QUEUED, TaskState.RUNNING)
    ]


def real_seconds(tasks: Sequence[TaskLog]) -> float | None:
    """From the first task's start to the last one's end; None where no task has run."""
    started = [task.started for task in tasks if task.started is not None]
    ended = [task.ended for task in tasks if task.ended is not None]
    return (max(ended) - min(started)).total_seconds() if started and ended else None


class FailAtTask:
    """Tells when a run has come to the task at which it is made to fail (`Fault.fails_at_task`)."""

    def __init__(self, fails_at_task: int | None) -> None:
        self._left = fails_at_task
        self._begun: set[str] = set()

    def match(self, task: TaskLog) -> bool:
        """True once, for the task that is to fail; give it every change of every task."""
        if task.started is None or task.id in self._begun:
            return False
        self._begun.add(task.id)
        return len(self._begun) == self._left


def fault(error: Exception) -> tuple[RunState, RunFailure]:
    """How a run ends that an error broke off: its request or its inputs were at fault, or this
    machine was."""
    match error:
        case WesemuError():
            state = RunState.EXECUTOR_ERROR
            if isinstance(error, SystemFault):
                state = RunState.SYSTEM_ERROR
            return state, RunFailure(
                message=error.message,
                file=getattr(error, "file", None),
                record=getattr(error, "record", None),
            )
        case OSError():
            hint = "check the disk's free space and rights"
            return RunState.SYSTEM_ERROR, RunFailure(message=_without_folder(error), hint=hint)
        case _:
            told = f"{type(error).__name__}: {error}"
            return RunState.SYSTEM_ERROR, RunFailure(message=told)


def _without_folder(error: OSError) -> str:
    """The error with the name of its file; where that lies is the server's matter."""
    if not isinstance(error.filename, str):
        return os_reason(error)
    return f"{PurePath(error.filename).name}: {os_reason(error)}"
