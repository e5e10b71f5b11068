"""The pages of one run: overview, timeline, logs, request, results."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from wesemu.api.wes.files import open_below
from wesemu.api.wes.responses import task_id
from wesemu.dashboard import plots
from wesemu.dashboard.pages import WebPage, iso, seconds_of, text_of
from wesemu.dashboard.run_table import row
from wesemu.errors import NotFound
from wesemu.provenance.redaction import redact_urls
from wesemu.runs.model import JsonObject, JsonValue, Run, RunState, TaskLog, TaskState
from wesemu.runs.run_directory import Workspace
from wesemu.runs.run_figures import elapsed, labels, predict, promised

_GROUPED_FROM = 200
"""With more attempts of tasks than this, the timeline has one row for each rule."""

_LOG_BYTES = 64 << 10
"""Bytes of a log that a page shows; the whole file is one click away."""

_SUMMARY_BYTES = 4 << 20

_MOST_TASKS = 1000
"""Attempts of tasks that the page of logs lists at most; failed and running ones come first."""

_ERROR = re.compile(r"\b(error|exception|fatal|failed|killed)\b|\[E::", re.IGNORECASE)

_EXIT_SIGNAL = 128
_EXIT_WORDS = {
    126: "the command is not executable",
    127: "the command was not found",
    130: "interrupted (SIGINT)",
    137: "killed (SIGKILL), often because memory ran out",
    139: "crashed (segmentation fault)",
    141: "its output was closed (SIGPIPE)",
    143: "ended (SIGTERM)",
}


def overview(run: Run, tasks: Sequence[TaskLog], now: datetime) -> WebPage:
    """Return the sentence on top, the steps, the service level, figures and results."""
    content = head(run, now) | {
        "sentence": _sentence(run, tasks),
        "steps": _steps(tasks),
        "sla": _service_level(run, now),
        "failure": _failure(run, tasks),
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


def timeline(run: Run, tasks: Sequence[TaskLog], now: datetime) -> WebPage:
    """Return a bar for each attempt of a task, or for each rule if there are many.

    `begin` and `length` are in percent of the time from the first start to the last end.
    """
    started = [task for task in tasks if task.started is not None]
    grouped = len(started) > _GROUPED_FROM
    bars = _rule_bars(started, now) if grouped else _task_bars(started, now)
    first = min((bar.begin for bar in bars), default=now)
    last = max((bar.end for bar in bars), default=now)
    total = max((last - first).total_seconds(), 0.001)
    content = head(run, now) | {
        "bars": [bar.to_json(first, total) for bar in bars],
        "grouped": grouped,
        "seconds": total,
        "waiting": sum(task.state is TaskState.QUEUED for task in tasks),
    }
    return WebPage("timeline.html", f"{run.handle}: timeline", content)


def logs(
    run: Run, tasks: Sequence[TaskLog], workspace: Workspace, wanted: str, search: str
) -> WebPage:
    """Return the end of the engine's log, or the command and logs of the task with id `wanted`.

    Raises NotFound for an unknown task.
    """
    chosen = _find_task(tasks, wanted) if wanted else None
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
    content = head(run) | {
        "search": search,
        "task": _task(chosen) if chosen else None,
        "tasks": [_task(task) for task in started[:_MOST_TASKS]],
        "left_out": max(0, len(started) - _MOST_TASKS),
        "logs": texts,
    }
    return WebPage("logs.html", f"{run.handle}: logs", content)


def request(run: Run, attachments: Sequence[str], url: str) -> WebPage:
    """Return the parameters and files of the run, and commands that repeat it."""
    asked = run.request
    content = head(run) | {
        "parameters": {name: text_of(value) for name, value in asked.params.items()},
        "engine_parameters": dict(asked.engine_parameters),
        "tags": dict(asked.tags),
        "workflow_url": redact_urls(asked.workflow_url),
        "workflow_type": asked.workflow_type,
        "workflow_type_version": asked.workflow_type_version,
        "attachments": list(attachments),
        "curl": _curl(run, attachments, url),
    }
    return WebPage("request.html", f"{run.handle}: request", content)


def results(run: Run, workspace: Workspace) -> WebPage:
    """Return the figures of `summary.json` and plots of `samtools stats` of a bundled pipeline.

    Files of the same names from a user's own workflow may contain anything, so they are not read.
    """
    stats = _read(workspace, "results/stats.txt") if run.workflow else None
    summary = _read(workspace, "results/summary.json") if run.workflow else None
    content = head(run) | {
        "summary": _flat(json.loads(summary)) if summary else {},
        "plots": plots.of_stats(stats.decode(errors="replace")) if stats else [],
    }
    return WebPage("results.html", f"{run.handle}: results", content)


def log_path(tasks: Iterable[TaskLog], name: str) -> str:
    """Return the path below the run directory of `stdout`, `stderr` or `TASK.stderr`.

    Raises NotFound.
    """
    if name in ("stdout", "stderr"):
        return f"{name}.log"
    wanted, _, kind = name.rpartition(".")
    task = _find_task(tasks, wanted)
    path = {"stdout": task.stdout, "stderr": task.stderr}.get(kind)
    if path is None:
        raise NotFound(f"the task {wanted[:40]!r} has no {kind[:20]!r}")
    return path


def head(run: Run, now: datetime | None = None) -> dict[str, object]:
    """Return what all pages of a run show."""
    return {
        "run": row(run, now or run.ended or run.started or run.created)
        | {
            "started": iso(run.started),
            "ended": iso(run.ended),
            "type": run.request.workflow_type,
            "own": not run.workflow,
        }
    }


def _sentence(run: Run, tasks: Sequence[TaskLog]) -> str:
    latest = _latest_attempts(tasks)
    done = sum(task.state is TaskState.COMPLETE for task in latest)
    match run.state:
        case RunState.QUEUED:
            return "Waiting in the queue."
        case RunState.INITIALIZING:
            return "Preparing the inputs."
        case RunState.RUNNING:
            running = sorted({task.name for task in latest if task.state is TaskState.RUNNING})
            names = ", ".join(running) or "Waiting for resources"
            return f"{names}: {done} of {len(latest)} tasks done." if latest else "Starting."
        case RunState.CANCELING:
            return "Ending the tools."
        case RunState.COMPLETE:
            return f"Complete: {done} tasks, {len(run.outputs)} results."
        case RunState.CANCELED:
            return "Canceled."
        case RunState.EXECUTOR_ERROR | RunState.SYSTEM_ERROR:
            return f"Failed: {run.failure.message}" if run.failure else "Failed."


def _latest_attempts(tasks: Sequence[TaskLog]) -> list[TaskLog]:
    latest: dict[str, TaskLog] = {}
    for task in tasks:
        if task.id not in latest or task.attempt > latest[task.id].attempt:
            latest[task.id] = task
    return list(latest.values())


def _steps(tasks: Sequence[TaskLog]) -> list[JsonValue]:
    """Return one entry for each rule: tasks by state, and seconds of all its attempts."""
    steps: dict[str, JsonObject] = {}
    seconds: dict[str, float] = {}
    for task in _latest_attempts(tasks):
        step = steps.setdefault(
            task.name,
            {"name": task.name, "total": 0, "done": 0, "running": 0, "failed": 0, "seconds": 0.0},
        )
        step["total"] = _plus(step["total"])
        name = {
            TaskState.COMPLETE: "done",
            TaskState.RUNNING: "running",
            TaskState.EXECUTOR_ERROR: "failed",
        }.get(task.state)
        if name is not None:
            step[name] = _plus(step[name])
    for task in tasks:
        if task.started is not None and task.ended is not None:
            took = (task.ended - task.started).total_seconds()
            seconds[task.name] = seconds.get(task.name, 0.0) + took
    return [step | {"seconds": seconds.get(name, 0.0)} for name, step in steps.items()]


def _plus(value: JsonValue) -> int:
    assert isinstance(value, int)
    return value + 1


def _service_level(run: Run, now: datetime) -> JsonObject | None:
    """Return the promise in emulated seconds; None without a service level."""
    if not run.workflow or not run.service_level.has_promise:
        return None
    sla, predicted = promised(run), predict(run)
    content: JsonObject = {
        "level": run.service_level.name.lower(),
        "pace": run.terms.pace.value,
        "pretends": run.terms.pretends,
        "predicted": iso(predicted.finish) if predicted else None,
        "promise": None,
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
    failed = next((task for task in tasks if task.stderr == failure.stderr), None)
    return {
        "message": failure.message,
        "hint": failure.hint,
        "file": failure.file,
        "record": failure.record,
        "task": failure.task,
        "exit_code": failure.exit_code,
        "exit_words": _exit_words(failure.exit_code),
        "log": task_id(failed) if failed is not None and failure.stderr else None,
    }


def _task(task: TaskLog) -> JsonObject:
    took = task.ended - task.started if task.started and task.ended else None
    return {
        "id": task_id(task),
        "name": task.name,
        "label": _label(task),
        "attempt": task.attempt,
        "state": task.state.value,
        "command": task.command,
        "threads": task.threads,
        "seconds": seconds_of(took),
        "cpu_seconds": task.cpu_seconds,
        "peak_memory": task.peak_memory,
        "exit_code": task.exit_code,
        "exit_words": _exit_words(task.exit_code),
        "started": iso(task.started),
        "ended": iso(task.ended),
    }


def _label(task: TaskLog) -> str:
    wildcards = ", ".join(f"{name}={value}" for name, value in task.wildcards.items())
    return f"{task.name} ({wildcards})" if wildcards else task.name


def _exit_words(code: int | None) -> str | None:
    if not code:
        return None
    if code in _EXIT_WORDS:
        return _EXIT_WORDS[code]
    return f"signal {code - _EXIT_SIGNAL}" if code > _EXIT_SIGNAL else None


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the timeline: one attempt (`task` is its id), or all attempts of a rule.

    `efficiency` is the CPU time by the time of the leased cores, at most 1.
    """

    label: str
    state: TaskState
    begin: datetime
    end: datetime
    task: str | None = None
    attempt: int = 1
    efficiency: float | None = None
    peak_memory: int | None = None

    def to_json(self, first: datetime, total: float) -> JsonObject:
        """Return the row; `begin` and `length` in percent of `total` seconds from `first` on."""
        seconds = (self.end - self.begin).total_seconds()
        return {
            "label": self.label,
            "id": self.task,
            "state": self.state.value,
            "attempt": self.attempt,
            "begin": round(100 * (self.begin - first).total_seconds() / total, 3),
            "length": round(100 * seconds / total, 3),
            "seconds": seconds,
            "efficiency": self.efficiency,
            "peak_memory": self.peak_memory,
        }


def _task_bars(tasks: Sequence[TaskLog], now: datetime) -> list[Bar]:
    bars = [
        Bar(
            _label(task),
            task.state,
            task.started,
            task.ended or now,
            task_id(task),
            task.attempt,
            _efficiency(task),
            task.peak_memory,
        )
        for task in tasks
        if task.started is not None
    ]
    return sorted(bars, key=lambda bar: bar.begin)


def _rule_bars(tasks: Sequence[TaskLog], now: datetime) -> list[Bar]:
    rules: dict[str, list[Bar]] = {}
    for task, bar in zip(tasks, _task_bars(tasks, now), strict=True):
        rules.setdefault(task.name, []).append(bar)
    return [
        Bar(
            f"{name} ({len(bars)})",
            _joint_state(bars),
            min(bar.begin for bar in bars),
            max(bar.end for bar in bars),
            peak_memory=max((bar.peak_memory or 0 for bar in bars), default=0) or None,
        )
        for name, bars in rules.items()
    ]


def _joint_state(bars: Iterable[Bar]) -> TaskState:
    states = {bar.state for bar in bars}
    order = (TaskState.RUNNING, TaskState.EXECUTOR_ERROR, TaskState.CANCELED)
    return next((state for state in order if state in states), TaskState.COMPLETE)


def _efficiency(task: TaskLog) -> float | None:
    if task.cpu_seconds is None or task.started is None or task.ended is None:
        return None
    available = (task.ended - task.started).total_seconds() * (task.threads or 1)
    return round(min(task.cpu_seconds / available, 1.0), 3) if available > 0 else None


def _find_task(tasks: Iterable[TaskLog], wanted: str) -> TaskLog:
    task = next((task for task in tasks if task_id(task) == wanted), None)
    if task is None:
        raise NotFound(f"the run has no task {wanted[:40]!r}")
    return task


def _log(workspace: Workspace, path: str, search: str) -> JsonObject:
    """Return the last lines of a log; with `search`, those that contain it."""
    content = b""
    file = open_below(workspace.root, path)
    size = 0
    if file is not None:
        with file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            content = file.read(_LOG_BYTES)
    lines = content.decode(errors="replace").splitlines()
    cut = size > _LOG_BYTES
    if cut and len(lines) > 1:  # the first line lacks its beginning
        lines = lines[1:]
    if search:
        lines = [line for line in lines if search.casefold() in line.casefold()]
    return {
        "size": size,
        "cut": cut,
        "lines": [{"text": line, "error": bool(_ERROR.search(line))} for line in lines],
    }


def _read(workspace: Workspace, path: str) -> bytes | None:
    file = open_below(workspace.outputs, path)
    if file is None:
        return None
    with file:
        return file.read(_SUMMARY_BYTES)


def _flat(values: Mapping[str, JsonValue], prefix: str = "") -> JsonObject:
    """Return nested values as one table: {"reads": {"total": 1}} becomes {"reads total": 1}."""
    table: JsonObject = {}
    for name, value in values.items():
        label = f"{prefix} {name}".strip().replace("_", " ")
        if isinstance(value, dict):
            table |= _flat(value, label)
        elif value is not None and value != []:
            table[label] = value
    return table


def _curl(run: Run, attachments: Sequence[str], url: str) -> str:
    """Return the curl command that submits the same request to WES."""
    asked = run.request
    fields = {
        "workflow_url": redact_urls(asked.workflow_url),
        "workflow_type": asked.workflow_type,
        "workflow_type_version": asked.workflow_type_version or "9",
        "workflow_params": json.dumps(asked.params, ensure_ascii=False),
    }
    if asked.engine_parameters:
        fields["workflow_engine_parameters"] = json.dumps(dict(asked.engine_parameters))
    if asked.tags:
        fields["tags"] = json.dumps(dict(asked.tags), ensure_ascii=False)
    words = [f"curl {url}/ga4gh/wes/v1/runs"]
    words += [f"-F {shlex.quote(f'{name}={value}')}" for name, value in fields.items()]
    words += [
        f"-F {shlex.quote(f'workflow_attachment=@{PurePosixPath(name).name};filename={name}')}"
        for name in attachments
    ]
    return " \\\n  ".join(words)
