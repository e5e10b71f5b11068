"""Runs and tasks as JSON and as database rows; the only place that knows both shapes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from wesemu.runs.model import (
    JsonObject,
    OutputFile,
    Owner,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunId,
    RunRequest,
    RunState,
    TaskLog,
    TaskState,
)
from wesemu.runs.terms import Fault, Pace, Terms
from wesemu.sla import ServiceLevel

Row = Mapping[str, Any]


def stamp(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with microseconds; sorts as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds") if moment else None


def moment(text: str | None) -> datetime | None:
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
        "marks": dict(request.marks),
    }


def run_to_row(run: Run) -> dict[str, Any]:
    """Everything but `sequence`, which the database gives."""
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
        "tags": dump(dict(run.tags)),
        "created": stamp(run.created),
        "started": stamp(run.started),
        "ended": stamp(run.ended),
        "exit_code": run.exit_code,
        "counts": dump(asdict(run.counts)) if run.counts else None,
        "input_bytes": run.input_bytes,
        "outputs": dump([asdict(output) for output in run.outputs]),
        "failure": dump(asdict(run.failure)) if run.failure else None,
        "terms": dump(asdict(run.terms) | {"factor": str(run.terms.factor)}),
        "real_seconds": run.real_seconds,
    }


def row_to_run(row: Row) -> Run:
    counts, failure = row["counts"], row["failure"]
    return Run(
        id=RunId(row["id"]),
        sequence=row["sequence"],
        handle=row["handle"],
        owner=Owner(row["owner"]),
        state=RunState(row["state"]),
        workflow=row["workflow"],
        service_level=ServiceLevel(row["service_level"]),
        request=RunRequest(**json.loads(row["request"])),
        resources=Resources(**json.loads(row["resources"])),
        created=datetime.fromisoformat(row["created"]),
        tags=json.loads(row["tags"]),
        started=moment(row["started"]),
        ended=moment(row["ended"]),
        exit_code=row["exit_code"],
        counts=ReadCounts(**json.loads(counts)) if counts else None,
        input_bytes=row["input_bytes"],
        outputs=tuple(OutputFile(**output) for output in json.loads(row["outputs"])),
        failure=RunFailure(**json.loads(failure)) if failure else None,
        terms=_terms(row.get("terms")),
        real_seconds=row.get("real_seconds"),
    )


def _terms(text: str | None) -> Terms:
    """Runs of earlier versions have none: they end with their tools."""
    if text is None:
        return Terms()
    told = json.loads(text)
    return Terms(
        **told
        | {
            "pace": Pace(told["pace"]),
            "factor": Decimal(told["factor"]),
            "fault": Fault(**told["fault"]),
        }
    )


def task_to_row(run_id: RunId, task: TaskLog) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: getattr(task, field.name) for field in fields(task)}
    return row | {
        "run_id": run_id,
        "state": task.state.value,
        "wildcards": dump(dict(task.wildcards)),
        "started": stamp(task.started),
        "ended": stamp(task.ended),
    }


def row_to_task(row: Row) -> TaskLog:
    values = {field.name: row[field.name] for field in fields(TaskLog)}
    return TaskLog(
        **values
        | {
            "state": TaskState(row["state"]),
            "wildcards": json.loads(row["wildcards"]),
            "started": moment(row["started"]),
            "ended": moment(row["ended"]),
        }
    )
