"""Runs one WDL document with miniwdl's library and a fixed configuration; also dry runs.

Parts: failures, the run itself, its outputs, the dry run.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from wesemu.engines.failures import shorten
from wesemu.engines.launch_spec import LaunchSpec
from wesemu.engines.library_worker import LibraryResults, WorkerContext
from wesemu.runs.model import Graph, JsonValue, PlannedTask, RunFailure, graph_of
from wesemu.runs.run_directory import Workspace

# Failures.

_NOT_AN_INPUT = " (to allow, set [file_io] allow_any_input = true)"
"""The advice of miniwdl about its configuration, which has no effect here."""


def describe_failure(error: BaseException, workspace: Workspace) -> RunFailure:
    """Return the failure of a run without a task that failed by its exit status."""
    library = import_module("WDL")
    task, cause = _original(error)
    several = getattr(cause, "exceptions", None)
    if several:
        cause = several[0]
    place = getattr(cause, "pos", None)
    name = Path(place.uri).name if place is not None and place.uri else None
    where = f" in {name}, line {place.line}" if name and place is not None else ""
    text = str(cause)
    if cause.__cause__ is not None and isinstance(cause, library.Error.ImportError):
        text = f"{text}: {cause.__cause__}"
    text = shorten(text, workspace.root).replace("work/", "")
    text = text.partition(" Expected one of")[0].replace(_NOT_AN_INPUT, "")
    kind = "" if isinstance(cause, library.Error.InputError) else type(cause).__name__
    title = f"task {task}" if task else f"{kind}{where}".strip()
    return RunFailure(
        message=f"{title}: {text}" if title else text,
        hint=_hint(library, cause, name),
        file=name,
        task=task,
        stderr="stderr.log",
    )


def _original(error: BaseException) -> tuple[str | None, BaseException]:
    """Return the task that caused a failure, if any, and the original error."""
    library = import_module("WDL")
    task: str | None = None
    while isinstance(error, library.runtime.RunFailed) and error.__cause__ is not None:
        failed: Any = error
        if isinstance(failed.exe, library.Task):
            task = str(failed.run_id).removeprefix("call-")
        error = error.__cause__
    return task, error


def _hint(library: Any, cause: BaseException, file: str | None) -> str | None:
    if _NOT_AN_INPUT in str(cause):
        return (
            "declare the file as an input without a default, attach it and name it in "
            "the parameters; only WDL 1.2 accepts a path in the document"
        )
    if isinstance(cause, library.Error.InputError):
        return "correct the parameters, or attach what they name"
    if isinstance(cause, library.runtime.DownloadFailed):
        return "attach the file instead of giving its URL"
    return "correct the workflow and submit it again" if file else None


_BACKENDS = {"docker": "docker_swarm", "podman": "podman", "apptainer": "singularity"}
_LOCAL = "wesemu"
_UNQUOTABLE = frozenset('$`"\\')
"""Characters that stay special in double quotes; commands have paths of files in double quotes."""


def run_workflow(worker: WorkerContext) -> int:
    """Return the exit status: 0, or 1 with the failure in the event log."""
    if not _UNQUOTABLE.isdisjoint(str(worker.workspace.root)):
        return worker.fail_by_path('it has one of $ ` " \\, which commands cannot quote')
    library = import_module("WDL")
    import_module("WDL.runtime")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    try:
        document = library.load(str(worker.spec.workflow_file))
        target = target_of(document, worker.spec)
        inputs = inputs_of(worker, target)
        launch = _next_launch(worker.workspace.work / ".wdl")
        config = _config(launch, worker.spec)
        _use_backend(worker, config)
        worker.tasks.plan(_count(target))
        _, outputs = library.runtime.run(config, target, inputs, run_dir=f"{launch}/.")
    except Exception as error:
        if not isinstance(error, library.runtime.RunFailed):
            logging.getLogger("wdl").error("%s", error)  # miniwdl logs RunFailed itself
        return worker.fail(describe_failure(error, worker.workspace))
    results = _keep_outputs(worker.workspace, target, outputs)
    worker.tasks.event_log.outputs(results.files, results.problems)
    return 0


def target_of(document: Any, spec: LaunchSpec) -> Any:
    """Return the task named by the parameter, else the workflow, else the only task."""
    wanted = spec.options.get("task")
    tasks = {task.name: task for task in document.tasks}
    if wanted is not None and wanted in tasks:
        return tasks[wanted]
    if wanted is None and document.workflow is not None:
        return document.workflow
    if wanted is None and len(tasks) == 1:
        return document.tasks[0]
    names = ", ".join(tasks) or "none"
    missing = f"no task {wanted}" if wanted else "no workflow, and not exactly one task"
    raise import_module("WDL").Error.InputError(
        f"the document has {missing}; its tasks: {names}; name one by the engine parameter task"
    )


def inputs_of(worker: WorkerContext, target: Any) -> Any:
    """Return the inputs as miniwdl's environment. Raises errors of miniwdl."""
    library = import_module("WDL")

    def locate(value: Any) -> str:
        name, directory = str(value.value), isinstance(value, library.Value.Directory)
        if "://" in name:
            if worker.spec.containers is None:
                raise library.Error.InputError(
                    f"the input {name} is a URL; fetching it needs containers; attach the file"
                )
            return name
        path = worker.workspace.work / name
        if not (path.is_dir() if directory else path.is_file()):
            kind = "directory" if directory else "file"
            raise library.Error.InputError(f"the input {kind} {name} does not exist; attach it")
        return f"{os.path.normpath(path)}/" if directory else os.path.normpath(path)

    given = library.values_from_json(
        worker.spec.inputs, target.available_inputs, target.required_inputs, namespace=target.name
    )
    return library.Value.rewrite_env_paths(given, locate)


def _config(launch: Path, spec: LaunchSpec) -> Any:
    """Return the configuration of miniwdl.

    The call cache returns results of earlier launches only, so the first launch does not read it.
    """
    cores, memory = spec.resources.cores, spec.resources.memory_mb
    return import_module("WDL.runtime.config").Loader(
        logging.getLogger("wdl"),
        filenames=[],
        overrides={
            "scheduler": {
                "container_backend": _BACKENDS[spec.containers] if spec.containers else _LOCAL,
                "task_concurrency": cores,
                "fail_fast": not spec.options.get("keep_going", False),
            },
            "file_io": {"chown": spec.containers is not None},
            "task_runtime": {"cpu_max": cores, "memory_max": memory << 20},
            "call_cache": {
                "put": True,
                "get": launch.name != "1",
                "dir": str(launch.with_name("cache")),
            },
            "podman": {"exe": ["podman"]},
            "singularity": {"exe": ["apptainer"]},
        },
    )


def _use_backend(worker: WorkerContext, config: Any) -> None:
    """Register the backend under the configured name, where miniwdl looks it up."""
    backend = import_module("wesemu.engines.wdl.backend")
    name = config["scheduler"]["container_backend"]
    tasks, share = worker.tasks, worker.spec.resources
    if name == _LOCAL:
        chosen = backend.local_backend(tasks, share)
    else:
        plugins = import_module("WDL.runtime.config").load_plugins
        known = dict(plugins(config, "container_backend"))
        images = backend.Images(worker.spec.containers or "docker")
        chosen = backend.recorded(known[name], tasks, share, images)
        if not worker.spec.always_contained:
            chosen = backend.chosen(backend.local_backend(tasks, share), chosen, images)
        worker.stop = _terminate
    containers: Any = import_module("WDL.runtime.task_container")
    containers._backends = {name: chosen}  # noqa: SLF001  # filled from entry points otherwise


def _terminate() -> bool:
    """Send SIGTERM to this process: miniwdl then ends its containers and the run.

    `TaskRecorder.cancel` has already signaled local tasks.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    return True


def _count(target: Any) -> int:
    """Count the calls of tasks in the source. Scatters and conditions change the number."""
    library = import_module("WDL")
    if isinstance(target, library.Task):
        return 1
    return sum(_count_node(node) for node in target.body)


def _count_node(node: Any) -> int:
    library = import_module("WDL")
    if isinstance(node, library.Call):
        return _count(node.callee)
    return sum(_count_node(inner) for inner in getattr(node, "body", ()))


def _next_launch(folder: Path) -> Path:
    """Create a numbered folder for this launch: miniwdl requires a new run directory."""
    number = 1
    while (folder / str(number)).exists():
        number += 1
    (folder / str(number)).mkdir(parents=True)
    return folder / str(number)


def _keep_outputs(workspace: Workspace, target: Any, outputs: Any) -> LibraryResults:
    """Keep the files of miniwdl's `out/` (one folder per output) and write the outputs JSON."""
    library = import_module("WDL")
    results = LibraryResults(workspace)
    runs = workspace.work / ".wdl"

    def keep(value: Any) -> str:
        path = Path(value.value)
        name = Path(path.name)
        if path.is_relative_to(runs):
            _launch, _out, *below = path.relative_to(runs).parts
            name = Path(*below)
        if path.is_dir():
            results.keep_folder(path, name)
        else:
            results.keep(path, name)
        return str(name)

    outputs_json = library.values_to_json(
        library.Value.rewrite_env_paths(outputs, keep), namespace=target.name
    )
    values: JsonValue = dict(outputs_json)
    results.close(values)
    return results


# Dry runs.


def inspect_workflow(worker: WorkerContext) -> Graph | None:
    library = import_module("WDL")
    import_module("WDL.runtime")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    try:
        document = library.load(str(worker.spec.workflow_file))
        target = target_of(document, worker.spec)
        inputs_of(worker, target)
    except Exception as error:
        worker.fail(describe_failure(error, worker.workspace))
        return None
    if isinstance(target, library.Task):
        return graph_of([PlannedTask("1", str(target.name))])
    calls = list(_calls(target.body, "", is_open=False))
    tasks = [PlannedTask(str(number), name) for number, (name, _) in enumerate(calls, start=1)]
    return graph_of(tasks, complete=not any(is_open for _, is_open in calls))


def _calls(body: Any, prefix: str, *, is_open: bool) -> Iterator[tuple[str, bool]]:
    """Yield the calls of tasks; a call in a nested workflow has a path as its name.

    The flag is true inside a scatter or a condition, where the number of tasks is unknown.
    """
    library = import_module("WDL")
    for node in body:
        if not isinstance(node, library.Call):
            inner = getattr(node, "body", ())
            yield from _calls(inner, prefix, is_open=is_open or bool(inner))
        elif isinstance(node.callee, library.Task):
            yield f"{prefix}{node.name}", is_open
        else:
            yield from _calls(node.callee.body, f"{prefix}{node.name}/", is_open=is_open)
