"""Runs, tasks and the service as WES answers."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from wesemu.api.wes import models
from wesemu.api.wes.facts import ServiceFacts
from wesemu.api.wes.versions import VERSIONS, Version
from wesemu.runs.figures import labels
from wesemu.runs.graphs import Graph, PlannedTask
from wesemu.runs.model import (
    PLACE,
    PLACE_NOTE,
    UNPUBLISHED,
    OutputFile,
    Run,
    RunFailure,
    RunRequest,
    RunState,
    TaskLog,
)
from wesemu.runs.ports import Rehearsal
from wesemu.runs.targets import SHARED

ECHOED = ("workflow_engine", "workflow_engine_version")
"""Fields of a WES request that the core has no word for; they live in `RunRequest.echo`."""

CALLBACK = "callback_url"
"""An engine parameter that no engine sees; in `RunRequest.marks`, where the outbox looks for it."""


def state(version: Version, actual: RunState) -> str:
    """Under 0.3.0, whose enum lacks CANCELING, such a run still shows its last active state."""
    if actual is RunState.CANCELING and not version.canceling:
        return RunState.RUNNING.value
    return actual.value


def status(version: Version, run_id: str, actual: RunState) -> models.RunStatus:
    return {"run_id": run_id, "state": state(version, actual)}


def dry_run(rehearsal: Rehearsal) -> models.DryRun:
    plan, resources = rehearsal.plan, rehearsal.plan.resources
    planned: models.PlannedRun = {
        "dry_run": True,
        "workflow": plan.workflow,
        "engine": plan.engine,
        "service_level": plan.service_level.value,
        "cores": resources.cores,
        "memory_mb": resources.memory_mb,
        "gpus": resources.gpus,
        "node": plan.tags.get(PLACE, "auto"),
    }
    if (note := plan.tags.get(PLACE_NOTE)) is not None:
        planned["node_note"] = note
    if resources.gpus:
        cards = rehearsal.cards
        planned["node_gpus"] = {
            "lent": cards.lent,
            "free": cards.free,
            "waits": rehearsal.waits,
        }
    if plan.input_bytes is not None:
        planned["input_bytes"] = plan.input_bytes
    if plan.publications is not None:
        planned["outputs"] = {
            wanted.name: {} if wanted.url is None else {"published": wanted.url}
            for wanted in plan.publications
            if not wanted.optional
        }
    if rehearsal.graph is not None:
        planned["graph"] = _graph(rehearsal.graph)
    answer: models.DryRun = {"run_id": "", "wesemu": planned}
    if (shared := plan.tags.get(SHARED)) is not None:
        answer["warnings"] = [shared]
    return answer


def _graph(graph: Graph) -> models.PlannedGraph:
    return {
        "total": graph.total,
        "counts": graph.counts,
        "complete": graph.complete,
        "tasks": [_planned_task(task) for task in graph.tasks],
    }


def _planned_task(task: PlannedTask) -> models.PlannedTask:
    told: models.PlannedTask = {
        "id": task.id,
        "name": task.name,
        "wildcards": task.wildcards,
        "inputs": task.inputs,
        "outputs": task.outputs,
        "after": task.after,
    }
    if task.threads is not None:
        told["threads"] = task.threads
    return told


def summary(version: Version, run: Run) -> models.RunSummary:
    told: models.RunSummary = {
        "run_id": run.id,
        "state": state(version, run.state),
        "tags": labels(run),
    }
    if run.started is not None:
        told["start_time"] = stamp(run.started)
    if run.ended is not None:
        told["end_time"] = stamp(run.ended)
    return told


def run_log(version: Version, run: Run, tasks: Sequence[TaskLog], url: str) -> models.RunLog:
    """`url` is the run's own absolute URL."""
    extension: models.Extension = {
        "handle": run.handle,
        "state": run.state.value,
        "created": stamp(run.created),
    }
    if (sources := run.request.marks.get("workflow_sources")) is not None:
        extension["workflow"] = json.loads(sources)
    if run.failure is not None:
        extension["error"] = _failure(run.failure, tasks, url)
    outputs = {output.name: _output(output, url) for output in run.outputs}
    if outputs and run.state is RunState.EXECUTOR_ERROR:
        extension["partial_outputs"], outputs = outputs, {}
    return {
        **status(version, run.id, run.state),
        "request": _request(run.request, labels(run)),
        "run_log": _log(run, url),
        "task_logs": [task_log(task, url) for task in tasks],
        "task_logs_url": f"{url}/tasks",
        "outputs": outputs,
        "wesemu": extension,
    }


def task_id(task: TaskLog) -> str:
    """Unique within a run: every attempt of a task is a TaskLog of its own."""
    return f"{task.id}-{task.attempt}"


def task_log(task: TaskLog, url: str) -> models.TaskLog:
    """`url` is the run's own absolute URL."""
    told: models.TaskLog = {
        "id": task_id(task),
        "name": task.name,
        "system_logs": _system_logs(task),
    }
    if task.command is not None:
        told["cmd"] = [task.command]
    if task.started is not None:
        told["start_time"] = stamp(task.started)
    if task.ended is not None:
        told["end_time"] = stamp(task.ended)
    if task.exit_code is not None:
        told["exit_code"] = task.exit_code
    own = f"{url}/tasks/{quote(task_id(task), safe='')}"
    if task.stdout is not None:
        told["stdout"] = f"{own}/stdout"
    if task.stderr is not None:
        told["stderr"] = f"{own}/stderr"
    return told


def service_info(
    version: Version, facts: ServiceFacts, counts: Mapping[RunState, int], home: str
) -> models.ServiceInfo:
    """`home` is the server's own absolute URL."""
    told: models.ServiceInfo = {
        "id": facts.id,
        "name": facts.name,
        "type": {"group": "org.ga4gh", "artifact": "wes", "version": version.name},
        "description": facts.description,
        "organization": {"name": facts.organization, "url": facts.home or home},
        "createdAt": stamp(facts.created),
        "updatedAt": stamp(facts.updated or facts.created),
        "environment": facts.environment,
        "version": facts.version,
        "workflow_type_versions": {
            kind: {"workflow_type_version": list(versions)}
            for kind, versions in facts.workflow_types.items()
        },
        "supported_wes_versions": list(VERSIONS),
        "supported_filesystem_protocols": list(facts.protocols),
        "supported_file_system_protocols": list(facts.protocols),
        "workflow_engine_versions": _engines(version, facts.engines),
        "default_workflow_engine_parameters": [
            {"name": p.name, "type": p.type, "default_value": p.default} for p in facts.parameters
        ],
        "system_state_counts": _state_counts(version, counts),
        "auth_instructions_url": facts.auth_instructions or home,
        "tags": facts.tags,
    }
    if facts.contact is not None:
        told |= {
            "contactUrl": facts.contact,
            "contact_info": facts.contact,
            "contact_info_url": facts.contact,
        }
    if facts.documentation is not None:
        told["documentationUrl"] = facts.documentation
    return told


def stamp(moment: datetime) -> str:
    """The specification's own format, whole seconds in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _log(run: Run, url: str) -> models.Log:
    """Its stdout and stderr are always there: wes-client 5.0 reads them of any ended run."""
    told: models.Log = {
        "name": run.workflow or run.request.workflow_url,
        "stdout": f"{url}/stdout",
        "stderr": f"{url}/stderr",
    }
    if run.started is not None:
        told["start_time"] = stamp(run.started)
    if run.ended is not None:
        told["end_time"] = stamp(run.ended)
    if run.exit_code is not None:
        told["exit_code"] = run.exit_code
    notes = [run.tags.get(PLACE_NOTE)]
    if run.failure is not None:
        notes += [run.failure.message, run.failure.hint]
    notes += run.tags.get(UNPUBLISHED, "").splitlines()
    if any(notes):
        told["system_logs"] = [note for note in notes if note is not None]
    return told


def _request(request: RunRequest, tags: Mapping[str, str]) -> models.RunRequest:
    told: models.RunRequest = {
        "workflow_params": request.params,
        "workflow_type": request.workflow_type,
        "workflow_type_version": request.workflow_type_version,
        "workflow_url": request.workflow_url,
        "tags": tags,
        "workflow_engine_parameters": request.engine_parameters,
    }
    if CALLBACK in request.marks:
        url = request.marks[CALLBACK]
        told["workflow_engine_parameters"] = {**request.engine_parameters, CALLBACK: url}
    engine, version = (request.echo.get(name) for name in ECHOED)
    if isinstance(engine, str):
        told["workflow_engine"] = engine
    if isinstance(version, str):
        told["workflow_engine_version"] = version
    return told


def _output(output: OutputFile, url: str) -> models.Output:
    told: models.Output = {"url": f"{url}/outputs/{quote(output.path)}", "size": output.size}
    if output.sha256 is not None:
        told["sha256"] = output.sha256
    if output.published is not None:
        told["published"] = output.published
    return told


def _failure(failure: RunFailure, tasks: Iterable[TaskLog], url: str) -> models.Failure:
    told: models.Failure = {"message": failure.message}
    if failure.hint is not None:
        told["hint"] = failure.hint
    if failure.file is not None:
        told["file"] = failure.file
    if failure.record is not None:
        told["record"] = failure.record
    if failure.task is not None:
        told["task"] = failure.task
    if failure.exit_code is not None:
        told["exit_code"] = failure.exit_code
    if failure.stderr is not None:
        culprit = next((task for task in tasks if task.stderr == failure.stderr), None)
        told["stderr"] = task_log(culprit, url)["stderr"] if culprit else f"{url}/stderr"
    return told


def _system_logs(task: TaskLog) -> list[str]:
    """What the engine measured, for people; WES leaves the content open."""
    facts: dict[str, object] = {"state": task.state.value, "attempt": task.attempt}
    facts |= {f"wildcard {name}": value for name, value in task.wildcards.items()}
    measured = {
        "threads": task.threads,
        "cpu_seconds": task.cpu_seconds,
        "peak_memory_bytes": task.peak_memory,
    }
    facts |= {name: value for name, value in measured.items() if value is not None}
    return [f"{name}: {value}" for name, value in facts.items()]


def _engines(
    version: Version, engines: Mapping[str, str]
) -> Mapping[str, str | models.WorkflowEngineVersion]:
    if version.engine_lists:
        return {name: {"workflow_engine_version": [number]} for name, number in engines.items()}
    return dict(engines)


def _state_counts(version: Version, counts: Mapping[RunState, int]) -> dict[str, int]:
    told: dict[str, int] = {}
    for actual, number in counts.items():
        shown = state(version, actual)
        told[shown] = told.get(shown, 0) + number
    return told
