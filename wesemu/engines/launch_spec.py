"""engine.json: what the engine tells a run's process to do."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NoReturn

import yaml

from wesemu.engines.lease_queue import priority_from_json, priority_to_json
from wesemu.engines.options import SnakemakeOptions, check_parameters
from wesemu.engines.sandbox import Sandbox, sandbox_from_json, sandbox_to_json
from wesemu.engines.slurm import Cluster, Executor
from wesemu.runs.model import JsonObject, Resources
from wesemu.runs.ports import LaunchRequest, QueuePriority
from wesemu.runs.run_directory import Workspace, write_atomically, write_json

# Which environment variables hold secrets, by their names and values.


_PREFIXES = (
    *("AWS_", "OSS_", "ALIBABA_", "ALIBABACLOUD_", "ALIYUN_", "ALICLOUD_", "AZURE_", "VAULT_"),
    *("DOCKER_AUTH", "TWINE_"),
)
_NAMES = frozenset(
    {"ACCESSKEYID", "ACCESSKEYSECRET", "SSH_AUTH_SOCK", "PGPASSFILE", "NETRC", "KUBECONFIG"}
)
_WORD = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|APIKEY)(_|$)"
    r"|(API|ACCESS|SECRET|PRIVATE|SIGNING|ENCRYPTION|ACCOUNT)_?KEYS?(_|$)"
    r"|CONNECTION_STRING|(TOKEN|SECRET|PASSWORD|PASSWD)$"
)
_USER_IN_URL = re.compile(r"^[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable is the kind that holds credentials: a cloud's own variables, a name such
    as `DB_PASSWORD` or `accessKeySecret`, or a URL with a password in it. A proxy's URL is let
    through, because tools need it."""
    folded = name.upper()
    if folded.startswith(_PREFIXES) or folded in _NAMES or _WORD.search(folded):
        return True
    return bool(_USER_IN_URL.match(value)) and not folded.endswith("_PROXY")


# Container tools of this machine.


ContainerTool = Literal["docker", "podman", "apptainer"]

_QUESTIONS: dict[ContainerTool, list[str]] = {
    "docker": ["docker", "info"],
    "podman": ["podman", "info"],
    "apptainer": ["apptainer", "version"],
}
_PATIENCE_SECONDS = 5.0


def find_container_tool() -> ContainerTool | None:
    """The first of docker, podman and apptainer that is on PATH and answers. Blocks.

    A docker client whose daemon does not run is no container tool.
    """
    return next((tool for tool, question in _QUESTIONS.items() if _answers(question)), None)


def _answers(question: list[str]) -> bool:
    if shutil.which(question[0]) is None:
        return False
    try:
        done = subprocess.run(
            question,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


# engine.json: what the engine tells a run's process to do.


@dataclass(frozen=True, slots=True)
class LibraryLaunchSpec:
    """One launch. `inputs` are the workflow's own parameters, `options` the engine's, read.

    With a `priority` each task takes a lease before it begins; `resources` are the most that the
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
    priority: QueuePriority | None = None
    sandbox: Sandbox | None = None
    fragment: str = ""
    always_contained: bool = False


def library_launch_spec(
    job: LaunchRequest,
    *,
    engine: str,
    version: str,
    options: Mapping[str, Any],
    containers: ContainerTool | None,
    grace_seconds: float,
    sandbox: Sandbox | None = None,
    always_contained: bool = False,
) -> LibraryLaunchSpec:
    return LibraryLaunchSpec(
        engine=engine,
        version=version,
        workflow_file=job.workflow_file.absolute(),
        inputs=job.config,
        resources=job.resources,
        options=options,
        containers=containers,
        grace_seconds=grace_seconds,
        priority=job.priority,
        sandbox=sandbox,
        fragment=job.fragment,
        always_contained=always_contained,
    )


def write_library_spec(workspace: Workspace, spec: LibraryLaunchSpec) -> None:
    """Also makes `work/` and `tasks/`."""
    workspace.work.mkdir(parents=True, exist_ok=True)
    workspace.tasks.mkdir(exist_ok=True)
    record = asdict(spec) | {
        "workflow_file": str(spec.workflow_file),
        "standing": priority_to_json(spec.priority),
        "sandbox": sandbox_to_json(spec.sandbox),
    }
    del record["priority"]  # under its name in the file, "standing"
    write_json(_file(workspace), record)


def read_library_spec(workspace: Workspace) -> LibraryLaunchSpec:
    record: dict[str, Any] = json.loads(_file(workspace).read_text())
    priority = priority_from_json(record.pop("standing"))
    return LibraryLaunchSpec(
        **record
        | {
            "workflow_file": Path(record["workflow_file"]),
            "resources": Resources(**record["resources"]),
            "priority": priority,
            "sandbox": sandbox_from_json(record.get("sandbox")),
        }
    )


def _file(workspace: Workspace) -> Path:
    return workspace.root / "engine.json"


Mode = Literal["warm", "cli"]


@dataclass(frozen=True, slots=True)
class SnakemakeLaunchSpec:
    """One launch. `python` runs the command line interface in the mode "cli". `configured`: the
    caller has sent parameters."""

    workflow_file: Path
    resources: Resources
    options: SnakemakeOptions
    mode: Mode
    version: str
    python: str
    grace_seconds: float
    priority: QueuePriority | None = None
    configured: bool = True
    executor: Executor = "local"
    cluster: Cluster = field(default_factory=Cluster)
    sandbox: Sandbox | None = None


def launch_details(spec: SnakemakeLaunchSpec) -> dict[str, Any]:
    """What the journal tells of a launch."""
    return {
        "engine": "snakemake",
        "version": spec.version,
        "mode": spec.mode,
        "executor": spec.executor,
    }


def snakemake_spec_file(workspace: Workspace) -> Path:
    return workspace.root / "engine.json"


def write_snakemake_spec(
    job: LaunchRequest,
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
        snakemake_spec_file(workspace),
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
            "leases": priority_to_json(job.priority),
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


def read_snakemake_spec(workspace: Workspace) -> SnakemakeLaunchSpec:
    record: dict[str, Any] = json.loads(snakemake_spec_file(workspace).read_text())
    return SnakemakeLaunchSpec(
        workflow_file=Path(record["workflow_file"]),
        resources=Resources(**record["resources"]),
        options=check_parameters(record["engine_parameters"]),
        mode=record["mode"],
        version=record["version"],
        python=record["python"],
        grace_seconds=float(record["grace_seconds"]),
        priority=priority_from_json(record.get("leases")),
        configured=record.get("configured", True),
        executor=record.get("executor", "local"),
        cluster=_cluster_from_json(record.get("cluster")),
        sandbox=sandbox_from_json(record.get("sandbox")),
    )


def _cluster_from_json(values: dict[str, Any] | None) -> Cluster:
    return Cluster(**{**values, "options": tuple(values["options"])}) if values else Cluster()


_SETS = ("targets", "forcerun", "until", "omit_from", "allowed_rules")
_FLAGS = ("force", "forceall", "keep_going", "keep_incomplete", "notemp")
_PARSED = ("config", "default_resources", "set_resources", "set_threads", "set_scatter")
_LISTS = (*_SETS[1:], "rerun_triggers", *_PARSED)
_READ = frozenset({"cores", "retries", "targets", *_FLAGS, *_LISTS})
_PROFILE = Path("profiles/default")


def option_argv(options: SnakemakeOptions) -> list[str]:
    """All but the targets, which come last on a command line."""
    words = ["--retries", str(options.retries)] if options.retries else []
    for name in _FLAGS:
        words += [_option(name)] if getattr(options, name) else []
    for name in _LISTS:
        values = getattr(options, name)
        words += [_option(name), *values] if values else []
    for profile in options.profile:
        words += ["--profile", profile]
    for profile in options.workflow_profile:
        words += ["--workflow-profile", profile]
    return words


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parsed_options(spec: SnakemakeLaunchSpec) -> Any:
    """The options by the names of Snakemake's parser, its profiles' settings included.

    What a profile sets that is the server's to decide (the executor, directories, …) is ignored,
    with a note. The working directory is the run's. Raises ValueError.
    """
    options = spec.options
    if not _needs_parser(spec):
        return SimpleNamespace(
            **{name: frozenset(getattr(options, name)) for name in _SETS},
            **{name: getattr(options, name) for name in _FLAGS},
            retries=options.retries,
            rerun_triggers=None,
            default_resources=None,
            set_resources={},
            set_threads={},
            set_scatter={},
            config={},
            cores=spec.resources.cores,
        )
    _refuse_missing(spec)
    os.environ.pop("SNAKEMAKE_PROFILE", None)
    file = ["--snakefile", str(spec.workflow_file), "--executor", "local"]
    targets = ["--", *options.targets] if options.targets else []
    found = _parse([*file, *option_argv(options), *targets])
    plain = vars(_parse([*file, "--workflow-profile", "none"]))
    ignored = [
        name
        for name, value in vars(found).items()
        if name not in _READ and value != plain.get(name) and "profile" not in name
    ]
    if ignored:
        told = ", ".join(sorted(ignored))
        sys.stderr.write(f"wesemu: these settings of a profile are the server's: {told}\n")
    cores = found.cores if isinstance(found.cores, int) else spec.resources.cores
    found.cores = max(1, min(cores, spec.resources.cores))
    found.config = import_module("snakemake.cli").parse_config(found.config)
    for name in _SETS:
        setattr(found, name, frozenset(getattr(found, name) or ()))
    return found


def _refuse_missing(spec: SnakemakeLaunchSpec) -> None:
    """Snakemake would look for a profile in the configuration of the server's user, too."""
    beside = spec.workflow_file.parent / "profiles"
    for name in (*spec.options.profile, *spec.options.workflow_profile):
        places = (Path(name), Path("profiles", name), beside / name)
        if name != "none" and not any(place.exists() for place in places):
            raise ValueError(f"there is no profile {name} among the attachments")


def _needs_parser(spec: SnakemakeLaunchSpec) -> bool:
    options = spec.options
    rich = (*_PARSED, "rerun_triggers", "profile", "workflow_profile")
    places = (_PROFILE, spec.workflow_file.parent / _PROFILE, Path("default"))
    return any(getattr(options, name) for name in rich) or any(place.exists() for place in places)


def _parse(words: list[str]) -> Any:
    """Snakemake's own parser. It raises what it would otherwise print."""

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ValueError(message)

    cli = import_module("snakemake.cli")
    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = refuse  # type: ignore[assignment, method-assign]
    try:
        return cli.parse_args(words)[1]
    except SystemExit as ended:
        raise ValueError("Snakemake cannot read its options; see stderr") from ended
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]
