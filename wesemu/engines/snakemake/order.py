"""engine.json: what the engine tells a run's process to do."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from wesemu.engines.sandbox import Sandbox, sandbox_from_json, sandbox_to_json
from wesemu.engines.slurm.cluster import Cluster, Executor
from wesemu.engines.snakemake.parameters import Options, check_parameters
from wesemu.engines.standings import standing_from_json, standing_to_json
from wesemu.runs.model import JsonObject, Resources
from wesemu.runs.ports import Job, Standing
from wesemu.runs.workspace import Workspace, write_atomically, write_json

Mode = Literal["warm", "cli"]


@dataclass(frozen=True, slots=True)
class Order:
    """One launch. `python` runs the command line interface in the mode "cli". `configured`: the
    caller has sent parameters."""

    workflow_file: Path
    resources: Resources
    options: Options
    mode: Mode
    version: str
    python: str
    grace_seconds: float
    standing: Standing | None = None
    configured: bool = True
    executor: Executor = "local"
    cluster: Cluster = field(default_factory=Cluster)
    sandbox: Sandbox | None = None


def about(order: Order) -> dict[str, Any]:
    """What the journal tells of a launch."""
    return {
        "engine": "snakemake",
        "version": order.version,
        "mode": order.mode,
        "executor": order.executor,
    }


def order_file(workspace: Workspace) -> Path:
    return workspace.root / "engine.json"


def write_order(
    job: Job,
    *,
    mode: Mode,
    version: str,
    python: str,
    grace_seconds: float,
    executor: Executor = "local",
    cluster: Cluster | None = None,
    sandbox: Sandbox | None = None,
) -> None:
    """Also writes config.yaml where the server has not, and makes `work/`.

    Raises InvalidRequest for engine parameters that `check_parameters` refuses.
    """
    check_parameters(job.engine_parameters)
    workspace = job.workspace
    workspace.work.mkdir(parents=True, exist_ok=True)
    workspace.tasks.mkdir(exist_ok=True)
    if not workspace.config.exists():
        write_atomically(workspace.config, _config_text(job.config).encode())
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
            "configured": bool(job.config),
            "leases": standing_to_json(job.standing),
            "executor": executor,
            "cluster": asdict(cluster) if cluster else None,
            "sandbox": sandbox_to_json(sandbox),
        },
    )


def _config_text(config: JsonObject) -> str:
    """YAML, readable but for texts with line breaks of YAML that are none of JSON: those are
    escaped, as a parser would make blanks of them."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if any(character in text for character in "\x85\u2028\u2029"):
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=False)
    return text


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
        standing=standing_from_json(record.get("leases")),
        configured=record.get("configured", True),
        executor=record.get("executor", "local"),
        cluster=_cluster_from_json(record.get("cluster")),
        sandbox=sandbox_from_json(record.get("sandbox")),
    )


def _cluster_from_json(values: dict[str, Any] | None) -> Cluster:
    return Cluster(**{**values, "options": tuple(values["options"])}) if values else Cluster()
