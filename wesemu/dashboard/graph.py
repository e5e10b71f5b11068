"""The graph of a run's rules: which rule needs which, and how many of its tasks are done."""

from collections.abc import Sequence
from urllib.parse import urlencode

from wesemu.dashboard.pages import WebPage, clip
from wesemu.dashboard.tasks import Needs, depths, needs_of, steps
from wesemu.runs.model import JsonObject, JsonValue, Run, TaskLog

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
