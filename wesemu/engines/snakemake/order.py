"""engine.json: what the engine tells a run's process to do."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from wesemu.engines.snakemake.parameters import Options, check_parameters
from wesemu.runs.model import Resources
from wesemu.runs.ports import Job
from wesemu.runs.workspace import Workspace, write_atomically, write_json

Mode = Literal["warm", "cli"]


@dataclass(frozen=True, slots=True)
class Order:
    """One launch. `python` runs the command line interface in the mode "cli"."""

    workflow_file: Path
    resources: Resources
    options: Options
    mode: Mode
    version: str
    python: str
    grace_seconds: float


def order_file(workspace: Workspace) -> Path:
    return workspace.root / "engine.json"


def write_order(job: Job, *, mode: Mode, version: str, python: str, grace_seconds: float) -> None:
    """Also writes config.yaml where the server has not, and makes `work/`.

    Raises InvalidRequest for engine parameters that `check_parameters` refuses.
    """
    check_parameters(job.engine_parameters)
    workspace = job.workspace
    workspace.work.mkdir(parents=True, exist_ok=True)
    workspace.tasks.mkdir(exist_ok=True)
    if not workspace.config.exists():
        text = yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True)
        write_atomically(workspace.config, text.encode())
    write_json(
        order_file(workspace),
        {
            "engine": "snakemake",
            "version": version,
            "mode": mode,
            "python": python,
            "workflow_file": str(job.workflow_file.absolute()),
            "resources": asdict(job.resources),
            "engine_parameters": dict(job.engine_parameters),
            "grace_seconds": grace_seconds,
        },
    )


def read_order(workspace: Workspace) -> Order:
    record: dict[str, Any] = json.loads(order_file(workspace).read_text())
    return Order(
        workflow_file=Path(record["workflow_file"]),
        resources=Resources(**record["resources"]),
        options=check_parameters(record["engine_parameters"]),
        mode=record["mode"],
        version=record["version"],
        python=record["python"],
        grace_seconds=float(record["grace_seconds"]),
    )
