"""What a run directory tells of its run: enough to carry it out, and to make the index anew.

`request.json` is written at submission: the run as it was queued, and the plan that was made.
`state.json` is written when the run has ended: the run as it ended, and its tasks.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wesemu.runs import codec
from wesemu.runs.model import Resources, Run, TaskLog
from wesemu.runs.ports import Plan, Publication
from wesemu.runs.workspace import Workspace, read_regular, write_json
from wesemu.sla import ServiceLevel

_NESTED = ("request", "resources", "tags", "counts", "outputs", "failure", "terms")


def write_submission(workspace: Workspace, run: Run, plan: Plan) -> None:
    """A restart does not plan anew: it carries out what was accepted."""
    write_json(workspace.request, {"run": _nest(run), "plan": _plan_to_json(plan)})


def write_end(workspace: Workspace, run: Run, tasks: Sequence[TaskLog]) -> None:
    rows = [codec.task_to_row(run.id, task) for task in tasks]
    write_json(workspace.state, {"run": _nest(run), "tasks": list(rows)})


def read_plan(workspace: Workspace) -> Plan:
    values = json.loads(read_regular(workspace.request))["plan"]
    publications = values["publications"]
    return Plan(
        engine=values["engine"],
        workflow=values["workflow"],
        service_level=ServiceLevel(values["service_level"]),
        resources=Resources(**values["resources"]),
        publications=None if publications is None else tuple(map(_publication, publications)),
        input_bytes=values["input_bytes"],
        tags=values["tags"],
    )


def read_run(workspace: Workspace) -> tuple[Run, list[TaskLog]]:
    """The run as its directory knows it: as it ended, else as it was queued.

    Raises OSError, ValueError or KeyError for a directory that no submission filled.
    """
    ended = workspace.state.is_file()
    record = json.loads(read_regular(workspace.state if ended else workspace.request))
    run: dict[str, Any] = record["run"]
    for name in _NESTED:
        run[name] = None if run.get(name) is None else codec.dump(run[name])
    tasks = [codec.row_to_task(row) for row in record.get("tasks", ())]
    return codec.row_to_run({"sequence": 0, **run}), tasks


def run_folders(runs: Path) -> Iterator[Workspace]:
    """Every run directory that a submission has filled."""
    for folder in sorted(runs.iterdir()):
        if not folder.name.startswith(".") and (folder / "request.json").is_file():
            yield Workspace(folder)


def _nest(run: Run) -> dict[str, Any]:
    row = codec.run_to_row(run)
    for name in _NESTED:
        row[name] = None if row[name] is None else json.loads(row[name])
    return row


def _plan_to_json(plan: Plan) -> dict[str, Any]:
    values = asdict(plan)
    for publication in values["publications"] or ():
        if publication["destination"] is not None:
            publication["destination"] = str(publication["destination"])
    return values


def _publication(values: dict[str, Any]) -> Publication:
    destination = values["destination"]
    return Publication(**values | {"destination": destination and Path(destination)})
