"""engine.json: what the engine tells a run's process to do."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wesemu.engines.hosted.containers import ContainerTool
from wesemu.engines.sandbox import Sandbox, sandbox_from_json, sandbox_to_json
from wesemu.engines.standings import standing_from_json, standing_to_json
from wesemu.runs.model import JsonObject, Resources
from wesemu.runs.ports import Job, Standing
from wesemu.runs.workspace import Workspace, write_json


@dataclass(frozen=True, slots=True)
class Order:
    """One launch. `inputs` are the workflow's own parameters, `options` the engine's, read.

    With a `standing` each task takes a lease before it begins; `resources` are the most that the
    run uses at a time.
    Without `containers` tools run as local processes. `fragment` is CWL's `#main`, without `#`.
    `always_contained`: WDL tasks that name no image run in the library's default one.
    """

    engine: str
    version: str
    workflow_file: Path
    inputs: JsonObject
    resources: Resources
    options: Mapping[str, Any]
    containers: ContainerTool | None
    grace_seconds: float
    standing: Standing | None = None
    sandbox: Sandbox | None = None
    fragment: str = ""
    always_contained: bool = False


def order_from(
    job: Job,
    *,
    engine: str,
    version: str,
    options: Mapping[str, Any],
    containers: ContainerTool | None,
    grace_seconds: float,
    sandbox: Sandbox | None = None,
    always_contained: bool = False,
) -> Order:
    return Order(
        engine=engine,
        version=version,
        workflow_file=job.workflow_file.absolute(),
        inputs=job.config,
        resources=job.resources,
        options=options,
        containers=containers,
        grace_seconds=grace_seconds,
        standing=job.standing,
        sandbox=sandbox,
        fragment=job.fragment,
        always_contained=always_contained,
    )


def write_order(workspace: Workspace, order: Order) -> None:
    """Also makes `work/` and `tasks/`."""
    workspace.work.mkdir(parents=True, exist_ok=True)
    workspace.tasks.mkdir(exist_ok=True)
    record = asdict(order) | {
        "workflow_file": str(order.workflow_file),
        "standing": standing_to_json(order.standing),
        "sandbox": sandbox_to_json(order.sandbox),
    }
    write_json(_file(workspace), record)


def read_order(workspace: Workspace) -> Order:
    record: dict[str, Any] = json.loads(_file(workspace).read_text())
    return Order(
        **record
        | {
            "workflow_file": Path(record["workflow_file"]),
            "resources": Resources(**record["resources"]),
            "standing": standing_from_json(record["standing"]),
            "sandbox": sandbox_from_json(record.get("sandbox")),
        }
    )


def _file(workspace: Workspace) -> Path:
    return workspace.root / "engine.json"
