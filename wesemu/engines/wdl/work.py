"""One WDL document, run by miniwdl's library; no configuration but ours counts."""

import logging
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from wesemu.engines.hosted.order import Order
from wesemu.engines.hosted.results import Results
from wesemu.engines.hosted.worker import Desk
from wesemu.engines.wdl.failures import explain
from wesemu.engines.wdl.images import Images
from wesemu.runs.model import JsonValue
from wesemu.runs.workspace import Workspace

_BACKENDS = {"docker": "docker_swarm", "podman": "podman", "apptainer": "singularity"}
_LOCAL = "wesemu"


def run_workflow(desk: Desk) -> int:
    """The exit status: 0, or 1 with the reason in the journal."""
    library = import_module("WDL")
    import_module("WDL.runtime")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    try:
        document = library.load(str(desk.order.workflow_file))
        target = target_of(document, desk.order)
        inputs = inputs_of(desk, target)
        launch = _next_launch(desk.workspace.work / ".wdl")
        config = _config(launch, desk.order)
        _use_backend(desk, config)
        desk.tasks.plan(_count(target))
        _, outputs = library.runtime.run(config, target, inputs, run_dir=f"{launch}/.")
    except Exception as error:
        if not isinstance(error, library.runtime.RunFailed):
            logging.getLogger("wdl").error("%s", error)  # of the others it has told itself
        return desk.fail(explain(error, desk.workspace))
    results = _keep_outputs(desk.workspace, target, outputs)
    desk.tasks.journal.outputs(results.files, results.problems)
    return 0


def target_of(document: Any, order: Order) -> Any:
    """The task that was named, else the workflow, else the only task."""
    wanted = order.options.get("task")
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


def inputs_of(desk: Desk, target: Any) -> Any:
    """The order's inputs as miniwdl wants them. Raises its own errors."""
    library = import_module("WDL")

    def locate(value: Any) -> str:
        name, directory = str(value.value), isinstance(value, library.Value.Directory)
        if "://" in name:
            if desk.order.containers is None:
                raise library.Error.InputError(
                    f"the input {name} is a URL, which needs containers to be fetched; attach it"
                )
            return name
        path = desk.workspace.work / name
        if not (path.is_dir() if directory else path.is_file()):
            kind = "directory" if directory else "file"
            raise library.Error.InputError(f"the input {kind} {name} is not there; attach it")
        return f"{os.path.normpath(path)}/" if directory else os.path.normpath(path)

    given = library.values_from_json(
        desk.order.inputs,
        target.available_inputs,
        target.required_inputs,
        namespace=target.name,
    )
    return library.Value.rewrite_env_paths(given, locate)


def _config(launch: Path, order: Order) -> Any:
    """Results of earlier launches are taken from the call cache; no call of this launch takes
    another's."""
    cores, memory = order.resources.cores, order.resources.memory_mb
    return import_module("WDL.runtime.config").Loader(
        logging.getLogger("wdl"),
        filenames=[],
        overrides={
            "scheduler": {
                "container_backend": _BACKENDS[order.containers] if order.containers else _LOCAL,
                "task_concurrency": cores,
                "fail_fast": not order.options.get("keep_going", False),
            },
            "file_io": {"chown": order.containers is not None},
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


def _use_backend(desk: Desk, config: Any) -> None:
    """miniwdl finds its backend under the configured name, and nowhere else."""
    backend = import_module("wesemu.engines.wdl.backend")
    known = dict(import_module("WDL.runtime.config").load_plugins(config, "container_backend"))
    name = config["scheduler"]["container_backend"]
    tasks, share = desk.tasks, desk.order.resources
    if name == _LOCAL:
        chosen = backend.local_backend(tasks, share)
    else:
        images = Images(desk.order.containers or "docker")
        chosen = backend.recorded(known[name], tasks, share, images)
        if not desk.order.always_contained:
            chosen = backend.chosen(backend.local_backend(tasks, share), chosen, images)
        desk.stop = _terminate
    containers: Any = import_module("WDL.runtime.task_container")
    containers._backends = {name: chosen}  # noqa: SLF001  # filled from entry points otherwise


def _terminate() -> bool:
    """miniwdl itself ends its containers on SIGTERM, and then the run; the tasks on this machine
    have been asked to end."""
    os.kill(os.getpid(), signal.SIGTERM)
    return True


def _count(target: Any) -> int:
    """Calls of tasks in the source; a scatter makes more of them, a condition fewer."""
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
    """A folder of this launch's own, by its number: miniwdl wants its run directories new."""
    number = 1
    while (folder / str(number)).exists():
        number += 1
    (folder / str(number)).mkdir(parents=True)
    return folder / str(number)


def _keep_outputs(workspace: Workspace, target: Any, outputs: Any) -> Results:
    """miniwdl's `out/` (one folder an output), as files, and the outputs JSON."""
    library = import_module("WDL")
    results = Results(workspace)
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

    told = library.values_to_json(
        library.Value.rewrite_env_paths(outputs, keep), namespace=target.name
    )
    values: JsonValue = dict(told)
    results.close(values)
    return results
