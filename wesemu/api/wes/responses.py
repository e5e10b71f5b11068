"""WES responses: service-info, runs, tasks and dry runs as WES schemas, and their caches."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote

from cachetools import LRUCache

from wesemu.api.wes import models
from wesemu.api.wes.models import VERSIONS, Version
from wesemu.runs.clock import rfc3339
from wesemu.runs.model import (
    Graph,
    OutputFile,
    Owner,
    PlannedTask,
    Run,
    RunFailure,
    RunRequest,
    RunState,
    TaskLog,
    details_to_json,
)
from wesemu.runs.ports import DryRunResult
from wesemu.runs.run_figures import labels
from wesemu.runs.service import RunService
from wesemu.runs.store import Head

# Facts and limits of the server


@dataclass(frozen=True, slots=True)
class EngineParameter:
    """A parameter of `workflow_engine_parameters`, with its default as text."""

    name: str
    type: str
    default: str


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """The contents of service-info (WES 1.1.0, schema ServiceInfo).

    `workflow_types` maps a workflow_type to its versions, `engines` a name to a version. `bundled`
    maps a bundled pipeline to its workflow_type, `carriers` a workflow_type to its engine.

    `id` is a reversed domain name. `contact` (also `mailto:`), `documentation`, `home` (of the
    organization) and `auth_instructions` are URLs. The server's own URL replaces a missing one that
    WES requires. `created` is the time of the first setup, `updated` that of this version.
    """

    version: str
    created: datetime
    workflow_types: Mapping[str, Sequence[str]]
    engines: Mapping[str, str]
    bundled: Mapping[str, str]
    carriers: Mapping[str, str] = field(default_factory=dict)
    updated: datetime | None = None
    parameters: Sequence[EngineParameter] = ()
    protocols: Sequence[str] = ("oss",)
    id: str = "local.wesemu"
    name: str = "wesemu"
    description: str = "A local emulator of WES and AGS that runs real genomics pipelines"
    organization: str = "wesemu"
    home: str | None = None
    contact: str | None = None
    documentation: str | None = None
    auth_instructions: str | None = None
    environment: str = "dev"
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one submission, in bytes except `parts`.

    `field`: one text field. `body`: a JSON or urlencoded body. `upload`: a multipart body with its
    attachments.
    """

    field: int = 1 << 20
    body: int = 4 << 20
    upload: int = 64 << 30
    parts: int = 1000


ECHOED = ("workflow_engine", "workflow_engine_version")
"""Fields of RunRequest that the core does not use; stored in `RunRequest.echo`."""

CALLBACK = "callback_url"
"""An engine parameter for the server (extension)."""


# Responses


def state(version: Version, actual: RunState) -> str:
    """Return a state. WES 0.3.0 has no CANCELING, so such a run still shows RUNNING."""
    if actual is RunState.CANCELING and not version.canceling:
        return RunState.RUNNING.value
    return actual.value


def status(version: Version, run_id: str, actual: RunState) -> models.RunStatus:
    return {"run_id": run_id, "state": state(version, actual)}


def dry_run(result: DryRunResult) -> models.DryRun:
    plan, resources = result.plan, result.plan.resources
    planned: models.PlannedRun = {
        "dry_run": True,
        "workflow": plan.workflow,
        "engine": plan.engine,
        "service_level": plan.service_level.value,
        "cores": resources.cores,
        "memory_mb": resources.memory_mb,
        "gpus": resources.gpus,
        "node": plan.placement.kind if plan.placement else "auto",
    }
    if plan.placement is not None and plan.placement.note is not None:
        planned["node_note"] = plan.placement.note
    if resources.gpus:
        planned["node_gpus"] = {
            "lent": result.gpus.lent,
            "free": result.gpus.free,
            "waits": result.waits,
        }
    if plan.input_bytes is not None:
        planned["input_bytes"] = plan.input_bytes
    if plan.publications is not None:
        planned["outputs"] = {
            publication.name: {} if publication.url is None else {"published": publication.url}
            for publication in plan.publications
            if not publication.optional
        }
    if result.graph is not None:
        planned["graph"] = _graph(result.graph)
    response: models.DryRun = {"run_id": "", "wesemu": planned}
    if plan.shared_output is not None:
        response["warnings"] = [plan.shared_output.warning()]
    return response


def _graph(graph: Graph) -> models.PlannedGraph:
    return {
        "total": graph.total,
        "counts": graph.counts,
        "complete": graph.complete,
        "tasks": [_planned_task(task) for task in graph.tasks],
    }


def _planned_task(task: PlannedTask) -> models.WesPlannedTask:
    planned: models.WesPlannedTask = {
        "id": task.id,
        "name": task.name,
        "wildcards": task.wildcards,
        "inputs": task.inputs,
        "outputs": task.outputs,
        "after": task.after,
    }
    if task.threads is not None:
        planned["threads"] = task.threads
    return planned


def summary(version: Version, run: Run) -> models.RunSummary:
    body: models.RunSummary = {
        "run_id": run.id,
        "state": state(version, run.state),
        "tags": labels(run),
    }
    if run.started is not None:
        body["start_time"] = rfc3339(run.started)
    if run.ended is not None:
        body["end_time"] = rfc3339(run.ended)
    return body


def dump_log(version: Version, run: Run, tasks: Sequence[TaskLog], url: str) -> str:
    """Return RunLog as JSON. `url` is the run's absolute URL.

    Blocks; 100,000 tasks take seconds. Other threads run meanwhile.
    """
    extension: models.Extension = {
        "handle": run.handle,
        "state": run.state.value,
        "created": rfc3339(run.created),
    }
    if run.request.workflow_sources:
        extension["workflow"] = [
            {"file": each.file, "url": each.url, "size": each.size, "sha256": each.sha256}
            for each in run.request.workflow_sources
        ]
    if run.failure is not None:
        extension["error"] = _failure(run.failure, tasks, url)
    outputs = {output.name: _output(output, url) for output in run.outputs}
    if outputs and run.state is RunState.EXECUTOR_ERROR:
        extension["partial_outputs"], outputs = outputs, {}
    body: models.RunLog = {
        **status(version, run.id, run.state),
        "request": _request(run.request, labels(run)),
        "run_log": _log(run, url),
        "task_logs_url": f"{url}/tasks",
        "outputs": outputs,
        "wesemu": extension,
        "task_logs": [],
    }
    # The encoder lets no other thread run, so it gets one task at a time.
    task_logs = ", ".join(json.dumps(task_log(task, url)) for task in tasks)
    return f"{json.dumps(body).removesuffix(']}')}{task_logs}]}}"


def task_id(task: TaskLog) -> str:
    """Return an id that is unique in a run: each attempt of a task is a TaskLog."""
    return f"{task.id}-{task.attempt}"


def task_log(task: TaskLog, url: str) -> models.WesTaskLog:
    """Return TaskLog. `url` is the run's absolute URL."""
    body: models.WesTaskLog = {
        "id": task_id(task),
        "name": task.name,
        "system_logs": _system_logs(task),
    }
    if task.command is not None:
        body["cmd"] = [task.command]
    if task.started is not None:
        body["start_time"] = rfc3339(task.started)
    if task.ended is not None:
        body["end_time"] = rfc3339(task.ended)
    if task.exit_code is not None:
        body["exit_code"] = task.exit_code
    own = f"{url}/tasks/{quote(task_id(task), safe='')}"
    if task.stdout is not None:
        body["stdout"] = f"{own}/stdout"
    if task.stderr is not None:
        body["stderr"] = f"{own}/stderr"
    return body


def service_info(
    version: Version, facts: ServiceFacts, counts: Mapping[RunState, int], home: str
) -> models.ServiceInfo:
    """Return ServiceInfo. `home` is the server's absolute URL."""
    body: models.ServiceInfo = {
        "id": facts.id,
        "name": facts.name,
        "type": {"group": "org.ga4gh", "artifact": "wes", "version": version.name},
        "description": facts.description,
        "organization": {"name": facts.organization, "url": facts.home or home},
        "createdAt": rfc3339(facts.created),
        "updatedAt": rfc3339(facts.updated or facts.created),
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
        body |= {
            "contactUrl": facts.contact,
            "contact_info": facts.contact,
            "contact_info_url": facts.contact,
        }
    if facts.documentation is not None:
        body["documentationUrl"] = facts.documentation
    return body


def _log(run: Run, url: str) -> models.WesLog:
    """Return Log. It always has stdout and stderr: wes-client 5.0 reads them for ended runs."""
    body: models.WesLog = {
        "name": run.workflow or run.request.workflow_url,
        "stdout": f"{url}/stdout",
        "stderr": f"{url}/stderr",
    }
    if run.started is not None:
        body["start_time"] = rfc3339(run.started)
    if run.ended is not None:
        body["end_time"] = rfc3339(run.ended)
    if run.exit_code is not None:
        body["exit_code"] = run.exit_code
    notes = [run.placement.note if run.placement else None]
    if run.failure is not None:
        notes += [run.failure.message, run.failure.hint]
    notes += run.unpublished
    if any(notes):
        body["system_logs"] = [note for note in notes if note is not None]
    return body


def _request(request: RunRequest, tags: Mapping[str, str]) -> models.WesRunRequest:
    body: models.WesRunRequest = {
        "workflow_params": request.params,
        "workflow_type": request.workflow_type,
        "workflow_type_version": request.workflow_type_version,
        "workflow_url": request.workflow_url,
        "tags": tags,
        "workflow_engine_parameters": request.engine_parameters,
    }
    if request.callback_url is not None:
        given = {**request.engine_parameters, CALLBACK: request.callback_url}
        body["workflow_engine_parameters"] = given
    engine, version = (request.echo.get(name) for name in ECHOED)
    if isinstance(engine, str):
        body["workflow_engine"] = engine
    if isinstance(version, str):
        body["workflow_engine_version"] = version
    return body


def _output(output: OutputFile, url: str) -> models.WesOutput:
    body: models.WesOutput = {"url": f"{url}/outputs/{quote(output.path)}", "size": output.size}
    if output.sha256 is not None:
        body["sha256"] = output.sha256
    if output.published is not None:
        body["published"] = output.published
    return body


def _failure(failure: RunFailure, tasks: Iterable[TaskLog], url: str) -> models.WesFailure:
    body: models.WesFailure = {"message": failure.message}
    if failure.hint is not None:
        body["hint"] = failure.hint
    if failure.file is not None:
        body["file"] = failure.file
    if failure.record is not None:
        body["record"] = failure.record
    if failure.task is not None:
        body["task"] = failure.task
    if failure.exit_code is not None:
        body["exit_code"] = failure.exit_code
    if failure.stderr is not None:
        failed = next((task for task in tasks if task.stderr == failure.stderr), None)
        body["stderr"] = task_log(failed, url)["stderr"] if failed else f"{url}/stderr"
    return body


_DETAILS = {
    "ready": "ready",
    "cores": "lease_cores",
    "memory_mb": "lease_memory_mb",
    "read_bytes": "read_bytes",
    "written_bytes": "written_bytes",
}
_LISTS = ("devices", "after", "inputs", "outputs")


def _system_logs(task: TaskLog) -> list[str]:
    """Return the engine's measurements as "name: value"; lists are JSON.

    WES leaves the content of system_logs open.
    """
    facts: dict[str, object] = {"state": task.state.value, "attempt": task.attempt}
    facts |= {f"wildcard {name}": value for name, value in task.wildcards.items()}
    measured = {
        "threads": task.threads,
        "cpu_seconds": task.cpu_seconds,
        "peak_memory_bytes": task.peak_memory,
    }
    facts |= {name: value for name, value in measured.items() if value is not None}
    details = details_to_json(task.details)
    facts |= {_DETAILS[name]: value for name, value in details.items() if name in _DETAILS}
    facts |= {name: json.dumps(details[name]) for name in _LISTS if name in details}
    return [f"{name}: {value}" for name, value in facts.items()]


def _engines(
    version: Version, engines: Mapping[str, str]
) -> Mapping[str, str | models.WorkflowEngineVersion]:
    if version.engine_lists:
        return {name: {"workflow_engine_version": [number]} for name, number in engines.items()}
    return dict(engines)


def _state_counts(version: Version, counts: Mapping[RunState, int]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for actual, number in counts.items():
        name = state(version, actual)
        totals[name] = totals.get(name, 0) + number
    return totals


# Cache: the JSON of an ended run never changes

_SUMMARY_LETTERS = 16 << 20
_LOG_LETTERS = 32 << 20
_LARGEST_SHARE = 256

Key = TypeVar("Key")


class ResponseCache(LRUCache[Key, str]):
    """Caches the most recently used texts, up to `letters` characters in total."""

    def __init__(self, letters: int) -> None:
        super().__init__(letters, getsizeof=len)

    def put(self, key: Key, text: str) -> None:
        """Add a text, unless it is so large that it would evict many others."""
        if len(text) <= self.maxsize // _LARGEST_SHARE:
            self[key] = text


_CURRENT_LETTERS = 32 << 20


class CurrentResponses:
    """Caches rendered lists and service-info as long as no run changes."""

    def __init__(self, runs: RunService) -> None:
        self._runs = runs
        self._texts: LRUCache[Hashable, str] = LRUCache(_CURRENT_LETTERS, getsizeof=len)
        self._change = runs.change_number

    async def get(self, key: Hashable, render: Callable[[], Awaitable[str]]) -> str:
        """Return the text for `key`, rendered now unless it is cached."""
        if self._change != (now := self._runs.change_number):
            self._change = now
            self._texts.clear()
        if (text := self._texts.get(key)) is None:
            text = await render()
            # A change during the rendering may be missing in the text.
            if now == self._runs.change_number and len(text) <= self._texts.maxsize:
                self._texts[key] = text
        return text


class RunResponses:
    """Renders RunSummary and RunLog as JSON.

    The JSON of an ended run is the same for all versions, except for the URLs. It is cached by the
    sequence of the run, which is never used again.
    """

    def __init__(self, runs: RunService) -> None:
        self.current = CurrentResponses(runs)
        self._runs = runs
        self._summaries: ResponseCache[int] = ResponseCache(_SUMMARY_LETTERS)
        self._logs: ResponseCache[int] = ResponseCache(_LOG_LETTERS)
        self._url = f"url-{secrets.token_hex(16)}"
        """Placeholder for the run's URL in cached texts. It is random: no run can contain it."""

    async def summaries(self, version: Version, owner: Owner, heads: Sequence[Head]) -> list[str]:
        """Return a RunSummary for each of `heads`, except for runs removed meanwhile."""
        texts = {head.sequence: self._summaries.get(head.sequence) for head in heads}
        missing = [head for head in heads if texts[head.sequence] is None]
        runs = await self._runs.many(owner, [head.id for head in missing]) if missing else {}
        for head in missing:
            if (run := runs.get(head.id)) is not None:
                texts[head.sequence] = self._summary(version, head, run)
        return [text for text in texts.values() if text is not None]

    async def log(self, version: Version, owner: Owner, run_id: str, url: str) -> str:
        """Return RunLog. `url` is the run's URL. Raises like RunService.get."""
        run = await self._runs.get(owner, run_id)
        if (text := self._logs.get(run.sequence)) is None:
            tasks = await self._runs.tasks(run)
            # in a thread: 100,000 tasks take seconds
            text = await asyncio.to_thread(dump_log, version, run, tasks, self._url)
            if run.state.ended:
                self._logs.put(run.sequence, text)
        return text.replace(self._url, json.dumps(url)[1:-1])

    def _summary(self, version: Version, head: Head, run: Run) -> str:
        text = json.dumps(summary(version, run))
        if head.state is run.state and run.state.ended:
            self._summaries.put(head.sequence, text)
        return text
