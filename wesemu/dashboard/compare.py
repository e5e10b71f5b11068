"""The comparison of two runs: parameters, versions, figures, times, results and calls."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from wesemu.dashboard.pages import WebPage, duration, text_of
from wesemu.dashboard.run_page import ResultFiles, flat, head
from wesemu.dashboard.run_table import run_by_name
from wesemu.dashboard.tasks import steps
from wesemu.dashboard.variants import CallSet, compare_calls, output_file, reference_file
from wesemu.runs.model import JsonObject, JsonValue, Owner, Run, TaskLog
from wesemu.runs.run_directory import Workspace
from wesemu.runs.service import RunService

_RECENT = 50


async def page(runs: RunService, owner: Owner, query: Mapping[str, str], now: datetime) -> WebPage:
    """Return the comparison of the runs `a` and `b` of the query: ids or names.

    `show=differing` leaves out the rows that are the same in both.

    Without two known runs there is only the form, with the owner's recent runs to choose from.
    """
    wanted = {side: query.get(side, "").strip() for side in ("a", "b")}
    found = {side: await run_by_name(runs, owner, name) for side, name in wanted.items() if name}
    missing = [wanted[side] for side, run in found.items() if run is None]
    recent = await runs.page(owner, size=_RECENT)
    differing = query.get("show") == "differing"
    content: dict[str, object] = {
        **wanted,
        "differing": differing,
        "message": f"You have no run {', '.join(repr(each[:60]) for each in missing)}."
        if missing
        else None,
        "recent": [
            {"id": run.id, "label": f"{run.handle}: {run.workflow or run.request.workflow_url}"}
            for run in recent.runs
        ],
        "runs": None,
    }
    first, second = found.get("a"), found.get("b")
    if first is None or second is None:
        return WebPage("compare.html", "Compare two runs", content)
    a, b = [Side(run, runs.workspace(run), await runs.tasks(run)) for run in (first, second)]
    compared = await asyncio.to_thread(_compare, a, b, now, differing=differing)
    title = f"{first.handle} and {second.handle}"
    return WebPage("compare.html", title, content | compared)


class Side:
    """One of the two runs, with its tasks. Reading its files blocks."""

    def __init__(self, run: Run, workspace: Workspace, tasks: Sequence[TaskLog]) -> None:
        self.run = run
        self.workspace = workspace
        self._tasks = tasks

    @property
    def request(self) -> JsonObject:
        asked = self.run.request
        return {
            "workflow": self.run.workflow or asked.workflow_url,
            **{name: text_of(value) for name, value in asked.params.items()},
            **{f"engine: {name}": value for name, value in asked.engine_parameters.items()},
        }

    def figures(self) -> JsonObject:
        """Return the figures of `summary.json`; the versions have a table of their own."""
        return flat(ResultFiles(self.run, self.workspace).summary() | {"tools": None})

    @property
    def times(self) -> JsonObject:
        seconds: dict[str, JsonValue] = {
            str(step["name"]): duration(float(str(step["seconds"]))) for step in steps(self._tasks)
        }
        total = self.run.real_seconds
        return {"whole run": None if total is None else duration(total)} | seconds

    @property
    def results(self) -> dict[str, JsonObject]:
        return {
            output.name: {"size": output.size, "sha256": output.sha256}
            for output in self.run.outputs
        }


def _compare(first: Side, second: Side, now: datetime, *, differing: bool) -> dict[str, object]:
    return {
        "runs": [head(side.run, now)["run"] for side in (first, second)],
        "tables": [
            {"title": title, "rows": rows}
            for title, every in (
                ("Request", _rows(first.request, second.request)),
                ("Versions", _rows(dict(first.run.tools), dict(second.run.tools))),
                ("Figures", _rows(first.figures(), second.figures())),
            )
            if (rows := [row for row in every if row["same"] is not True or not differing])
        ],
        "times": _rows(first.times, second.times),
        "outputs": _outputs(first.results, second.results),
        "calls": _calls(first, second),
    }


def _rows(first: Mapping[str, JsonValue], second: Mapping[str, JsonValue]) -> list[JsonObject]:
    """Return a row for each name of either side."""
    return [
        {
            "name": name,
            "a": _shown(first.get(name)),
            "b": _shown(second.get(name)),
            "same": first.get(name) == second.get(name),
        }
        for name in _names(first, second)
    ]


def _names(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return [*dict.fromkeys([*first, *second])]


def _shown(value: JsonValue) -> str | None:
    return None if value is None else text_of(value)


def _outputs(first: Mapping[str, JsonObject], second: Mapping[str, JsonObject]) -> list[JsonValue]:
    rows: list[JsonValue] = []
    for name in _names(first, second):
        a, b = first.get(name), second.get(name)
        known = a is not None and b is not None and a["sha256"] and b["sha256"]
        same = a is not None and b is not None and a["sha256"] == b["sha256"] if known else None
        rows.append({"name": name, "a": a, "b": b, "same": same})
    return rows


def _calls(first: Side, second: Side) -> JsonObject | None:
    """Compare the VCFs of two runs of a bundled pipeline; None if they have none."""
    paths = [output_file(side.run, side.workspace, "vcf") for side in (first, second)]
    if paths[0] is None or paths[1] is None:
        return None
    fasta = reference_file(first.run, first.workspace)
    if fasta is None:
        return {"error": "the reference of the first run is not on this machine any more"}
    a, b = CallSet(first.run, paths[0]), CallSet(second.run, paths[1])
    compared = compare_calls(a, b, fasta, min_quality=0.0)
    return compared or {"error": "the genome or the VCFs are too large to compare on a page"}
