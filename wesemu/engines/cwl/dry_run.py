"""Plans the tasks of a CWL workflow.

cwltool validates document and inputs as for a run, and then calls an executor that only reads the
steps.
"""

import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from wesemu.engines.cwl.worker import (
    ATTACH_HINT,
    INPUTS,
    ErrorCollector,
    call_main,
    write_job_order,
)
from wesemu.engines.library_worker import WorkerContext
from wesemu.runs.model import Graph, PlannedTask, RunFailure, graph_of


def inspect_workflow(worker: WorkerContext) -> Graph | None:
    inputs = worker.workspace.work / INPUTS
    write_job_order(inputs, worker.spec.inputs)
    errors = ErrorCollector(worker.workspace, worker.tasks)
    logging.getLogger("cwltool").addHandler(errors)
    graphs: list[Graph] = []
    missing: list[str] = []

    def execute(tool: Any, job_order: Any, runtime: Any, logger: logging.Logger) -> Any:
        tool._init_job(job_order, runtime)  # noqa: SLF001  # checks the inputs; creates nothing
        missing.extend(_missing_files(job_order, worker.workspace.work))
        graphs.append(_graph(tool))
        return {}, "success"

    code = call_main(worker, inputs, io.StringIO(), execute)
    if code == 0 and graphs and not missing:
        return graphs[0]
    worker.fail(_missing_failure(missing[0]) if missing else errors.failure())
    return None


def _missing_files(value: Any, work: Path) -> Iterator[str]:
    """Yield missing local files and directories of a job order; URLs are not checked."""
    if isinstance(value, list):
        for item in value:
            yield from _missing_files(item, work)
    elif isinstance(value, dict):
        location = str(value.get("location", ""))
        if value.get("class") in ("File", "Directory") and location.startswith("file://"):
            path = Path(unquote(location.removeprefix("file://")))
            if not path.exists():
                yield str(path.relative_to(work) if path.is_relative_to(work) else path)
        for item in value.values():
            yield from _missing_files(item, work)


def _missing_failure(name: str) -> RunFailure:
    return RunFailure(
        f"the input {name} does not exist",
        hint=ATTACH_HINT,
    )


def _graph(tool: Any) -> Graph:
    """Return the steps; a step of a nested workflow has a path as its name.

    With a scatter or a condition the number of tasks is unknown, so the graph is incomplete.
    """
    if tool.tool["class"] != "Workflow":
        name = str(tool.tool["id"]).rpartition("#")[2] or "main"
        return graph_of([PlannedTask("1", name.rpartition("/")[2])])
    steps = list(_steps(tool, ""))
    ids = {name: str(number) for number, (name, _, _) in enumerate(steps, start=1)}
    tasks = [
        PlannedTask(ids[name], name, after=tuple(ids[one] for one in needed if one in ids))
        for name, needed, _ in steps
    ]
    return graph_of(_sorted(tasks), complete=not any(is_open for _, _, is_open in steps))


def _steps(workflow: Any, prefix: str) -> Iterator[tuple[str, list[str], bool]]:
    for step in workflow.steps:
        name = prefix + _short(step.tool["id"])
        is_open = "scatter" in step.tool or "when" in step.tool
        inner = step.embedded_tool
        if inner.tool["class"] == "Workflow":
            for below, needed, is_also_open in _steps(inner, f"{name}/"):
                yield below, needed, is_open or is_also_open
        else:
            yield name, [prefix + one for one in _sources(step.tool)], is_open


def _sources(step: Mapping[str, Any]) -> list[str]:
    """Return the steps whose outputs this one uses: `#main/upper/big` belongs to `upper`."""
    steps: dict[str, None] = {}
    for port in step["inputs"]:
        sources = port.get("source", [])
        for source in [sources] if isinstance(sources, str) else sources:
            parts = str(source).rpartition("#")[2].split("/")
            if len(parts) > 1:
                steps[parts[-2]] = None
    return list(steps)


def _short(identifier: str) -> str:
    return identifier.rpartition("#")[2].rpartition("/")[2]


def _sorted(tasks: list[PlannedTask]) -> list[PlannedTask]:
    """Sort tasks after their dependencies; a document lists steps in any order."""
    ordered: list[PlannedTask] = []
    left = {task.id: task for task in tasks}
    while left:
        ready = [task for task in left.values() if not any(one in left for one in task.after)]
        ordered += [left.pop(task.id) for task in ready or [*left.values()]]
    return ordered
