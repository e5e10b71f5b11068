"""The pages of one run: overview, logs, results."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from io import BufferedReader
from typing import BinaryIO
from urllib.parse import quote

from wesemu.api.wes.responses import task_id
from wesemu.dashboard import plots
from wesemu.dashboard.pages import WebPage, iso
from wesemu.dashboard.run_table import row
from wesemu.dashboard.tasks import about, describe, exit_words, find_task, latest_attempts, steps
from wesemu.errors import NotFound
from wesemu.runs.model import (
    JsonObject,
    JsonValue,
    Pacing,
    Run,
    RunFailure,
    RunState,
    TaskLog,
    TaskState,
)
from wesemu.runs.run_directory import Workspace, open_below
from wesemu.runs.run_figures import elapsed, labels, predict, promised

_LOG_BYTES = 64 << 10
"""Bytes of a log that a page shows; the whole file is one click away."""

_SEARCHED_BYTES = 4 << 20
"""Bytes at the start of a log that are searched for the first error."""

_SIDE_BYTES = 8 << 10
_MOST_ATTEMPTS = 6
"""Attempts of a task that are shown side by side: the last ones, with the end of their stderr."""

_SUMMARY_BYTES = 4 << 20
_MOST_REPORTS = 5
_MOST_NAMES = 3

_MOST_TASKS = 1000
"""Attempts of tasks that the page of logs lists at most; failed and running ones come first."""

_ERROR = re.compile(
    r"\s*(?:(?:[\w./-]{1,60}:|\[[^]]{1,60}\]|\d[\d:.TZ/-]{4,40})\s+){0,4}"
    r"(?:\[E::|traceback\b|fatal\b|failed\b|killed\b|\w{0,40}(?:error|exception)\b(?! rate))",
    re.IGNORECASE,
)
"""A message of an error, after the name of a program or a time. A command may contain the word."""


def overview(
    run: Run, tasks: Sequence[TaskLog], now: datetime, seconds_left: float | None = None
) -> WebPage:
    """Return the sentence on top, the steps, the service level, figures and results.

    `now` is emulated time. `seconds_left` is the estimate for an active run, by the wall clock.
    """
    content: dict[str, object] = {
        "sentence": _sentence(run, tasks, now, seconds_left),
        "steps": steps(tasks),
        "sla": _service_level(run, now),
        "failure": _failure(run, tasks),
        "warnings": [*_warnings(run)],
        "figures": dict(sorted(labels(run).items())),
        "outputs": [
            {
                "name": output.name,
                "path": output.path,
                "size": output.size,
                "sha256": output.sha256,
                "published": output.published,
            }
            for output in run.outputs
        ],
    }
    return WebPage("run.html", run.handle, content)


def logs(
    run: Run, tasks: Sequence[TaskLog], workspace: Workspace, wanted: str, search: str
) -> WebPage:
    """Return the end of the engine's log, or the facts and logs of the task with id `wanted`.

    Raises NotFound for an unknown task.
    """
    chosen = find_task(tasks, wanted) if wanted else None
    prefix = f"{wanted}." if chosen else ""
    texts = [
        _log(workspace, log_path(tasks, prefix + name), search)
        | {"name": name, "url": f"/ui/runs/{run.id}/log/{prefix}{name}"}
        for name in ("stderr", "stdout")
        if chosen is None or getattr(chosen, name) is not None
    ]
    started = [task for task in tasks if task.started is not None]
    if len(started) > _MOST_TASKS:  # the sort is stable: they stay in the order of their start
        started.sort(key=lambda task: task.state is TaskState.COMPLETE)
    content: dict[str, object] = {
        "search": search,
        "task": _with_names(chosen, tasks) if chosen else None,
        "attempts": _attempts(chosen, tasks, workspace) if chosen else [],
        "tasks": [describe(task) for task in started[:_MOST_TASKS]],
        "left_out": max(0, len(started) - _MOST_TASKS),
        "logs": texts,
    }
    return WebPage("logs.html", f"{run.handle}: logs", content)


def _with_names(task: TaskLog, tasks: Iterable[TaskLog]) -> JsonObject:
    """Describe a task with the names of the tasks that it needed."""
    names = {each.id: each.name for each in tasks}
    needed: list[JsonValue] = [*sorted({names.get(one, one) for one in task.details.after})]
    return describe(task) | {"needs": needed}


def _attempts(chosen: TaskLog, tasks: Iterable[TaskLog], workspace: Workspace) -> list[JsonValue]:
    """Return the attempts of a task with the end of their stderr; none if there is only one."""
    attempts = sorted(
        (task for task in tasks if task.id == chosen.id and task.started is not None),
        key=lambda task: task.attempt,
    )
    if len(attempts) == 1:
        return []
    return [
        describe(task)
        | {
            "chosen": task.attempt == chosen.attempt,
            "stderr": _log(workspace, task.stderr, "", _SIDE_BYTES) if task.stderr else None,
        }
        for task in attempts[-_MOST_ATTEMPTS:]
    ]


def results(run: Run, workspace: Workspace) -> WebPage:
    """Return plots and the figures of `summary.json` of a bundled pipeline, and all HTML reports.

    Files of the same names from a user's own workflow may contain anything, so they are not read.
    Its reports are shown like others: a sandboxed frame isolates them.
    """
    files = ResultFiles(run, workspace)
    content: dict[str, object] = {
        "summary": flat(files.summary()),
        "plots": [
            *plots.of_stats(files.text("results/stats.txt")),
            *plots.of_idxstats(files.text("results/idxstats.txt")),
            *plots.of_variants(files.text("results/variants.txt")),
        ],
        "reports": [
            {"name": output.name, "url": f"/ui/runs/{run.id}/reports/{quote(output.path)}"}
            for output in run.outputs
            if output.path.endswith(REPORT_SUFFIX)
        ][:_MOST_REPORTS],
    }
    return WebPage("results.html", f"{run.handle}: results", content)


REPORT_SUFFIX = ".html"


class ResultFiles:
    """Reports of a bundled pipeline: published ones, or else those in `work/`."""

    def __init__(self, run: Run, workspace: Workspace) -> None:
        self._roots = (workspace.outputs, workspace.work) if run.workflow else ()

    def text(self, path: str) -> str:
        """Return the start of a report; "" if there is none."""
        for root in self._roots:
            if (file := open_below(root, path)) is not None:
                with file:
                    return file.read(_SUMMARY_BYTES).decode(errors="replace")
        return ""

    def summary(self) -> JsonObject:
        """Return `summary.json`; empty if there is none, or only a part of it yet."""
        try:
            content = json.loads(self.text("results/summary.json") or "{}")
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}


def log_path(tasks: Iterable[TaskLog], name: str) -> str:
    """Return the path below the run directory of `stdout`, `stderr` or `TASK.stderr`.

    Raises NotFound.
    """
    if name in ("stdout", "stderr"):
        return f"{name}.log"
    wanted, _, kind = name.rpartition(".")
    task = find_task(tasks, wanted)
    path = {"stdout": task.stdout, "stderr": task.stderr}.get(kind)
    if path is None:
        raise NotFound(f"the task {wanted[:40]!r} has no {kind[:20]!r}")
    return path


def head(run: Run, now: datetime) -> dict[str, object]:
    """Return what all pages of a run show. `now` is emulated time."""
    return {
        "run": row(run, now)
        | {
            "started": iso(run.started),
            "ended": iso(run.ended),
            "type": run.request.workflow_type,
            "own": not run.workflow,
        }
    }


def _sentence(run: Run, tasks: Sequence[TaskLog], now: datetime, seconds_left: float | None) -> str:
    latest = latest_attempts(tasks)
    done = sum(task.state is TaskState.COMPLETE for task in latest)
    match run.state:
        case RunState.QUEUED:
            return "Waiting in the queue."
        case RunState.INITIALIZING:
            return "Preparing the inputs."
        case RunState.RUNNING:
            if not latest:
                return "Starting."
            running = sorted({task.name for task in latest if task.state is TaskState.RUNNING})
            names = ", ".join(running[:_MOST_NAMES]) or "Waiting for resources"
            if len(running) > _MOST_NAMES:
                names += f" and {len(running) - _MOST_NAMES} more rules"
            if done == len(latest):
                names = "Publishing the results"
            return f"{names}: {done} of {len(latest)} tasks done{_left(run, now, seconds_left)}."
        case RunState.CANCELING:
            return "Ending the tools."
        case RunState.COMPLETE:
            return f"Complete: {_number(done, 'task')}, {_number(len(run.outputs), 'result')}."
        case RunState.CANCELED:
            return "Canceled."
        case RunState.EXECUTOR_ERROR | RunState.SYSTEM_ERROR:
            return _failed(run)


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _left(run: Run, now: datetime, seconds_left: float | None) -> str:
    if run.terms.pace is Pacing.SLA and (predicted := predict(run)) is not None:
        emulated = (predicted.finish - now).total_seconds()
        return f", {about(emulated)} of emulated time" if emulated > 0 else ""
    return "" if seconds_left is None else f", {about(seconds_left)}"


def _failed(run: Run) -> str:
    """Return the file and record of a failure, its message, and what to do."""
    if (failure := run.failure) is None:
        return "Failed."
    where = [
        failure.file if failure.file and failure.file not in failure.message else None,
        f"record {failure.record}" if failure.record else None,
    ]
    if failure.record and f"record {failure.record}" in failure.message:
        where.pop()
    place = ", ".join(each for each in where if each)
    message = f"{place}: {failure.message}" if place else failure.message
    hint = f" {failure.hint[0].upper()}{failure.hint[1:].rstrip('.')}." if failure.hint else ""
    return f"Failed: {message.rstrip('.')}.{hint}"


def _warnings(run: Run) -> Iterator[str]:
    if run.placement is not None and run.placement.note is not None:
        yield run.placement.note
    if run.shared_output is not None:
        yield run.shared_output.warning()
    yield from (run.tags[name] for name in _MESSAGE_TAGS if name in run.tags)
    yield from run.unpublished


_MESSAGE_TAGS = ("wesemu.warnings", "wesemu.notes")


def _service_level(run: Run, now: datetime) -> JsonObject | None:
    """Return the promise in emulated seconds; None without a service level."""
    if not run.workflow or not run.service_level.has_promise:
        return None
    sla, predicted = promised(run), predict(run)
    content: JsonObject = {
        "level": run.service_level.name.lower(),
        "counted": run.counts.total_bases if run.counts else None,
        "pace": run.terms.pace.value,
        "pretends": run.terms.pretends,
        "predicted": iso(predicted.finish) if predicted else None,
        "promise": None,
        "deadline": None,
        "price": None,
    }
    if sla is None:
        return content
    took = elapsed(run, now)
    return content | {
        "promise": sla.duration.total_seconds(),
        "elapsed": took.total_seconds(),
        "left": (sla.duration - took).total_seconds(),
        "met": sla.met(took) if run.state is RunState.COMPLETE else None,
        "deadline": iso(sla.deadline(run.started)) if run.started else None,
        "price": f"{sla.price.normalize():f}",
        "charged": f"{sla.charged(took).normalize():f}" if run.state is RunState.COMPLETE else None,
    }


def _failure(run: Run, tasks: Sequence[TaskLog]) -> JsonObject | None:
    failure = run.failure
    if failure is None:
        return None
    failed = _failed_task(failure, tasks)
    return {
        "message": failure.message,
        "hint": failure.hint,
        "file": failure.file,
        "record": failure.record,
        "task": failure.task,
        "exit_code": failure.exit_code,
        "exit_words": exit_words(failure.exit_code),
        "log": task_id(failed) if failed is not None else None,
    }


def _failed_task(failure: RunFailure, tasks: Sequence[TaskLog]) -> TaskLog | None:
    """Return the attempt with the log of the failure, or else the last one of its rule."""
    if failure.stderr is not None:
        return next((task for task in tasks if task.stderr == failure.stderr), None)
    failed = (
        task
        for task in reversed(tasks)
        if task.name == failure.task and task.state is TaskState.EXECUTOR_ERROR
    )
    return next(failed, None)


def _log(workspace: Workspace, path: str, search: str, most: int = _LOG_BYTES) -> JsonObject:
    """Return the last lines of a log; with `search`, those that contain it.

    `first_error` is the first line of the log that looks like an error.
    """
    content = b""
    error: JsonObject | None = None
    size = 0
    if (raw := open_below(workspace.root, path)) is not None:
        with BufferedReader(raw) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - most))
            content = file.read(most)
            file.seek(0)
            error = _first_error(file)
    lines = content.decode(errors="replace").splitlines()
    cut = size > most
    if cut and len(lines) > 1:  # the first line lacks its beginning
        lines = lines[1:]
    if search:
        lines = [line for line in lines if search.casefold() in line.casefold()]
    return {
        "size": size,
        "cut": cut,
        "first_error": error,
        "lines": [{"text": line, "error": bool(_ERROR.match(line))} for line in lines],
    }


def _first_error(file: BinaryIO) -> JsonObject | None:
    read = 0
    for number, line in enumerate(iter(lambda: file.readline(_LOG_BYTES), b""), start=1):
        text = line.decode(errors="replace").rstrip()
        if _ERROR.match(text):
            return {"line": number, "text": text[:_LONGEST_ERROR]}
        read += len(line)
        if read > _SEARCHED_BYTES:
            break
    return None


_LONGEST_ERROR = 400


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> JsonObject:
    """Return nested values as one table: {"reads": {"total": 1}} becomes {"reads total": 1}."""
    table: JsonObject = {}
    for name, value in values.items():
        label = f"{prefix} {name}".strip().replace("_", " ")
        if isinstance(value, dict):
            table |= flat(value, label)
        elif value is not None and value != []:
            table[label] = value
    return table
