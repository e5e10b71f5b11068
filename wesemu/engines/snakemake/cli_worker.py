"""The worker of the mode "cli": runs Snakemake's command line with our logger plugin.

Parts: options and logs of executor plugins, `CliMessages` (messages of the logger plugin to
events), `CliWorker` (the process) and its command line.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wesemu.engine_parameters import check_parameters
from wesemu.engines import event_log as events
from wesemu.engines.event_log import EventLog, OutputFiles
from wesemu.engines.failures import (
    log_tail,
    relative_logs,
    shorten,
    signal_failure,
    snakemake_reason,
    task_failure,
    workflow_hint,
)
from wesemu.engines.launch_spec import LaunchSpec, option_argv
from wesemu.engines.leases import lease_command
from wesemu.engines.processes import (
    descendants,
    die_with_parent,
    offer_to_oom_killer,
    send,
    send_group,
)
from wesemu.engines.run_process import RunContext, Worker
from wesemu.engines.sandbox import enter_sandbox, in_bubblewrap
from wesemu.engines.slurm import Cluster
from wesemu.engines.snakemake.worker import resource_limits, tool_environment
from wesemu.engines.task_recorder import TaskFacts, TaskRecorder, job_key
from wesemu.runs.model import JsonObject, RunFailure, TaskLog, TaskState
from wesemu.runs.run_directory import Workspace

# Executor plugins of Snakemake. That for Slurm gets its options from the settings.

_PLUGIN = "plugin:"
_LONGEST_PREFIX = 50
_LATENCY_SECONDS = 30
_STATUS_SECONDS = 10
"""Seconds between two status checks of the Slurm plugin, which adds ten after each check. A short
task ends at about this time: it has to start Snakemake."""

_READ_SIZE = 1 << 16
_RULE_ERROR = "\nRuleException:"
_EXIT_STATUS = re.compile(r"returned non-zero exit status (\d+)|died with <Signals\.\w+: (\d+)>")


def plugin_name(executor: str) -> str | None:
    """Return the name of the executor plugin, or None for an executor that is not a plugin."""
    if executor == "slurm-plugin":
        return "slurm"
    return executor.removeprefix(_PLUGIN) if executor.startswith(_PLUGIN) else None


def plugin_installed(name: str) -> bool:
    """Return whether the plugin is installed, without importing it. Blocks on the disk."""
    return find_spec(f"snakemake_executor_plugin_{name.replace('-', '_')}") is not None


def plugin_argv(executor: str, cluster: Cluster, run_id: str, jobs: int) -> list[str]:
    """Return Snakemake options for `jobs` jobs at a time, without `plugin_resources`."""
    argv = ["--executor", plugin_name(executor) or "local", "--jobs", str(jobs)]
    argv += ["--latency-wait", str(_LATENCY_SECONDS)]
    argv += _slurm_argv(cluster, run_id) if executor == "slurm-plugin" else []
    return [*argv, *cluster.plugin_options]


def _slurm_argv(cluster: Cluster, run_id: str) -> list[str]:
    prefix = "".join(sign if sign.isalnum() else "-" for sign in run_id)[:_LONGEST_PREFIX]
    argv = [
        *("--slurm-jobname-prefix", prefix),
        *("--slurm-init-seconds-before-status-checks", str(_STATUS_SECONDS)),
        *("--seconds-between-status-checks", str(_STATUS_SECONDS)),
    ]
    argv += [] if cluster.accounting else ["--slurm-status-command", "squeue"]
    argv += ["--max-threads", str(cluster.task_cores)] if cluster.task_cores else []
    return argv if cluster.account else [*argv, "--slurm-no-account"]


def plugin_resources(cluster: Cluster) -> list[str]:
    """Return default resources (expressions) with the Slurm settings of the administrator."""
    named = {"slurm_partition": cluster.partition, "slurm_account": cluster.account}
    named["slurm_extra"] = " ".join(cluster.options)
    return [f"{name}={value!r}" for name, value in named.items() if value]


def exit_status(text: str) -> int | None:
    """Return the exit status in an error message of Snakemake; 128 + n for signal n."""
    if (match := _EXIT_STATUS.search(text)) is None:
        return None
    return int(match[1]) if match[1] else 128 + int(match[2])


def job_log(logs: Iterable[str], root: Path) -> str | None:
    """Return the log that the plugin added to a failed job, as a path below `root`."""
    for log in map(Path, logs):
        is_own = log.is_relative_to(root) and log.resolve().is_relative_to(root.resolve())
        if "slurm_logs" in log.parts and is_own and log.is_file():
            return str(log.relative_to(root))
    return None


def read_job_log(path: Path) -> tuple[int | None, str]:
    """Return exit status and last line of a job, from the text before Snakemake's error."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _READ_SIZE))
        text = file.read().decode(errors="replace")
    before, error, _ = text.partition(_RULE_ERROR)
    lines = before.splitlines() if error else []
    return exit_status(text), lines[-1].strip() if lines else ""


# Events from the log events of Snakemake; they have fewer details than the hooks of warm runs.

_INCOMPLETE = re.compile(r"Job (\d+)\s+completed successfully, but some output files are missing")

Message = dict[str, Any]


class CliMessages:
    """Converts messages of the logger plugin to events."""

    def __init__(
        self, workspace: Workspace, event_log: EventLog, earlier: list[JsonObject]
    ) -> None:
        self._workspace = workspace
        self._event_log = event_log
        self._tasks = TaskRecorder(workspace, event_log, earlier)
        self._running = dict[int, tuple[TaskLog, Message]]()
        self._errors = list[str]()
        self._canceled = False
        self.has_orphaned_service = False
        """Jobs of a group have failed, and Snakemake would wait forever for their service."""
        self._failures = dict[int, RunFailure]()
        self._finished = dict[str, None]()
        self._made, self._consumed, self._wanted = dict[str, None](), set[str](), set[str]()
        for record in earlier:
            if record["event"] == "files":
                self._note_files(record)

    def handle(self, message: Message) -> None:
        timestamp = datetime.fromtimestamp(message["time"], UTC)
        match message["event"]:
            case "run_info":
                self._event_log.write("planned", total=(message["stats"] or {}).get("total", 0))
            case "job_info":
                self._started(message, timestamp)
            case "job_finished":
                self._ended(message["job_id"], TaskState.COMPLETE, timestamp)
            case "progress":
                self._event_log.write("progress", done=message["done"], total=message["total"])
            case "error":
                self._record_error(message["message"], timestamp)
            case "group_error":
                self.has_orphaned_service |= any(
                    "(service)" in job for job in message["job_error_info"]
                )
            case "job_error":
                self._failed(message["jobid"], message.get("log") or [], timestamp)

    def _started(self, message: Message, timestamp: datetime) -> None:
        files = {"inputs": message["input"], "outputs": message["output"]}
        self._note_files(files)
        self._event_log.write("files", **files)
        if not (message["output"] or message["shellcmd"] or message["log"]):
            return
        rule, wildcards = message["rule_name"], message["wildcards"] or {}
        key = job_key(rule, wildcards, message["output"])
        command, threads = message["shellcmd"], message["threads"]
        facts = TaskFacts(message["jobid"], rule, key, wildcards, command, threads)
        task = replace(self._tasks.next_attempt(facts, TaskState.RUNNING), started=timestamp)
        self._running[message["jobid"]] = (task, message)
        self._event_log.task(task, key=key)

    def _note_files(self, record: Message) -> None:
        """Note the files of a job. A job without outputs is a target: its inputs are wanted."""
        self._made.update(dict.fromkeys(record["outputs"]))
        (self._consumed if record["outputs"] else self._wanted).update(record["inputs"])

    def _ended(
        self, jobid: int, state: TaskState, timestamp: datetime, code: int | None = 0
    ) -> None:
        if jobid in self._running:
            task, message = self._running.pop(jobid)
            if state is TaskState.COMPLETE:
                self._failures.pop(jobid, None)  # of an attempt before
                self._finished.update(dict.fromkeys(message["output"]))
            self._event_log.task(replace(task, state=state, ended=timestamp, exit_code=code))

    def _record_error(self, text: str, timestamp: datetime) -> None:
        self._errors.append(text)
        if (missing := _INCOMPLETE.search(text)) is not None:
            self._failed(int(missing[1]), [], timestamp)

    def _failed(self, jobid: int, logs: list[str], timestamp: datetime) -> None:
        if jobid not in self._running:
            return
        task, message = self._running[jobid]
        error = self._error_of(message)
        code = exit_status(error)
        root, text = self._workspace.root, ""
        if (remote := job_log(logs, root)) is not None:
            code, text = read_job_log(root / remote)
        state = TaskState.CANCELED if self._canceled else TaskState.EXECUTOR_ERROR
        self._ended(jobid, state, timestamp, code)
        wildcards = ", ".join(f"{name}={value}" for name, value in task.wildcards.items())
        evidence = [*relative_logs(self._workspace, tuple(logs)), remote or "stderr.log"]
        failure = task_failure(task.name, wildcards, code, error, root, evidence)
        if text and failure.stderr == remote:
            failure = replace(failure, message=f"rule {task.name} ended: {text}")
        self._failures[jobid] = failure

    def _error_of(self, message: Message) -> str:
        """Return the error that contains the command of the job, else the newest error."""
        command = (message["shellcmd"] or "").strip()
        for text in reversed(self._errors):
            if command and command in text:
                return text
        return self._errors[-1] if self._errors else ""

    def cancel(self) -> None:
        self._canceled = True

    def ended(self, code: int) -> None:
        """Record the outputs, or the failure of each job that stayed failed."""
        if code == 0:
            final = [p for p in self._made if p in self._wanted or p not in self._consumed]
            self._write_outputs(final)
            return
        if not self._canceled:
            # all outputs of finished jobs: the targets are unknown before all jobs have started
            self._write_outputs(self._finished)
        root = self._workspace.root
        for failure in self._failures.values():
            self._event_log.error(failure)
        if self._failures:
            return
        reason = None if self._errors else signal_failure("Snakemake", code)
        if reason is None:
            text = self._errors[0] if self._errors else log_tail(root / "stderr.log")
            message = shorten(snakemake_reason(text), root)
            message = message or f"Snakemake ended with exit status {code}"
            advice = workflow_hint(message)
            reason = RunFailure(message, hint=advice, exit_code=code, stderr="stderr.log")
        self._event_log.error(reason)

    def _write_outputs(self, paths: Iterable[str]) -> None:
        outputs = OutputFiles(self._workspace)
        for path in paths:
            outputs.add(path)
        self._event_log.outputs(outputs.files, outputs.problems)


# The process.

_PLUGIN_PATH = Path(__file__).parent / "plugin_path"
_SERVICE_SECONDS = "5"
"""Time for a `service()` to create its file; applies to every missing output."""


class CliWorker(Worker):
    """Runs Snakemake's command line. The tools are in the process group of the command."""

    def __init__(self, context: RunContext, spec: LaunchSpec) -> None:
        self._messages = CliMessages(
            context.workspace, context.event_log, events.history(context.workspace)
        )
        self._rest = b""
        self._remote = spec.executor != "local"
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        self._open = True
        self._ending = False
        parent = os.getpid()
        os.environ.update(tool_environment(context.workspace, spec))
        search = [str(_PLUGIN_PATH), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(  # kept, or Python would reap it in another Popen
            leased_command_line(context.workspace, spec),
            cwd=context.workspace.work,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(part for part in search if part),
                "WESEMU_EVENTS_FD": str(theirs),
            },
            pass_fds=[theirs],
            process_group=0,
            preexec_fn=lambda: _begin(parent, context.workspace, spec),
        )
        os.close(theirs)
        self.pid = self._process.pid

    def fileno(self) -> int:
        return self._pipe if self._open else -1

    def on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            content = os.read(self._pipe, _READ_SIZE)
            self._open = bool(content)
            *lines, self._rest = (self._rest + content).split(b"\n")
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                self._messages.handle(message)
        if self._messages.has_orphaned_service and not self._ending:
            self._ending = True
            # not to Snakemake: its SIGTERM handler may deadlock (see hooks.keep_signals)
            send(descendants(self.pid), signal.SIGTERM)

    def cancel(self) -> None:
        """Signal the process group: SIGTERM, or SIGINT for an executor plugin.

        On SIGTERM, Snakemake starts no more jobs and treats ended tools as failures. On SIGINT,
        plugins cancel their jobs.
        """
        self._messages.cancel()
        send_group(self.pid, signal.SIGINT if self._remote else signal.SIGTERM)

    def ended(self, code: int) -> None:
        while self._open and select.select([self._pipe], [], [], 0)[0]:
            self.on_readable()
        self._messages.ended(code)


def _begin(parent: int, workspace: Workspace, spec: LaunchSpec) -> None:
    die_with_parent(parent)
    offer_to_oom_killer()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the run process ignores it
    if spec.sandbox is not None and not spec.sandbox.program:
        enter_sandbox(spec.sandbox, workspace, spec.priority)


def leased_command_line(workspace: Workspace, spec: LaunchSpec) -> list[str]:
    """Return the command line with one lease for the whole run: Snakemake starts the tasks."""
    command = command_line(workspace, spec)
    if spec.sandbox is not None and spec.sandbox.program:
        command = in_bubblewrap(spec.sandbox, workspace, command)
    if spec.priority is None:
        return command
    return lease_command(spec.python, command, spec.priority, spec.resources)


def command_line(workspace: Workspace, spec: LaunchSpec) -> list[str]:
    argv = [
        *(spec.python, "-P", "-m", "snakemake", "--logger", "wesemu"),
        *("--snakefile", str(spec.workflow_file), "--directory", str(workspace.work)),
        *("--cores", str(spec.resources.cores)),
        *("--nolock", "--rerun-incomplete", "--latency-wait", _SERVICE_SECONDS),
        *("--scheduler", "greedy", "--nocolor", "--printshellcmds"),
    ]
    argv += ["--configfile", str(workspace.config)] if spec.configured else []
    argv += ["--software-deployment-method", *spec.deployment] if spec.deployment else []
    limits = resource_limits(spec)
    argv += ["--resources", *(f"{name}={n}" for name, n in limits.items())] if limits else []
    options = check_parameters(spec.engine_parameters)
    argv += ["--executor", "local"] if spec.executor == "local" else []
    if plugin_name(spec.executor) is not None:
        run_id, jobs = workspace.root.name, spec.resources.cores
        argv += plugin_argv(spec.executor, spec.cluster, run_id, jobs)
    if spec.executor == "slurm-plugin":
        pairs = tuple(plugin_resources(spec.cluster))
        options = replace(options, default_resources=(*options.default_resources, *pairs))
    return [*argv, *option_argv(options), "--", *options.targets]
