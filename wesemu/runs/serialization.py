"""Runs, tasks and plans as database rows and as JSON files of the run directory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from wesemu.runs.model import (
    FetchedFile,
    JsonObject,
    OutputFile,
    Owner,
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
    TaskDetails,
    TaskLog,
    TaskState,
    details_to_json,
)
from wesemu.runs.ports import Plan
from wesemu.runs.run_directory import Workspace, read_regular, write_json
from wesemu.runs.run_figures import facts_of, own_tags, stored_labels
from wesemu.runs.sla import ServiceLevel

_T = TypeVar("_T")

Row = Mapping[str, Any]


def format_timestamp(timestamp: datetime | None) -> str | None:
    """Return ISO 8601 in UTC with microseconds, which sorts as text."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds") if timestamp else None


def parse_timestamp(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encode(value: object) -> str:
    """Return a dataclass, or a collection of them, as JSON."""
    return msgspec.json.encode(value).decode()


def decode(text: str, kind: type[_T]) -> _T:
    """Return the value that `encode` got. Missing members have their defaults; others are ignored.

    Raises ValueError for JSON of another shape.
    """
    return msgspec.json.decode(text, type=kind)


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
    marks: dict[str, str] = values.pop("marks", {})  # the first runs of 0.1.0 have none
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
    nested = {
        name: None if value is None else encode(value) for name, value in _nested(run).items()
    }
    return _flat(run) | nested | {"request": dump(request_to_json(run.request))}


def _flat(run: Run) -> dict[str, Any]:
    """Return the columns without JSON."""
    return {
        "id": run.id,
        "handle": run.handle,
        "owner": run.owner,
        "state": run.state.value,
        "workflow": run.workflow,
        "service_rank": run.service_level.rank,
        "service_level": run.service_level.value,
        "created": format_timestamp(run.created),
        "started": format_timestamp(run.started),
        "ended": format_timestamp(run.ended),
        "exit_code": run.exit_code,
        "input_bytes": run.input_bytes,
        "real_seconds": run.real_seconds,
    }


def _nested(run: Run) -> dict[str, Any]:
    """Return the columns with JSON except for the request, as values that msgspec can encode."""
    return {
        "resources": run.resources,
        "tags": stored_labels(run),
        "counts": run.counts,
        "outputs": run.outputs,
        "failure": run.failure,
        "terms": run.terms,
        "facts": _Facts(run.placement, run.shared_output, run.tools, run.unpublished),
    }


@dataclass(frozen=True, slots=True)
class _Facts:
    """The column `facts`; runs of earlier versions have these facts in their tags."""

    placement: Placement | None
    shared_output: SharedOutput | None
    tools: Mapping[str, str]
    unpublished: tuple[str, ...]


def row_to_run(row: Row) -> Run:
    tags = decode(row["tags"], dict[str, str])
    facts: dict[str, Any] = facts_of(tags)
    if (text := row.get("facts")) is not None:
        found = decode(text, _Facts)
        facts = {name: getattr(found, name) for name in _Facts.__slots__}
    counts, failure, terms = row["counts"], row["failure"], row.get("terms")
    return Run(
        id=RunId(row["id"]),
        sequence=row["sequence"],
        handle=row["handle"],
        owner=Owner(row["owner"]),
        state=RunState(row["state"]),
        workflow=row["workflow"],
        service_level=ServiceLevel(row["service_level"]),
        request=request_from_json(json.loads(row["request"])),
        resources=decode(row["resources"], Resources),
        created=datetime.fromisoformat(row["created"]),
        tags=own_tags(tags),
        started=parse_timestamp(row["started"]),
        ended=parse_timestamp(row["ended"]),
        exit_code=row["exit_code"],
        counts=decode(counts, ReadCounts) if counts else None,
        input_bytes=row["input_bytes"],
        outputs=decode(row["outputs"], tuple[OutputFile, ...]),
        failure=decode(failure, RunFailure) if failure else None,
        # Runs of earlier versions have no terms and end with their tools.
        terms=decode(terms, SlaTerms) if terms else SlaTerms(),
        real_seconds=row.get("real_seconds"),
        **facts,
    )


def task_to_row(run_id: RunId, task: TaskLog) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: getattr(task, field.name) for field in fields(task)}
    return row | {
        "run_id": run_id,
        "state": task.state.value,
        "wildcards": dump(dict(task.wildcards)),
        "started": format_timestamp(task.started),
        "ended": format_timestamp(task.ended),
        "details": dump(details) if (details := details_to_json(task.details)) else None,
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
            "details": decode(row["details"] or "{}", TaskDetails),
        }
    )


# JSON files of the run directory: enough to execute the run and to rebuild the index.


def write_submission(workspace: Workspace, run: Run, plan: Plan) -> None:
    """Write `request.json`. It includes the plan, so a restarted server executes the same one."""
    write_json(
        workspace.request, {"run": _nest(run), "plan": msgspec.to_builtins(plan, enc_hook=str)}
    )


def write_end(workspace: Workspace, run: Run, tasks: Sequence[TaskLog]) -> None:
    rows = [task_to_row(run.id, task) for task in tasks]
    write_json(workspace.state, {"run": _nest(run), "tasks": list(rows)})


def read_plan(workspace: Workspace) -> Plan:
    values = json.loads(read_regular(workspace.request))["plan"]
    return msgspec.convert(values, Plan, dec_hook=lambda kind, value: kind(value))


def read_run(workspace: Workspace) -> tuple[Run, list[TaskLog]]:
    """Return the run and its tasks as they ended, or else as the run was queued.

    Raises OSError, ValueError or KeyError for a directory without a submission.
    """
    ended = workspace.state.is_file()
    record = json.loads(read_regular(workspace.state if ended else workspace.request))
    run: dict[str, Any] = record["run"]
    run |= {name: dump(value) for name, value in run.items() if isinstance(value, (dict, list))}
    # earlier versions wrote no details
    tasks = [row_to_task({"details": None, **row}) for row in record.get("tasks", ())]
    return row_to_run({"sequence": 0, **run}), tasks


def _nest(run: Run) -> dict[str, Any]:
    """Return all columns, with JSON as objects."""
    nested = {name: msgspec.to_builtins(value) for name, value in _nested(run).items()}
    return _flat(run) | nested | {"request": request_to_json(run.request)}
