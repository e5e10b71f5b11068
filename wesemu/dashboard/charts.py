"""The charts of a run: its timeline and the graph of its rules.

The timeline shows when each attempt of a task waited and ran. The graph shows which rule needs
which, and how many tasks of each are done.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from wesemu.api.wes.responses import task_id
from wesemu.dashboard.pages import WebPage, clip
from wesemu.dashboard.tasks import (
    Needs,
    depths,
    efficiency,
    label,
    lease_seconds,
    needs_of,
    run_seconds,
    steps,
)
from wesemu.errors import InvalidRequest, NotFound
from wesemu.runs.model import JsonObject, JsonValue, Run, TaskLog, TaskState
from wesemu.util.text import whole_number

_PAGE = 200
"""With more attempts than this, the timeline has one row for each rule; the attempts of one rule
are on pages of this size."""

_TICKS = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """The time axis: from the first moment that is known of any task, in seconds."""

    first: datetime
    seconds: float

    def part(self, kind: str, begin: datetime, end: datetime) -> JsonObject:
        """Return a part of a bar; `begin` and `length` in percent of the axis."""
        seconds = max((end - begin).total_seconds(), 0.0)
        return {
            "kind": kind,
            "begin": round(100 * (begin - self.first).total_seconds() / self.seconds, 3),
            "length": round(100 * seconds / self.seconds, 3),
            "seconds": seconds,
        }


def timeline(
    run: Run, tasks: Sequence[TaskLog], query: Mapping[str, str], now: datetime
) -> WebPage:
    """Return a bar for each attempt of a task, or for each rule if there are many.

    `query`: `rule` shows the attempts of one rule only, `page` (from 1) its further ones. `now` is
    the time of the wall clock. Raises InvalidRequest, and NotFound for an unknown rule.
    """
    started = [task for task in tasks if task.started is not None]
    rule = query.get("rule", "")
    if rule and all(task.name != rule for task in tasks):
        raise NotFound(f"the run has no rule {rule[:60]!r}")
    wanted = [task for task in started if not rule or task.name == rule]
    page = _page_number(query.get("page", ""))
    grouped = not rule and len(wanted) > _PAGE
    axis = _axis(started, now)
    if grouped:
        bars = _rule_bars(run, wanted, axis, now)
    else:
        wanted.sort(key=_start)
        shown = wanted[(page - 1) * _PAGE : page * _PAGE]
        bars = _task_bars(run, shown, _before(tasks), axis, now)
    content: dict[str, object] = {
        "bars": bars,
        "grouped": grouped,
        "rule": rule or None,
        "attempts": len(wanted),
        "seconds": axis.seconds,
        "ticks": [axis.seconds * tick / _TICKS for tick in range(_TICKS + 1)],
        "waiting": sum(task.state is TaskState.QUEUED for task in tasks),
        "next": _url(run, rule, page + 1) if not grouped and len(wanted) > page * _PAGE else None,
        "previous": _url(run, rule, page - 1) if page > 1 else None,
    }
    return WebPage("timeline.html", f"{run.handle}: timeline", content)


def _page_number(text: str) -> int:
    number = whole_number(text or "1")
    if not number:
        raise InvalidRequest(f"{text[:40]!r} is not a page; pages count from 1", field="page")
    return number


def _url(run: Run, rule: str, page: int = 1) -> str:
    values = {"rule": rule, "page": str(page) if page > 1 else ""}
    query = urlencode({name: value for name, value in values.items() if value})
    return f"/ui/runs/{run.id}/timeline" + (f"?{query}" if query else "")


def _start(task: TaskLog) -> datetime:
    assert task.started is not None
    return task.started


def _end(task: TaskLog, now: datetime) -> datetime:
    return max(task.ended or now, _start(task))


def _axis(started: Sequence[TaskLog], now: datetime) -> Axis:
    begins = [task.details.ready or _start(task) for task in started]
    first = min((*begins, *map(_start, started)), default=now)
    last = max((_end(task, now) for task in started), default=now)
    return Axis(first, max((last - first).total_seconds(), 0.001))


def _before(tasks: Iterable[TaskLog]) -> dict[tuple[str, int], datetime]:
    """Return when the attempt before each attempt ended."""
    return {(task.id, task.attempt + 1): task.ended for task in tasks if task.ended is not None}


def _task_bars(
    run: Run,
    tasks: Iterable[TaskLog],
    before: Mapping[tuple[str, int], datetime],
    axis: Axis,
    now: datetime,
) -> list[JsonValue]:
    bars: list[JsonValue] = []
    for task in tasks:
        ready, start = task.details.ready, _start(task)
        parts = [axis.part("run", start, _end(task, now))]
        waited: float | None = None
        if ready is not None:
            asked = max(before.get((task.id, task.attempt), axis.first), axis.first)
            waited = max((ready - asked).total_seconds(), 0.0)
            parts = [
                axis.part("input", min(asked, ready), ready),
                axis.part("lease", min(ready, start), start),
                *parts,
            ]
        bars.append(
            {
                "label": label(task),
                "url": f"/ui/runs/{run.id}/logs?{urlencode({'task': task_id(task)})}",
                "state": task.state.value,
                "attempt": task.attempt,
                "parts": [part for part in parts if part["seconds"] or part["kind"] == "run"],
                "input_seconds": waited,
                "lease_seconds": lease_seconds(task),
                "seconds": run_seconds(task, now),
                "cores": task.details.cores or task.threads,
                "efficiency": efficiency(task),
                "peak_memory": task.peak_memory,
            }
        )
    return bars


def _rule_bars(run: Run, tasks: Iterable[TaskLog], axis: Axis, now: datetime) -> list[JsonValue]:
    """Return a bar for each rule, from its first start to its last end; seconds are sums."""
    rules: dict[str, list[TaskLog]] = {}
    for task in sorted(tasks, key=_start):
        rules.setdefault(task.name, []).append(task)
    return [
        {
            "label": f"{name} ({len(attempts)})",
            "url": _url(run, name),
            "state": _joint_state(attempts).value,
            "attempt": 1,
            "parts": [
                axis.part(
                    "run", _start(attempts[0]), max(_end(attempt, now) for attempt in attempts)
                )
            ],
            "input_seconds": None,
            "lease_seconds": _sum(lease_seconds(attempt) for attempt in attempts),
            "seconds": _sum(run_seconds(attempt, now) for attempt in attempts),
            "cores": None,
            "efficiency": _joint_efficiency(attempts),
            "peak_memory": max((each.peak_memory or 0 for each in attempts), default=0) or None,
        }
        for name, attempts in rules.items()
    ]


def _joint_state(attempts: Iterable[TaskLog]) -> TaskState:
    """Return running, failed, canceled or complete: the first that a last attempt of a task is."""
    latest = {task.id: task for task in sorted(attempts, key=lambda task: task.attempt)}
    states = {task.state for task in latest.values()}
    order = (TaskState.RUNNING, TaskState.EXECUTOR_ERROR, TaskState.CANCELED)
    return next((state for state in order if state in states), TaskState.COMPLETE)


def _joint_efficiency(attempts: Iterable[TaskLog]) -> float | None:
    measured = [each for each in attempts if each.cpu_seconds is not None and each.ended]
    used = sum(each.cpu_seconds or 0.0 for each in measured)
    available = sum(
        (run_seconds(each) or 0.0) * (each.details.cores or each.threads or 1) for each in measured
    )
    return round(min(used / available, 1.0), 3) if available else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


_MOST_RULES = 150
"""A drawing of more rules cannot be read; then there is only the table."""

_WIDTH, _HEIGHT = 200, 46
_ACROSS, _DOWN = 24, 44
_MARGIN = 4
_LABEL = 24
_SWEEPS = 4


def graph(run: Run, tasks: Sequence[TaskLog]) -> WebPage:
    """Return the rules with their counts, and their places in a drawing.

    `nodes` have `x` and `y`, `edges` are SVG paths from a rule to one that needs it. Coordinates
    are in units of the drawing, which is `width` by `height`. Without any known dependency, or with
    more than `_MOST_RULES` rules, there is no drawing and `width` is 0.
    """
    rules = steps(tasks)
    needs = needs_of(tasks)
    for rule in rules:
        rule["needs"] = [*sorted(needs[str(rule["name"])])]
        rule["state"] = _state(rule)
        rule["url"] = f"/ui/runs/{run.id}/timeline?{urlencode({'rule': rule['name']})}"
    drawn = any(needs.values()) and len(rules) <= _MOST_RULES
    content: dict[str, object] = {
        "rules": rules,
        **(
            _drawing(rules, needs) if drawn else {"nodes": [], "edges": [], "width": 0, "height": 0}
        ),
    }
    return WebPage("graph.html", f"{run.handle}: graph", content)


def _state(rule: JsonObject) -> str:
    if rule["failed"]:
        return "failed"
    if rule["running"]:
        return "running"
    if rule["done"] == rule["total"]:
        return "done"
    return "canceled" if rule["canceled"] else "waiting"


def _drawing(rules: Sequence[JsonObject], needs: Needs) -> JsonObject:
    layers = _ordered(_layers(needs), needs)
    across = max(len(layer) for layer in layers)
    width = across * (_WIDTH + _ACROSS) - _ACROSS + 2 * _MARGIN
    places: dict[str, tuple[float, float]] = {}
    for depth, layer in enumerate(layers):
        left = (width - len(layer) * (_WIDTH + _ACROSS) + _ACROSS) / 2
        for number, name in enumerate(layer):
            places[name] = (left + number * (_WIDTH + _ACROSS), _MARGIN + depth * (_HEIGHT + _DOWN))
    nodes: list[JsonValue] = [
        {
            **rule,
            "label": clip(str(rule["name"]), _LABEL),
            "x": places[str(rule["name"])][0],
            "y": places[str(rule["name"])][1],
        }
        for rule in rules
    ]
    edges: list[JsonValue] = [
        _edge(places[needed], places[name])
        for name, every in needs.items()
        for needed in sorted(_direct(name, every, needs))
    ]
    height = len(layers) * (_HEIGHT + _DOWN) - _DOWN + 2 * _MARGIN
    return {"nodes": nodes, "edges": edges, "width": width, "height": height}


def _layers(needs: Needs) -> list[list[str]]:
    """Return the rules by depth."""
    by_rule = depths(needs)
    layers: list[list[str]] = [[] for _ in range(max(by_rule.values()) + 1)]
    for name, depth in by_rule.items():
        layers[depth].append(name)
    return [layer for layer in layers if layer]


def _ordered(layers: list[list[str]], needs: Needs) -> list[list[str]]:
    """Order each layer by the mean place of the rules that a rule needs: fewer edges cross."""
    places = {name: float(number) for layer in layers for number, name in enumerate(layer)}
    for _ in range(_SWEEPS):
        for layer in layers[1:]:
            layer.sort(key=lambda name: _mean([places[one] for one in needs[name]], places[name]))
            offset = (len(layer) - 1) / 2
            places |= {name: number - offset for number, name in enumerate(layer)}
    return layers


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _direct(name: str, every: set[str], needs: Needs) -> set[str]:
    """Return the needed rules without those that a longer path reaches (transitive reduction)."""
    indirect: set[str] = set()
    pending = [one for needed in every for one in needs[needed]]
    while pending:
        current = pending.pop()
        if current not in indirect and current != name:
            indirect.add(current)
            pending += needs[current]
    return (every - indirect) or every


def _edge(above: tuple[float, float], below: tuple[float, float]) -> str:
    x, y = above[0] + _WIDTH / 2, above[1] + _HEIGHT
    to_x, to_y = below[0] + _WIDTH / 2, below[1]
    middle = (y + to_y) / 2
    return f"M{x:g},{y:g}C{x:g},{middle:g} {to_x:g},{middle:g} {to_x:g},{to_y:g}"
