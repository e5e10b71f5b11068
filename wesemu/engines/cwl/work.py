"""One CWL workflow, run by cwltool's `main` with options that no caller can add to."""

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wesemu.engines.cwl.failures import INPUTS, Complaints
from wesemu.engines.cwl.hooks import Hooks
from wesemu.engines.cwl.outputs import keep_outputs
from wesemu.engines.hosted.order import Order
from wesemu.engines.hosted.worker import Desk
from wesemu.engines.processes import MARK
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.runs.workspace import Workspace, write_json

_OVERRIDES = {"cwl:requirements", "https://w3id.org/cwl/cwl#requirements", "cwltool:overrides"}
"""Inputs that change the requirements of tools."""

_PRESERVED = (MARK, "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL")
"""CWL gives a tool HOME, TMPDIR and PATH only; these are ours."""


def run_workflow(desk: Desk) -> int:
    """The exit status: 0, or 1 with the reason in the journal."""
    inputs = desk.workspace.work / INPUTS
    write_job_order(inputs, desk.order.inputs)
    hooks = Hooks(desk.tasks, keep_going=bool(desk.order.options.get("keep_going")))
    hooks.install()
    os.environ["XDG_CACHE_HOME"] = str(desk.workspace.work / ".cwl" / "web")  # for inputs by URL
    desk.stop = hooks.kill_containers
    complaints = Complaints(desk.workspace, desk.tasks)
    logging.getLogger("cwltool").addHandler(complaints)
    answer = io.StringIO()
    code = _main(desk, inputs, hooks, answer)
    if answer.getvalue():
        sys.stdout.write(answer.getvalue() + "\n")
        results = keep_outputs(desk.workspace, json.loads(answer.getvalue()))
        desk.tasks.journal.outputs(results.files, results.problems)
    return 0 if code == 0 else desk.fail(complaints.failure())


def write_job_order(path: Path, inputs: JsonObject) -> None:
    """Write the order's inputs with a `file:` URL for each file of the run.

    cwltool reads a relative `path` as a URL, in which `#` begins a fragment.
    """
    located = _located(inputs, path.parent)
    write_json(path, located if isinstance(located, dict) else {})


def _located(value: JsonValue, work: Path) -> JsonValue:
    if isinstance(value, list):
        return [_located(item, work) for item in value]
    if not isinstance(value, dict):
        return value
    told = {key: _located(item, work) for key, item in value.items()}
    if value.get("class") in ("File", "Directory"):
        for key in ("path", "location"):
            name = value.get(key)
            if isinstance(name, str) and "\0" not in name and os.path.lexists(work / name):
                told.pop(key)
                told["location"] = Path(os.path.normpath(work / name)).as_uri()
    return told


def _main(desk: Desk, inputs: Path, hooks: Hooks, answer: io.StringIO) -> int:
    executor = _executor(desk.order)

    def execute(tool: Any, job_order: Any, runtime: Any, logger: logging.Logger) -> Any:
        desk.tasks.plan(hooks.tools)
        return executor(tool, job_order, runtime, logger)

    return call_main(desk, inputs, answer, execute, executor=executor, hooks=hooks)


def call_main(
    desk: Desk,
    inputs: Path,
    answer: io.StringIO,
    execute: Callable[[Any, Any, Any, logging.Logger], Any],
    *,
    executor: Any = None,
    hooks: Hooks | None = None,
) -> int:
    """cwltool's own command line; `execute` gets the tool and its job order once both are valid.

    The exit status: cwltool raises nothing.
    """
    context = _runtime(desk.workspace, desk.order, executor or _executor(desk.order))
    hooks = hooks or Hooks(desk.tasks)
    words = ["--skip-schemas", "--disable-color", "--timestamps"]
    document = desk.order.workflow_file.as_uri()
    if desk.order.fragment:
        document += f"#{quote(desk.order.fragment)}"
    try:
        code = import_module("cwltool.main").main(
            [*words, document, str(inputs)],
            stdout=answer,
            logger_handler=logging.StreamHandler(sys.stderr),
            executor=execute,
            loadingContext=hooks.loading_context(context),
            runtimeContext=context,
        )
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    return int(code)


def _executor(order: Order) -> Any:
    """Steps run side by side, as many as the run's share of the node allows."""
    executor = import_module("cwltool.executors").MultithreadedJobExecutor(order.resources.cores)
    if order.resources.memory_mb:
        executor.max_ram = order.resources.memory_mb
    executor.max_cuda = order.resources.gpus
    return executor


def _runtime(workspace: Workspace, order: Order, executor: Any) -> Any:
    private = workspace.work / ".cwl"
    private.mkdir(exist_ok=True)

    def select(request: Mapping[str, Any], runtime: Any) -> Any:
        """A step that asks for more than the run's share gets the share."""
        fitting = dict(request)
        limits = {"coresMin": executor.max_cores, "ramMin": executor.max_ram}
        limits["cudaDeviceCountMin"] = executor.max_cuda
        fitting |= {name: min(fitting[name], limits[name]) for name in limits if name in fitting}
        return executor.select_resources(fitting, runtime)

    # with requirements from the job order, cwltool's cache would run the tool without them
    cached = not _OVERRIDES & set(order.inputs)
    defaults = import_module("cwltool.argparser").get_default_args()
    own = {
        "use_container": order.containers is not None,
        "podman": order.containers == "podman",
        "singularity": order.containers == "apptainer",
        "cachedir": str(private / "cache") if cached else None,
        "rm_tmpdir": cached,  # outputs lie there otherwise
        "tmpdir_prefix": f"{private / 'tmp'}/",
        "tmp_outdir_prefix": f"{private}/cache/job-",  # below the cache nothing is cleared away
        "cidfile_dir": str(private),
        "move_outputs": "leave",  # so that the cache stays whole; `outputs` links them
        "preserve_environment": [name for name in _PRESERVED if name in os.environ],
        "on_error": "continue" if order.options.get("keep_going") else "stop",
        "select_resources": select,
    }
    return import_module("cwltool.context").RuntimeContext(defaults | own)
