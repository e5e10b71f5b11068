"""The worker of a library engine, forked from the run process: calls cwltool or miniwdl.

Parts: `LibraryWorker` (a run), `plan_library` (a dry run), `LibraryResults` (the output folder
`work/out/`).
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wesemu.engines.attempt import Attempt
from wesemu.engines.dry_run import tie_to_server, write_failure, write_graph
from wesemu.engines.event_log import EventLog, history, to_event, walk
from wesemu.engines.failures import LINE_LIMIT, hint, log_tail, shorten
from wesemu.engines.launch_spec import LaunchSpec
from wesemu.engines.lease_queue import devices_environment
from wesemu.engines.leases import LeaseClient
from wesemu.engines.processes import die_with_parent, start_when_possible
from wesemu.engines.run_process import CANCELED, RunContext, Worker, run_child
from wesemu.engines.sandbox import enter_sandbox
from wesemu.engines.task_recorder import TaskFacts, TaskRecorder, job_key
from wesemu.runs.model import Graph, JsonValue, RunFailure
from wesemu.runs.ports import EngineError, Unpublished
from wesemu.runs.run_directory import Workspace, is_utf8, printable_path, unpublishable_reason
from wesemu.util.text import failure_reason


@dataclass(slots=True)
class WorkerContext:
    """Objects that a run of a library uses.

    `stop` is called on cancel. It ends containers, which are not in the process groups of tasks. If
    it returns True, the library ends by itself; otherwise the worker exits when the tools have
    ended.
    """

    workspace: Workspace
    spec: LaunchSpec
    tasks: TaskRecorder
    stop: Callable[[], bool] = field(default=lambda: False)

    def fail(self, failure: RunFailure) -> int:
        """Record the failed tasks, or else `failure`. Return the exit status 1."""
        failed = self.tasks.failed()
        for attempt in failed:
            self.tasks.event_log.error(attempt_failure(attempt, self.workspace.root))
        if not failed:
            self.tasks.event_log.error(failure)
        return 1

    def fail_by_path(self, problem: str) -> int:
        """As `fail`, for a run directory whose path the library cannot use."""
        advice = "start the server with another data directory (--data)"
        return self.fail(
            RunFailure(f"the server's path of the run directory is unusable: {problem}; {advice}")
        )


def named_task(name: str, command: str, threads: int) -> TaskFacts:
    """Return a task that its library knows by a unique name."""
    return TaskFacts(name, name, job_key(name, {}, []), command=command, threads=threads)


def attempt_failure(attempt: Attempt, root: Path) -> RunFailure:
    """Return the failure of a task by its last attempt; `root` is the run directory."""
    task = attempt.task
    text = log_tail(root / task.stderr) if task.stderr else ""
    text = text.removeprefix(f"wesemu: {attempt.note}").lstrip()
    advice = hint(task.exit_code, text)
    if attempt.reason:
        message, advice = f"task {task.name} failed: {attempt.reason}", None
    elif task.exit_code:
        reason = shorten(failure_reason(text), root)[:LINE_LIMIT]
        message = f"task {task.name} ended with exit status {task.exit_code}"
        message += f": {reason}" if reason else ""
    else:
        reason = shorten(attempt.error, root) or "see its standard error"
        message = f"task {task.name} failed: {reason}"
    return RunFailure(
        message=message,
        hint="; ".join(filter(None, (attempt.note, advice))) or None,
        task=task.name,
        exit_code=task.exit_code,
        stderr=task.stderr,
    )


RunWorkflow = Callable[[WorkerContext], int]
"""Runs the workflow. Returns the exit status; records the failure before."""


class LibraryWorker(Worker):
    """The parent's side of a forked worker. `cancel` writes a byte to the worker's pipe."""

    def __init__(self, context: RunContext, spec: LaunchSpec, run_workflow: RunWorkflow) -> None:
        self._context = context
        self._spec = spec
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        parent = os.getpid()
        self.pid = start_when_possible(os.fork)
        if self.pid == 0:
            run_child(lambda: self._run_child(parent, reader, run_workflow))
        os.close(reader)

    def cancel(self) -> None:
        with contextlib.suppress(OSError):  # the worker has just ended
            os.write(self._writer, b"\0")

    def ended(self, code: int) -> None:
        self._context.record_signal(self._spec.engine, code)

    def _run_child(self, parent: int, reader: int, run_workflow: RunWorkflow) -> int:
        """Run the workflow in the forked child; return the exit status."""
        try:
            self._context.enter_child()
            os.close(self._writer)
            die_with_parent(parent)
            spec, context = self._spec, self._context
            # opens the lease folder and starts no thread: the sandbox needs a single thread
            leases = LeaseClient(spec.priority) if spec.priority else None
            if spec.sandbox is not None:
                enter_sandbox(spec.sandbox, context.workspace, spec.priority)
            earlier = history(context.workspace)
            tasks = TaskRecorder(context.workspace, context.event_log, earlier, leases)
            worker = WorkerContext(context.workspace, spec, tasks)
            threading.Thread(
                target=_await_cancel, args=[reader, worker], name="cancel", daemon=True
            ).start()
            os.chdir(self._context.workspace.work)
            if spec.priority or not spec.resources.gpus:
                os.environ |= devices_environment(())  # each task gets the GPUs of its lease
            return run_workflow(worker)
        except BaseException as error:
            traceback.print_exc()
            name = type(error).__name__
            self._context.event_log.error(RunFailure(f"{name}: {error}", stderr="stderr.log"))
            return 1


def _await_cancel(reader: int, worker: WorkerContext) -> None:
    if not os.read(reader, 1):
        return  # the run process has died, so the kernel kills this one
    worker.tasks.cancel()
    if not worker.stop():
        worker.tasks.wait_for_groups()
        os._exit(CANCELED)


# Dry runs.

InspectWorkflow = Callable[[WorkerContext], Graph | None]
"""Returns the task graph; None after it has recorded the failure (`WorkerContext.fail`)."""


def plan_library(workspace: Workspace, spec: LaunchSpec, inspect_workflow: InspectWorkflow) -> None:
    """Execute a dry run as its process; `inspect_workflow` plans the workflow."""
    if spec.sandbox is not None:
        enter_sandbox(spec.sandbox, workspace, None, workspace.root)
    tie_to_server()
    worker = WorkerContext(workspace, spec, TaskRecorder(workspace, EventLog(workspace), []))
    os.chdir(workspace.work)
    try:
        graph = inspect_workflow(worker)
    except Exception as error:
        traceback.print_exc()
        write_failure(workspace, RunFailure(f"{type(error).__name__}: {error}"))
        return
    if graph is None:
        write_failure(workspace, _first_failure(workspace))
    else:
        write_graph(workspace, graph)


def _first_failure(workspace: Workspace) -> RunFailure:
    for record in history(workspace):
        match to_event(record):
            case EngineError(failure=failure):
                return failure
    return RunFailure("the engine rejects the workflow without a message; see stderr")


# Outputs: `work/out/` with the output files, and outputs.json with their paths.

FOLDER = "out"
NAME = "outputs.json"


@dataclass(frozen=True, slots=True)
class KeptOutput:
    """An output file: `name` below the folder, size in bytes, SHA-1 in hexadecimal if requested."""

    name: Path
    size: int
    sha1: str | None = None


class LibraryResults:
    """Collects the outputs of one run as hard links, or copies where links are impossible.

    Outputs that cannot be kept become `problems`, which fail the run.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.work / FOLDER
        self.problems = list[Unpublished]()
        self._workspace = workspace
        self._root = workspace.root.resolve()
        self._files = dict[str, None]()

    def keep(self, source: Path, name: Path, *, digest: bool = False) -> KeptOutput | None:
        """Put a file at `name` below the folder; replaces an existing one.

        Returns None if the file cannot be published.
        """
        reason = self._problem(source)
        if reason is None and not is_utf8(name):
            reason = "its name is not UTF-8"
        if reason is not None:
            self.refuse(name, reason)
            return None
        target = self._make_target(name)
        real = source.resolve()
        # no link to a file outside the run: a later change there must not alter the output
        if real.is_relative_to(self._root):
            with contextlib.suppress(OSError):
                os.link(real, target)
        if not target.exists():
            shutil.copyfile(real, target)
        return self._describe(name, digest=digest)

    def _problem(self, source: Path) -> str | None:
        """Return why a file cannot be published, or None.

        An output may be an input file outside the run. But a link that a tool made must not lead
        outside.
        """
        if os.path.normpath(source).startswith(f"{self._workspace.root}/"):
            return unpublishable_reason(self._workspace, source)
        return None if source.is_file() else "it does not exist"

    def keep_folder(self, source: Path, name: Path, *, digest: bool = False) -> list[KeptOutput]:
        """Put the files of a folder below `name`; follows links to other folders of the run."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        kept: list[KeptOutput | None] = []
        for path in walk(source, lambda real: real.is_relative_to(self._root)):
            inner = name / path.relative_to(source)
            if path.is_dir() and not path.is_symlink():
                (self.folder / inner).mkdir(parents=True, exist_ok=True)
            else:
                kept.append(self.keep(path, inner, digest=digest))
        return [one for one in kept if one is not None]

    def write(self, text: str, name: Path, *, digest: bool = False) -> KeptOutput:
        self._make_target(name).write_text(text, encoding="utf-8", newline="")
        return self._describe(name, digest=digest)

    def refuse(self, name: Path, reason: str) -> None:
        """Record an output that cannot be published."""
        self.problems.append(Unpublished(printable_path(f"{FOLDER}/{name}"), reason))

    def _describe(self, name: Path, *, digest: bool) -> KeptOutput:
        with (self.folder / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            sha1 = hashlib.file_digest(file, "sha1").hexdigest() if digest else None
        return KeptOutput(name, size, sha1)

    def _make_target(self, name: Path) -> Path:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        self._files[f"{FOLDER}/{name}"] = None
        return target

    @property
    def files(self) -> list[str]:
        """All kept files, as paths below `work/`."""
        return list(self._files)

    def close(self, outputs: JsonValue) -> None:
        """Write outputs.json; its paths are relative to its folder."""
        text = json.dumps(outputs, indent=2, ensure_ascii=False)
        self.write(f"{text}\n", Path(NAME))
