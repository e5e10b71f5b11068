"""How long an active run will need: by an earlier run of the same workflow, or by its own tasks."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from wesemu.dashboard.tasks import latest_attempts, run_seconds
from wesemu.runs.model import Run, TaskLog, TaskState

_MINUTE, _HOUR = 60, 3600


def work_ratio(run: Run, earlier: Run) -> float:
    """Return how much more input `run` has than `earlier`; 1 if that is unknown."""
    if run.counts and earlier.counts and earlier.counts.total_bases:
        return run.counts.total_bases / earlier.counts.total_bases
    if run.input_bytes and earlier.input_bytes:
        return run.input_bytes / earlier.input_bytes
    return 1.0


def seconds_left(
    tasks: Sequence[TaskLog], earlier: Sequence[TaskLog], ratio: float, now: datetime
) -> float | None:
    """Return the wall-clock seconds until the last task ends; None if they cannot be estimated.

    `earlier` are the tasks of a complete run of the same workflow, or none; `ratio` is how much
    more work there is than in that run. A run that takes longer than the earlier one has no
    estimate.
    """
    latest = latest_attempts(tasks)
    if {task.name for task in latest} <= {task.name for task in earlier}:
        return _by_earlier_run(latest, earlier, ratio, now)
    return _by_own_tasks(latest, now)


def _by_earlier_run(
    latest: Sequence[TaskLog], earlier: Sequence[TaskLog], ratio: float, now: datetime
) -> float | None:
    undone = {task.name for task in latest if task.state is not TaskState.COMPLETE}
    done = {task.name for task in latest} - undone
    ends = [task.ended for task in earlier if task.ended]
    starts = [task.started for task in earlier if task.started]
    own_starts = [task.started for task in latest if task.started]
    if not ends or not starts or not own_starts:
        return None
    # the moment at which the earlier run had done the rules that are done in this one
    reached = max((t.ended for t in earlier if t.ended and t.name in done), default=min(starts))
    since = max((t.ended for t in latest if t.ended and t.name in done), default=min(own_starts))
    left = (max(ends) - reached).total_seconds() * ratio - (now - since).total_seconds()
    return left if left > 0 else None


def _by_own_tasks(latest: Sequence[TaskLog], now: datetime) -> float | None:
    """Assume that a task takes the mean time of its rule, and that concurrency stays the same."""
    means = _means(task for task in latest if task.state is TaskState.COMPLETE)
    undone = [task for task in latest if task.state in (TaskState.QUEUED, TaskState.RUNNING)]
    if not means or any(task.name not in means for task in undone):
        return None
    spent = {task.id: run_seconds(task, now) or 0.0 for task in latest}
    first = min((task.started for task in latest if task.started), default=now)
    elapsed = (now - first).total_seconds()
    at_once = sum(spent.values()) / elapsed if elapsed > 0 else 1.0
    work = sum(max(means[task.name] - spent[task.id], 0.0) for task in undone)
    return work / max(at_once, 1.0)


def _means(tasks: Iterable[TaskLog]) -> Mapping[str, float]:
    seconds: dict[str, list[float]] = {}
    for task in tasks:
        seconds.setdefault(task.name, []).append(run_seconds(task) or 0.0)
    return {name: sum(each) / len(each) for name, each in seconds.items()}


def about(seconds: float) -> str:
    """Return a length in words that do not pretend to be exact: "about 4 min left"."""
    if seconds < _MINUTE:
        return "less than a minute left"
    if seconds < _HOUR:
        return f"about {round(seconds / _MINUTE)} min left"
    return f"about {seconds / _HOUR:.1f} h left"
