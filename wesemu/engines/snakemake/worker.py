"""The worker of the mode "warm", forked from the run process; also dry runs.

Parts: `WorkflowRun` and planning with Snakemake's Python interface, `tool_environment`, `plan_run`
(a dry run), `WarmWorker` and its messages. The run process also forks the children for `run:`
blocks: the worker has threads, and only a process without threads can fork safely.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from resource import struct_rusage
from typing import Any

from wesemu.engines import event_log as events
from wesemu.engines.attempt import Attempt, Usage, measure
from wesemu.engines.dry_run import tie_to_server, write_failure, write_graph
from wesemu.engines.event_log import EventLog, OutputFiles
from wesemu.engines.failures import workflow_failure
from wesemu.engines.launch_spec import LaunchSpec, parsed_options
from wesemu.engines.lease_queue import devices_environment
from wesemu.engines.leases import LeaseClient
from wesemu.engines.processes import (
    die_with_parent,
    exit_code_of,
    send_group,
    start_when_possible,
)
from wesemu.engines.run_process import RunContext, Worker, run_child
from wesemu.engines.sandbox import enter_sandbox
from wesemu.engines.snakemake import hooks
from wesemu.engines.snakemake.backends import Backend, SlurmBackend
from wesemu.engines.snakemake.executor import JobController, TaskLeases
from wesemu.engines.task_recorder import TaskRecorder
from wesemu.runs.model import RunFailure, graph_of
from wesemu.runs.run_directory import Workspace, write_atomically

SHARED_DISK_SECONDS = 30
"""Time until a file that another machine has written is visible here."""

_PLUGIN = "wesemu.engines.snakemake.executor_plugin"


class WorkflowRun:
    """Plans and executes the workflow of a launch. `run` returns after all jobs have ended."""

    def __init__(
        self, workspace: Workspace, spec: LaunchSpec, event_log: EventLog, controller: JobController
    ) -> None:
        self._workspace = workspace
        self._spec = spec
        self._event_log = event_log
        self._controller = controller
        self._planning: Any = None
        self._workflow: Any = None

    def run(self) -> int:
        """Return the exit status: 0, or 1 with the failure in the event log."""
        tempfile.tempdir = None
        os.chdir(self._workspace.work)
        os.environ.update(tool_environment(self._workspace, self._spec))
        hooks.install(self._controller)
        executor = import_module(_PLUGIN).register(self._controller)
        api = import_module("snakemake.api")
        settings = import_module("snakemake.settings.types")
        output = settings.OutputSettings(nocolor=True, printshellcmds=True, show_failed_logs=False)
        with api.SnakemakeApi(output) as snakemake:
            handler = hooks.ErrorHandler(self._controller)
            import_module("snakemake.logging").logger.addHandler(handler)
            try:
                self._execute(snakemake, settings, executor)
            except (Exception, SystemExit) as error:
                return self._describe_failure(snakemake, error)
        self._publish_outputs()
        return 0

    def _execute(self, snakemake: Any, settings: Any, executor: str) -> None:
        spec = self._spec
        options = parsed_options(spec)
        planning = plan_workflow(snakemake, settings, self._workspace, spec, options)
        self._planning = planning
        graph = plan_graph(planning, settings, options)
        self._workflow = hooks.workflow_of(planning)
        if spec.deployment is not None and (ignored := ignored_software(self._workflow)):
            sys.stderr.write(f"{ignored}\n")
        execute_graph(
            graph,
            settings,
            executor,
            keep_going=options.keep_going,
            keep_incomplete=options.keep_incomplete,
            retries=options.retries,
            latency_wait=0 if spec.executor == "local" else SHARED_DISK_SECONDS,
        )

    def _publish_outputs(self, *, only_made: bool = False) -> None:
        outputs = OutputFiles(self._workspace)
        for name in hooks.final_outputs(self._workflow.dag, only_made=only_made):
            outputs.add(name)
        self._event_log.outputs(outputs.files, outputs.problems)

    def _describe_failure(self, snakemake: Any, error: BaseException) -> int:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return 0
        try:
            snakemake.print_exception(error)
        except KeyError:  # raised by Snakemake for syntax errors
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        if not self._controller.task_failed:
            self._event_log.error(self._failure(error))
        if getattr(self._workflow, "dag", None) is not None:
            self._publish_outputs(only_made=True)
        return 1

    def _failure(self, error: BaseException) -> RunFailure:
        file, line = hooks.origin(self._planning, error)
        return workflow_failure(error, file, line, self._workspace.root)


def plan_workflow(
    snakemake: Any, settings: Any, workspace: Workspace, spec: LaunchSpec, options: Any
) -> Any:
    """Return Snakemake's WorkflowApi for `parsed_options`. It has not parsed the Snakefile yet.

    A run without parameters gets no config file: with one, Snakemake would not report that the
    `configfile:` of the Snakefile is missing.
    """
    return snakemake.workflow(
        resource_settings=settings.ResourceSettings(
            cores=options.cores,
            max_threads=spec.cluster.task_cores or None,
            resources=resource_limits(spec),
            default_resources=options.default_resources,
            overwrite_threads=options.set_threads,
            overwrite_scatter=options.set_scatter,
            overwrite_resources=options.set_resources,
        ),
        config_settings=settings.ConfigSettings(
            config=options.config, configfiles=[workspace.config] if spec.configured else []
        ),
        storage_settings=settings.StorageSettings(notemp=options.notemp),
        snakefile=spec.workflow_file,
        workdir=workspace.work,
    )


_RULES_SHOWN = 5


def ignored_software(workflow: Any) -> str:
    """Return a warning that names the conda environments and containers of rules; "" without any.

    Rules run with the software of this machine unless the setting engine.deployment provides them.
    """
    rules: dict[str, list[str]] = {}
    for rule in workflow.rules:
        for kind, wanted in (("conda", rule.conda_env), ("container", rule.container_img)):
            if wanted and not rule.norun:
                software = f"{kind} {'(a function)' if callable(wanted) else wanted}"
                rules.setdefault(software, []).append(rule.name)
    if not rules:
        return ""
    listed = "; ".join(f"{software} of {_names(names)}" for software, names in rules.items())
    return (
        f"Warning: ignored {listed}. These rules run with the software of this machine; the "
        "setting engine.deployment provides environments and containers."
    )


def _names(names: list[str]) -> str:
    more = len(names) - _RULES_SHOWN
    return ", ".join(names[:_RULES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def plan_graph(planning: Any, settings: Any, options: Any) -> Any:
    """Return Snakemake's DAGApi for `parsed_options`."""
    triggers = options.rerun_triggers
    return planning.dag(
        settings.DAGSettings(
            targets=options.targets,
            forcetargets=options.force,
            forceall=options.forceall,
            forcerun=options.forcerun,
            until=options.until,
            omit_from=options.omit_from,
            allowed_rules=options.allowed_rules,
            force_incomplete=True,
            **({} if triggers is None else {"rerun_triggers": triggers}),
        )
    )


def execute_graph(graph: Any, settings: Any, executor: str, **execution: Any) -> None:
    """Execute a DAGApi; `execution` are members of Snakemake's ExecutionSettings."""
    graph.execute_workflow(
        executor=executor,
        execution_settings=settings.ExecutionSettings(lock=False, **execution),
        scheduling_settings=settings.SchedulingSettings(scheduler="greedy"),
        scheduler_settings=import_module("snakemake.scheduling.greedy").SchedulerSettings(),
    )


def resource_limits(spec: LaunchSpec) -> dict[str, int]:
    """Return Snakemake's resource limits.

    Memory has a limit only if the run has one. GPUs always have one, as 0 is a limit too; but not
    on a cluster, where Slurm assigns them.
    """
    here = spec.executor == "local"
    limits = dict.fromkeys(hooks.GPU_RESOURCES, spec.resources.gpus) if here else {}
    if spec.resources.memory_mb:
        limits["mem_mb"] = spec.resources.memory_mb
    return limits


def tool_environment(workspace: Workspace, spec: LaunchSpec) -> dict[str, str]:
    """Return variables to add to the environment of tools.

    Tasks see the GPUs of their lease; without leases, a run with GPUs sees all of them. The cache
    folder is in the run directory if the one of the user is not writable. `python` on PATH is
    Snakemake's interpreter.
    """
    shared = spec.resources.gpus and spec.priority is None
    environment = {} if shared else devices_environment([])
    if spec.executor == "local":  # same file system as `work/`, deleted with the run
        temporary = workspace.root / "tmp"
        temporary.mkdir(exist_ok=True)
        environment["TMPDIR"] = str(temporary)
    environment |= cache_environment(workspace, spec)
    if (folder := _python_folder(workspace, spec)) is not None:
        environment["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
    return environment


def cache_environment(workspace: Workspace, spec: LaunchSpec) -> dict[str, str]:
    """Return the variable of Snakemake's cache folder if that of the user cannot be used."""
    if spec.sandbox is not None:
        return {"XDG_CACHE_HOME": str(workspace.root / "tmp" / "cache")}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return {} if is_writable(cache) else {"XDG_CACHE_HOME": str(workspace.root / "cache")}


def is_writable(folder: Path) -> bool:
    """Whether this user may write to `folder`, or create it.

    `Path.exists` raises PermissionError below another user's home, as under `su` or `docker -u`.
    """
    existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110
    return os.path.isdir(existing) and os.access(existing, os.W_OK)  # noqa: PTH112


def _python_folder(workspace: Workspace, spec: LaunchSpec) -> Path | None:
    """Return a folder where `python` and `python3` start the interpreter of Snakemake.

    None if that interpreter is the first on PATH already. The files are scripts, not links: an
    interpreter that is started through a link looks for its environment beside the link.
    """
    own = Path(spec.python)
    folder = workspace.root / "tmp" / "bin"
    names = ("python", "python3")
    found = [shutil.which(name) for name in names]
    if all(path is not None and Path(path).parent in (own.parent, folder) for path in found):
        return None
    if folder.is_symlink():  # the workflow of an earlier launch has put it there
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    script = os.fsencode(f'#!/bin/sh\nexec {shlex.quote(str(own))} "$@"\n')
    for name in names:
        write_atomically(folder / name, script, durable=False, mode=0o777)
    return folder


# Dry runs.


def plan_run(workspace: Workspace, spec: LaunchSpec) -> None:
    """Write the task graph, or the failure, as the process of a dry run."""
    os.chdir(workspace.work)
    os.environ.update(cache_environment(workspace, spec))
    if spec.sandbox is not None and not spec.sandbox.program:
        enter_sandbox(spec.sandbox, workspace, None, workspace.root)
    tie_to_server()
    planning: Any = None
    graph = graph_of([])  # stays empty if there is nothing to do

    def planned(dag: Any) -> None:
        nonlocal graph
        graph = hooks.graph(dag)

    executor = import_module(_PLUGIN).register_planner(planned)
    api = import_module("snakemake.api")
    settings = import_module("snakemake.settings.types")
    with api.SnakemakeApi(settings.OutputSettings(nocolor=True)) as snakemake:
        try:
            options = parsed_options(spec)
            planning = plan_workflow(snakemake, settings, workspace, spec, options)
            execute_graph(plan_graph(planning, settings, options), settings, executor)
            write_graph(workspace, graph)
        except (Exception, SystemExit) as error:
            file, line = hooks.origin(planning, error)
            write_failure(workspace, workflow_failure(error, file, line, workspace.root))


_MESSAGE_LIMIT = 1 << 18

Message = dict[str, Any]


class WarmWorker(Worker):
    """The parent's side of the worker. Messages are JSON, one per datagram.

    The child sends {"fork"}; the run process sends {"forked"}, {"ended"} and {"cancel"}.
    """

    def __init__(self, context: RunContext, spec: LaunchSpec) -> None:
        self._context = context
        self._spec = spec
        self._forks = dict[int, int]()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = self._fork(lambda: _run_workflow(context, spec, theirs))
        theirs.close()
        self._open = True

    def fileno(self) -> int:
        return self._channel.fileno() if self._open else -1

    def on_readable(self) -> None:
        content = self._channel.recv(_MESSAGE_LIMIT)
        if not content:
            self._open = False
            return
        message = json.loads(content)
        pid = self._fork(lambda: _run_python(self._context, self._spec, message))
        self._forks[pid] = message["fork"]
        self._send({"forked": message["fork"], "pid": pid})

    def cancel(self) -> None:
        """Cancel the worker, and signal `run:` jobs if they are sandboxed.

        Landlock keeps the worker from signaling them: they have separate sandboxes.
        """
        self._send({"cancel": True})
        if self._spec.sandbox is not None:
            for pid in self._forks:
                send_group(pid, signal.SIGTERM)

    def child_ended(self, pid: int, status: int, usage: struct_rusage) -> None:
        if (number := self._forks.pop(pid, None)) is not None:
            code = exit_code_of(os.waitstatus_to_exitcode(status))
            self._send({"ended": number, "exit_code": code, "usage": asdict(measure(usage))})

    def ended(self, code: int) -> None:
        self._context.record_signal("Snakemake", code)

    def _send(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # the worker has just ended
            self._channel.send(json.dumps(message).encode())

    def _fork(self, run: Callable[[], int]) -> int:
        """Fork a child that calls `run`; return its process id."""
        parent = os.getpid()

        def run_in_child() -> int:
            self._context.enter_child()
            self._channel.close()
            die_with_parent(parent)
            return run()

        pid = start_when_possible(os.fork)
        if pid == 0:
            run_child(run_in_child)
        return pid


def _run_workflow(context: RunContext, spec: LaunchSpec, channel: socket.socket) -> int:
    # the sandbox comes before the first thread: Landlock and unshare affect only the caller
    earlier = events.history(context.workspace)
    recorder = TaskRecorder(context.workspace, context.event_log, earlier)
    _enter_sandbox(context, spec)
    channel_end = _ForkChannel(channel, tool_environment(context.workspace, spec))
    leases = TaskLeases(LeaseClient(spec.priority) if spec.priority else None)
    remote = spec.executor == "slurm"
    backend = SlurmBackend(context.workspace, spec.cluster) if remote else Backend()
    controller = JobController(
        context.workspace, recorder, channel_end.start_python, leases, backend
    )
    channel_end.listen(controller.cancel)
    return WorkflowRun(context.workspace, spec, context.event_log, controller).run()


class _ForkChannel:
    """The channel end in the worker, shared by its threads."""

    def __init__(self, channel: socket.socket, environment: Mapping[str, str]) -> None:
        self._channel = channel
        self._environment = environment
        self._lock = threading.Lock()
        self._answers = dict[int, SimpleQueue[Message]]()

    def listen(self, cancel: Callable[[], None]) -> None:
        threading.Thread(
            target=self._listen, args=[cancel], name="run process", daemon=True
        ).start()

    def _listen(self, cancel: Callable[[], None]) -> None:
        while content := self._channel.recv(_MESSAGE_LIMIT):
            message = json.loads(content)
            if "cancel" in message:
                cancel()
            else:
                self._answers[message.get("forked") or message["ended"]].put(message)

    def start_python(
        self, arguments: list[str], directory: str, attempt: Attempt, started: Callable[[int], None]
    ) -> int:
        """Let the run process fork a child that executes one `run:` job; return its exit status."""
        answers = SimpleQueue[Message]()
        with self._lock:
            number = len(self._answers) + 1
            self._answers[number] = answers
        request = {
            "fork": number,
            "arguments": arguments,
            "directory": directory,
            "folder": str(attempt.folder),
            "environment": {**self._environment, **attempt.environment},
        }
        self._channel.send(json.dumps(request).encode())
        started(answers.get()["pid"])  # the answer to the fork
        ended = answers.get()  # comes when the child has ended
        attempt.process_ended(ended["exit_code"], Usage(**ended["usage"]))
        return int(ended["exit_code"])


def _enter_sandbox(context: RunContext, spec: LaunchSpec) -> None:
    if spec.sandbox is not None:
        enter_sandbox(spec.sandbox, context.workspace, spec.priority)


def _run_python(context: RunContext, spec: LaunchSpec, request: Message) -> int:
    """Execute one `run:` job in a forked child with Snakemake's command line."""
    os.setpgid(0, 0)
    _enter_sandbox(context, spec)
    for target, name in ((1, "stdout"), (2, "stderr")):
        path = Path(request["folder"]) / name
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["directory"])
    os.environ.update(request["environment"])
    hooks.keep_signals()
    hooks.accept_times_of_inputs()
    try:
        import_module("snakemake.cli").main(request["arguments"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
