"""Attempts of tasks as pages show them: facts, exit codes in words, why a task waits, time left."""

import signal
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from textwrap import dedent

from wesemu.api.wes.responses import task_id
from wesemu.dashboard.pages import iso
from wesemu.errors import NotFound
from wesemu.runs.model import JsonObject, Run, TaskLog, TaskState

STATE_WORDS: Mapping[TaskState, str] = {
    TaskState.QUEUED: "waiting",
    TaskState.RUNNING: "running",
    TaskState.COMPLETE: "complete",
    TaskState.EXECUTOR_ERROR: "failed",
    TaskState.CANCELED: "canceled",
}

Needs = Mapping[str, set[str]]
"""The rules whose outputs a rule needs, by rule."""

_MOST_REASONS = 3
_SIGNALS = 128
_EXIT_WORDS = {
    0: "success",
    126: "the command is not executable",
    127: "the command was not found",
    130: "interrupted (SIGINT)",
    137: "killed (SIGKILL), often because memory ran out",
    139: "crashed (segmentation fault)",
    141: "its output was closed (SIGPIPE)",
    143: "ended (SIGTERM)",
}


def exit_words(code: int | None) -> str | None:
    """Return an exit code in words; None if there is none. Codes above 128 are signals."""
    if code is None:
        return None
    if code in _EXIT_WORDS:
        return _EXIT_WORDS[code]
    if code < _SIGNALS:
        return "the command reports an error"
    try:
        return f"ended by the signal {signal.Signals(code - _SIGNALS).name}"
    except ValueError:
        return "the command reports an error"


def label(task: TaskLog) -> str:
    """Return the name of a task with its wildcards."""
    wildcards = ", ".join(f"{name}={value}" for name, value in task.wildcards.items())
    return f"{task.name} ({wildcards})" if wildcards else task.name


def find_task(tasks: Iterable[TaskLog], wanted: str) -> TaskLog:
    """Return the attempt with the id `wanted`. Raises NotFound."""
    task = next((task for task in tasks if task_id(task) == wanted), None)
    if task is None:
        raise NotFound(f"the run has no task {wanted[:40]!r}")
    return task


def latest_attempts(tasks: Sequence[TaskLog]) -> list[TaskLog]:
    """Return the last attempt of each task, in the order of the tasks."""
    latest: dict[str, TaskLog] = {}
    for task in tasks:
        if task.id not in latest or task.attempt > latest[task.id].attempt:
            latest[task.id] = task
    return list(latest.values())


def waits_for(task: TaskLog, latest: Mapping[str, TaskLog]) -> str | None:
    """Return what a queued task waits for; None for others. `latest` has all tasks by id."""
    if task.state is not TaskState.QUEUED:
        return None
    needed = (latest.get(one) for one in task.details.after)
    names = {one.name for one in needed if one is not None and one.state is not TaskState.COMPLETE}
    return f"outputs of {', '.join(sorted(names))}" if names else "cores, memory or GPUs"


def run_seconds(task: TaskLog, now: datetime | None = None) -> float | None:
    """Return how long an attempt ran until its end or `now`; None if it did not start."""
    end = task.ended or now
    if task.started is None or end is None:
        return None
    return max((end - task.started).total_seconds(), 0.0)


def lease_seconds(task: TaskLog) -> float | None:
    """Return how long an attempt waited for its lease; None if that is unknown."""
    ready = task.details.ready
    if ready is None or task.started is None:
        return None
    return max((task.started - ready).total_seconds(), 0.0)


def efficiency(task: TaskLog) -> float | None:
    """Return CPU time divided by the time of the leased cores, at most 1."""
    took = run_seconds(task)
    if task.cpu_seconds is None or not took:
        return None
    cores = task.details.cores or task.threads or 1
    return round(min(task.cpu_seconds / (took * cores), 1.0), 3)


def describe(task: TaskLog) -> JsonObject:
    """Return all that is known about an attempt. Times are those of the wall clock."""
    details = task.details
    return {
        "id": task_id(task),
        "name": task.name,
        "label": label(task),
        "attempt": task.attempt,
        "state": task.state.value,
        "word": STATE_WORDS[task.state],
        "command": task.command and dedent(task.command).strip("\n"),
        "threads": task.threads,
        "seconds": run_seconds(task),
        "cpu_seconds": task.cpu_seconds,
        "efficiency": efficiency(task),
        "peak_memory": task.peak_memory,
        "exit_code": task.exit_code,
        "exit_words": exit_words(task.exit_code),
        "ready": iso(details.ready),
        "started": iso(task.started),
        "ended": iso(task.ended),
        "lease_seconds": lease_seconds(task),
        "cores": details.cores,
        "memory_mb": details.memory_mb,
        "devices": [*details.devices],
        "read_bytes": details.read_bytes,
        "written_bytes": details.written_bytes,
        "inputs": [*details.inputs],
        "outputs": [*details.outputs],
        "after": [*details.after],
    }


def steps(tasks: Sequence[TaskLog]) -> list[JsonObject]:
    """Return one entry for each rule: tasks by state, and the seconds of all its attempts.

    Rules come after those that they need.
    """
    latest = {task.id: task for task in latest_attempts(tasks)}
    rules: dict[str, list[TaskLog]] = {}
    for task in latest.values():
        rules.setdefault(task.name, []).append(task)
    seconds: dict[str, float] = {}
    for task in tasks:
        if task.ended is not None:
            seconds[task.name] = seconds.get(task.name, 0.0) + (run_seconds(task) or 0.0)
    depth = depths(needs_of(tasks))
    return [
        _step(name, rules[name], latest, seconds.get(name, 0.0))
        for name in sorted(rules, key=lambda name: depth[name])
    ]


def needs_of(tasks: Sequence[TaskLog]) -> dict[str, set[str]]:
    """Return which rules each rule needs, as far as the engine reports them.

    All attempts count: after a restart, an attempt names only the tasks of its own launch.
    """
    names = {task.id: task.name for task in tasks}
    needs: dict[str, set[str]] = {task.name: set() for task in tasks}
    for task in tasks:
        needs[task.name] |= {names[one] for one in task.details.after if one in names}
    for name, needed in needs.items():
        needed.discard(name)  # a rule may need its own outputs for other wildcards
    return needs


def depths(needs: Needs) -> dict[str, int]:
    """Return a number for each rule that is larger than those of the rules that it needs.

    Breaks circles. Without recursion, which would end at long chains.
    """
    found: dict[str, int] = {}
    for name in needs:
        visiting: dict[str, None] = {}
        pending = [name]
        while pending:
            current = pending[-1]
            if current in found:
                pending.pop()
                continue
            visiting[current] = None
            needed = sorted(needs[current])
            missing = [one for one in needed if one not in found and one not in visiting]
            if missing:
                pending += missing
                continue
            found[current] = max((found[one] + 1 for one in needed if one in found), default=0)
            pending.pop()
    return found


def _step(
    name: str, rule: Sequence[TaskLog], latest: Mapping[str, TaskLog], seconds: float
) -> JsonObject:
    def number(state: TaskState) -> int:
        return sum(task.state is state for task in rule)

    waits = sorted({why for task in rule if (why := waits_for(task, latest))})
    return {
        "name": name,
        "total": len(rule),
        "done": number(TaskState.COMPLETE),
        "running": number(TaskState.RUNNING),
        "failed": number(TaskState.EXECUTOR_ERROR),
        "canceled": number(TaskState.CANCELED),
        "waits_for": "; ".join(waits[:_MOST_REASONS]) or None,
        "seconds": seconds,
    }


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
