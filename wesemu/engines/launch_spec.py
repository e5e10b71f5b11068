"""engine.json: the launch specification that an engine writes for the run process.

Parts: detection of secrets in the environment, container tools of this machine, `LaunchSpec`,
config.yaml, and the options of Snakemake's command line.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NoReturn

import msgspec
import yaml

from wesemu.engine_parameters import SnakemakeOptions, check_parameters, read_parameters
from wesemu.engines.lease_queue import priority_to_json
from wesemu.engines.sandbox import Sandbox
from wesemu.engines.slurm import Cluster
from wesemu.runs.model import JsonObject, Resources
from wesemu.runs.ports import LaunchRequest, QueuePriority
from wesemu.runs.run_directory import Workspace, write_atomically, write_json

# Environment variables that hold secrets.

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
    """Return whether a variable looks like a credential.

    That is a variable of a cloud provider, a name like `DB_PASSWORD` or `accessKeySecret`, or a URL
    with a password. The URL of a proxy does not count, because tools need it.
    """
    folded = name.upper()
    if folded.startswith(_PREFIXES) or folded in _NAMES or _WORD.search(folded):
        return True
    return bool(_USER_IN_URL.match(value)) and not folded.endswith("_PROXY")


# Container tools of this machine.

ContainerTool = Literal["docker", "podman", "apptainer"]

_PROBES: dict[ContainerTool, list[str]] = {
    "docker": ["docker", "info"],
    "podman": ["podman", "info"],
    "apptainer": ["apptainer", "version"],
}
_TIMEOUT_SECONDS = 5.0


def find_container_tool() -> ContainerTool | None:
    """Return the first of docker, podman and apptainer that is on PATH and works. Blocks.

    A docker client without a running daemon does not count.
    """
    return next((tool for tool, command in _PROBES.items() if _works(command)), None)


def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


# The launch specification.

Mode = Literal["warm", "cli"]


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One launch of a run.

    `mode` is "warm" or "cli" for Snakemake; for CWL and WDL the container tool, or "local".
    `inputs` are the parameters of the workflow; Snakemake reads them from config.yaml instead.
    `configured`: the request has parameters. `fragment` is CWL's `#main`, without `#`.

    `resources` limit what the run uses at a time. With a `priority` each task takes a lease before
    it starts. Without `containers` tools run as local processes. `always_contained`: WDL tasks
    without an image run in miniwdl's default image. `python` runs Snakemake in the mode "cli".

    `deployment` has the kinds of software that Snakemake provides for rules of a user's workflow:
    "conda", "apptainer". None: a bundled pipeline, whose tools wesemu provides.
    """

    engine: str
    version: str
    mode: str
    workflow_file: Path
    resources: Resources
    grace_seconds: float
    engine_parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    configured: bool = True
    fragment: str = ""
    priority: QueuePriority | None = None
    sandbox: Sandbox | None = None
    python: str = sys.executable
    executor: str = "local"
    cluster: Cluster = field(default_factory=Cluster)
    containers: ContainerTool | None = None
    always_contained: bool = False
    deployment: list[str] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The parsed engine parameters by name; without those that are not set."""
        return read_parameters(self.engine_parameters, self.engine)


def launch_spec(
    job: LaunchRequest, *, engine: str, version: str, mode: str, grace_seconds: float
) -> LaunchSpec:
    """Return the members that all engines share; an engine adds its own with `replace`."""
    return LaunchSpec(
        engine=engine,
        version=version,
        mode=mode,
        workflow_file=job.workflow_file.absolute(),
        resources=job.resources,
        grace_seconds=grace_seconds,
        engine_parameters=job.engine_parameters,
        configured=bool(job.config),
        fragment=job.fragment,
        priority=job.priority,
    )


def launch_details(spec: LaunchSpec) -> dict[str, Any]:
    """Return the members of the `launched` record."""
    return {
        "engine": spec.engine,
        "version": spec.version,
        "mode": spec.mode,
        "executor": spec.executor,
    }


def launch_spec_file(workspace: Workspace) -> Path:
    return workspace.root / "engine.json"


def write_spec(workspace: Workspace, spec: LaunchSpec) -> None:
    """Write engine.json; create `work/` and `tasks/`.

    Raises InvalidRequest for engine parameters that the engine does not allow.
    """
    read_parameters(spec.engine_parameters, spec.engine)
    workspace.work.mkdir(parents=True, exist_ok=True)
    workspace.tasks.mkdir(exist_ok=True)
    record = msgspec.to_builtins(spec, enc_hook=str)
    del record["priority"]  # its name in the file is "leases"
    record["leases"] = priority_to_json(spec.priority)
    write_json(launch_spec_file(workspace), record, durable=False)


def read_spec(workspace: Workspace) -> LaunchSpec:
    """Read engine.json, also that of an earlier version of wesemu."""
    record = _upgraded(json.loads(launch_spec_file(workspace).read_text()))
    record["priority"] = record.get("leases")
    known = {name: value for name, value in record.items() if value is not None}
    return msgspec.convert(known, LaunchSpec, dec_hook=lambda kind, value: kind(value))


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """Rename the members of CWL and WDL that earlier versions wrote under other names."""
    if "options" not in record:
        return record
    return record | {
        "mode": record["containers"] or "local",
        "leases": record["standing"],
        "engine_parameters": {name: str(value) for name, value in record["options"].items()},
    }


# config.yaml, the parameters of a Snakemake workflow.


def write_config(job: LaunchRequest) -> None:
    """Write config.yaml unless an earlier launch has written it."""
    if not job.workspace.config.exists():
        content = _config_text(job.config).encode()
        # An empty configuration is not read. Any other must be whole: the next launch reads it.
        write_atomically(job.workspace.config, content, durable=bool(job.config))


def _config_text(config: JsonObject) -> str:
    """Return the configuration as YAML.

    Some characters are line breaks in YAML but not in JSON. A YAML parser would turn them into
    blanks, so texts with them are escaped.
    """
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if any(character in text for character in "\x85\u2028\u2029"):
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=False)
    return text


# Options of Snakemake's command line.

_SETS = ("targets", "forcerun", "until", "omit_from", "allowed_rules")
_FLAGS = ("force", "forceall", "keep_going", "keep_incomplete", "notemp")
_PARSED = ("config", "default_resources", "set_resources", "set_threads", "set_scatter")
_LISTS = (*_SETS[1:], "rerun_triggers", *_PARSED)
_READ = frozenset({"cores", "retries", "targets", *_FLAGS, *_LISTS})
_PROFILE = Path("profiles/default")


def option_argv(options: SnakemakeOptions) -> list[str]:
    """Return the options as arguments, without the targets, which come last."""
    argv = ["--retries", str(options.retries)] if options.retries else []
    for name in _FLAGS:
        argv += [_option(name)] if getattr(options, name) else []
    for name in _LISTS:
        values = getattr(options, name)
        argv += [_option(name), *values] if values else []
    for profile in options.profile:
        argv += ["--profile", profile]
    for profile in options.workflow_profile:
        argv += ["--workflow-profile", profile]
    return argv


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parsed_options(spec: LaunchSpec) -> Any:
    """Return the options by the names of Snakemake's parser, including settings of profiles.

    Ignores profile settings that belong to the server (executor, directories, …) with a note in
    stderr. The working directory must be that of the run. Raises ValueError.
    """
    options = check_parameters(spec.engine_parameters)
    # Snakemake's parser takes longer than planning a small workflow, so most runs skip it
    if not _needs_parser(options, spec.workflow_file.parent):
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
    _refuse_missing(options, spec.workflow_file.parent)
    os.environ.pop("SNAKEMAKE_PROFILE", None)
    file = ["--snakefile", str(spec.workflow_file), "--executor", "local"]
    targets = ["--", *options.targets] if options.targets else []
    parsed = _parse([*file, *option_argv(options), *targets])
    # a second parse without profiles shows which settings the profiles have changed
    plain = vars(_parse([*file, "--workflow-profile", "none"]))
    ignored = [
        name
        for name, value in vars(parsed).items()
        if name not in _READ and value != plain.get(name) and "profile" not in name
    ]
    if ignored:
        names = ", ".join(sorted(ignored))
        sys.stderr.write(f"wesemu: ignored profile settings, which the server decides: {names}\n")
    cores = parsed.cores if isinstance(parsed.cores, int) else spec.resources.cores
    parsed.cores = max(1, min(cores, spec.resources.cores))
    parsed.config = import_module("snakemake.cli").parse_config(parsed.config)
    for name in _SETS:
        setattr(parsed, name, frozenset(getattr(parsed, name) or ()))
    return parsed


def _refuse_missing(options: SnakemakeOptions, folder: Path) -> None:
    """Raise ValueError for a profile that is not an attachment.

    Snakemake would also search the configuration folder of the server's user.
    """
    beside = folder / "profiles"
    for name in (*options.profile, *options.workflow_profile):
        paths = (Path(name), Path("profiles", name), beside / name)
        if name != "none" and not any(path.exists() for path in paths):
            raise ValueError(f"there is no profile {name} among the attachments")


def _needs_parser(options: SnakemakeOptions, folder: Path) -> bool:
    rich = (*_PARSED, "rerun_triggers", "profile", "workflow_profile")
    paths = (_PROFILE, folder / _PROFILE, Path("default"))
    return any(getattr(options, name) for name in rich) or any(path.exists() for path in paths)


def _parse(argv: list[str]) -> Any:
    """Call Snakemake's parser. Raises ValueError instead of printing the error and exiting."""

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ValueError(message)

    cli = import_module("snakemake.cli")
    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = refuse  # type: ignore[assignment, method-assign]
    try:
        return cli.parse_args(argv)[1]
    except SystemExit as exited:
        raise ValueError("Snakemake cannot read its options; see stderr") from exited
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]
