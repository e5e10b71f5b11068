"""Runs, tasks and plans as database rows and as JSON files of the run directory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from wesemu.runs.model import (
    FetchedFile,
    InjectedFault,
    JsonObject,
    OutputFile,
    Owner,
    Pacing,
    Placement,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunId,
    RunRequest,
    RunState,
    SharedOutput,
    SlaTerms,
    SubmissionKey,
    TaskLog,
    TaskState,
)
from wesemu.runs.ports import Plan, Publication
from wesemu.runs.run_directory import Workspace, read_regular, write_json
from wesemu.runs.run_figures import facts_of, own_tags, stored_labels
from wesemu.runs.sla import ServiceLevel

Row = Mapping[str, Any]


def format_timestamp(timestamp: datetime | None) -> str | None:
    """Return ISO 8601 in UTC with microseconds, which sorts as text."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds") if timestamp else None


def parse_timestamp(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def request_to_json(request: RunRequest) -> JsonObject:
    return {
        "workflow_url": request.workflow_url,
        "workflow_type": request.workflow_type,
        "workflow_type_version": request.workflow_type_version,
        "params": request.params,
        "tags": dict(request.tags),
        "engine_parameters": dict(request.engine_parameters),
        "echo": request.echo,
        "marks": _marks(request),
    }


def _marks(request: RunRequest) -> JsonObject:
    """Return the internal fields. The index has SQL about `submission_key` and `callback_url`."""
    sources = [asdict(source) for source in request.workflow_sources]
    marks: dict[str, str | None] = {
        "submission_key": request.key.name if request.key else None,
        "submission_digest": request.key.digest if request.key else None,
        "callback_url": request.callback_url,
        "workflow_file": request.workflow_file,
        "workflow_sources": json.dumps(sources, ensure_ascii=False) if sources else None,
    }
    return {name: value for name, value in marks.items() if value is not None}


def request_from_json(values: dict[str, Any]) -> RunRequest:
    marks: dict[str, str] = values.pop("marks")
    key = None
    if "submission_key" in marks:
        key = SubmissionKey(marks["submission_key"], marks["submission_digest"])
    sources = json.loads(marks.get("workflow_sources", "[]"))
    return RunRequest(
        **values,
        key=key,
        callback_url=marks.get("callback_url"),
        workflow_file=marks.get("workflow_file"),
        workflow_sources=tuple(FetchedFile(**source) for source in sources),
    )


def run_to_row(run: Run) -> dict[str, Any]:
    """Return all columns except `sequence`, which the database assigns."""
    return {
        "id": run.id,
        "handle": run.handle,
        "owner": run.owner,
        "state": run.state.value,
        "workflow": run.workflow,
        "service_rank": run.service_level.rank,
        "service_level": run.service_level.value,
        "request": dump(request_to_json(run.request)),
        "resources": dump(asdict(run.resources)),
        "tags": dump(stored_labels(run)),
        "created": format_timestamp(run.created),
        "started": format_timestamp(run.started),
        "ended": format_timestamp(run.ended),
        "exit_code": run.exit_code,
        "counts": dump(asdict(run.counts)) if run.counts else None,
        "input_bytes": run.input_bytes,
        "outputs": dump([asdict(output) for output in run.outputs]),
        "failure": dump(asdict(run.failure)) if run.failure else None,
        "terms": dump(asdict(run.terms) | {"factor": str(run.terms.factor)}),
        "real_seconds": run.real_seconds,
        "facts": dump(
            {
                "placement": run.placement and asdict(run.placement),
                "shared_output": run.shared_output and asdict(run.shared_output),
                "tools": dict(run.tools),
                "unpublished": run.unpublished,
            }
        ),
    }


def row_to_run(row: Row) -> Run:
    counts, failure, tags = row["counts"], row["failure"], json.loads(row["tags"])
    return Run(
        id=RunId(row["id"]),
        sequence=row["sequence"],
        handle=row["handle"],
        owner=Owner(row["owner"]),
        state=RunState(row["state"]),
        workflow=row["workflow"],
        service_level=ServiceLevel(row["service_level"]),
        request=request_from_json(json.loads(row["request"])),
        resources=Resources(**json.loads(row["resources"])),
        created=datetime.fromisoformat(row["created"]),
        tags=own_tags(tags),
        started=parse_timestamp(row["started"]),
        ended=parse_timestamp(row["ended"]),
        exit_code=row["exit_code"],
        counts=ReadCounts(**json.loads(counts)) if counts else None,
        input_bytes=row["input_bytes"],
        outputs=tuple(OutputFile(**output) for output in json.loads(row["outputs"])),
        failure=RunFailure(**json.loads(failure)) if failure else None,
        terms=_terms(row.get("terms")),
        real_seconds=row.get("real_seconds"),
        **(facts_of(tags) if row.get("facts") is None else _facts(json.loads(row["facts"]))),
    )


def _facts(values: dict[str, Any]) -> dict[str, Any]:
    placement, shared = values["placement"], values["shared_output"]
    return {
        "placement": placement and Placement(**placement),
        "shared_output": shared and SharedOutput(**shared),
        "tools": values["tools"],
        "unpublished": tuple(values["unpublished"]),
    }


def _terms(text: str | None) -> SlaTerms:
    """Parse SLA terms; runs of earlier versions have none and end with their tools."""
    if text is None:
        return SlaTerms()
    values = json.loads(text)
    return SlaTerms(
        **values
        | {
            "pace": Pacing(values["pace"]),
            "factor": Decimal(values["factor"]),
            "fault": InjectedFault(**values["fault"]),
        }
    )


def task_to_row(run_id: RunId, task: TaskLog) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: getattr(task, field.name) for field in fields(task)}
    return row | {
        "run_id": run_id,
        "state": task.state.value,
        "wildcards": dump(dict(task.wildcards)),
        "started": format_timestamp(task.started),
        "ended": format_timestamp(task.ended),
    }


def row_to_task(row: Row) -> TaskLog:
    values = {field.name: row[field.name] for field in fields(TaskLog)}
    return TaskLog(
        **values
        | {
            "state": TaskState(row["state"]),
            "wildcards": json.loads(row["wildcards"]),
            "started": parse_timestamp(row["started"]),
            "ended": parse_timestamp(row["ended"]),
        }
    )


# JSON files of the run directory: enough to execute the run and to rebuild the index.

_NESTED = ("request", "resources", "tags", "counts", "outputs", "failure", "terms", "facts")


def write_submission(workspace: Workspace, run: Run, plan: Plan) -> None:
    """Write `request.json`. It has the plan too, so a restart executes what was accepted."""
    write_json(workspace.request, {"run": _nest(run), "plan": _plan_to_json(plan)})


def write_end(workspace: Workspace, run: Run, tasks: Sequence[TaskLog]) -> None:
    rows = [task_to_row(run.id, task) for task in tasks]
    write_json(workspace.state, {"run": _nest(run), "tasks": list(rows)})


def read_plan(workspace: Workspace) -> Plan:
    values = json.loads(read_regular(workspace.request))["plan"]
    publications = values["publications"]
    placement, shared = values.get("placement"), values.get("shared_output")
    return Plan(
        engine=values["engine"],
        workflow=values["workflow"],
        service_level=ServiceLevel(values["service_level"]),
        resources=Resources(**values["resources"]),
        publications=None if publications is None else tuple(map(_publication, publications)),
        input_bytes=values["input_bytes"],
        placement=placement and Placement(**placement),
        shared_output=shared and SharedOutput(**shared),
    )


def read_run(workspace: Workspace) -> tuple[Run, list[TaskLog]]:
    """Return the run and its tasks as they ended, or else as the run was queued.

    Raises OSError, ValueError or KeyError for a directory without a submission.
    """
    ended = workspace.state.is_file()
    record = json.loads(read_regular(workspace.state if ended else workspace.request))
    run: dict[str, Any] = record["run"]
    for name in _NESTED:
        run[name] = None if run.get(name) is None else dump(run[name])
    tasks = [row_to_task(row) for row in record.get("tasks", ())]
    return row_to_run({"sequence": 0, **run}), tasks


def run_folders(runs: Path) -> Iterator[Workspace]:
    """Yield every directory of an accepted submission."""
    for folder in sorted(runs.iterdir()):
        if not folder.name.startswith(".") and (folder / "request.json").is_file():
            yield Workspace(folder)


def _nest(run: Run) -> dict[str, Any]:
    row = run_to_row(run)
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
