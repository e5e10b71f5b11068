"""One CWL workflow, run by cwltool's `main` with options that no caller can add to."""

import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from wesemu.engines.cwl.hooks import Hooks
from wesemu.engines.failures import shorten
from wesemu.engines.launch_spec import LibraryLaunchSpec
from wesemu.engines.library_worker import NAME, KeptOutputs, LibraryResults, WorkerContext
from wesemu.engines.processes import MARK
from wesemu.engines.task_recorder import LibraryTasks
from wesemu.runs.model import JsonObject, JsonValue, RunFailure
from wesemu.runs.publishing import is_utf8, printable_path
from wesemu.runs.run_directory import Workspace, write_json

# cwltool's output object, as files in `work/out/`.


_URL_SCHEMES = ("http", "https")


def keep_outputs(workspace: Workspace, outputs: Mapping[str, Any]) -> LibraryResults:
    """Keep all files of the object, and write outputs.json: the object with paths.

    Every File has its size and SHA-1. A file that differs from what cwltool says of it is a
    problem of the results.
    """
    results = LibraryResults(workspace)
    _Stage(results).close(outputs)
    return results


class _Stage:
    def __init__(self, results: LibraryResults) -> None:
        self._results = results
        self._taken: dict[PurePosixPath, str] = {PurePosixPath(NAME): ""}
        self._kept: dict[PurePosixPath, KeptOutputs] = {}
        self.files: list[str] = []

    def close(self, outputs: Mapping[str, Any]) -> None:
        self._results.close(self._value(outputs, PurePosixPath()))

    def _value(self, value: Any, folder: PurePosixPath) -> JsonValue:
        match value:
            case {"class": "File"}:
                return self._file(value, folder)
            case {"class": "Directory"}:
                return self._directory(value, folder)
            case Mapping():
                return {str(key): self._value(item, folder) for key, item in value.items()}
            case list():
                return [self._value(item, folder) for item in value]
        known: JsonValue = value
        return known

    def _file(self, file: Mapping[str, Any], folder: PurePosixPath) -> JsonValue:
        name = self._name(folder, file)
        kept = self._kept.get(name) or self._keep(file, name)
        if kept is not None:
            self._kept[name] = kept
            self._verify(file, kept)
        told = self._described(file, name, kept)
        if file.get("secondaryFiles"):
            told["secondaryFiles"] = self._value(file["secondaryFiles"], folder)
        return told

    def _keep(self, file: Mapping[str, Any], name: PurePosixPath) -> KeptOutputs | None:
        location, path = str(file.get("location", "")), Path(name)
        if (source := _local(location)) is not None:
            return self._results.keep(source, path, digest=True)
        if "contents" in file:
            return self._results.write(str(file["contents"]), path, digest=True)
        if urlsplit(location).scheme in _URL_SCHEMES:
            return self._fetch(location, path)
        self._results.refuse(path, f"its location {location[:200]!r} cannot be read")
        return None

    def _fetch(self, url: str, name: Path) -> KeptOutputs | None:
        """A file that the workflow passes through by its URL; fetched as cwltool fetches inputs."""
        try:
            fetched, _ = import_module("cwltool.utils").downloadHttpFile(url)
        except Exception as error:
            self._results.refuse(name, f"{url[:200]} cannot be fetched: {error}")
            return None
        try:
            return self._results.keep(Path(fetched), name, digest=True)
        finally:
            Path(fetched).unlink()

    def _verify(self, file: Mapping[str, Any], kept: KeptOutputs) -> None:
        size, checksum = file.get("size"), str(file.get("checksum", ""))
        algorithm, _, digest = checksum.partition("$")
        if isinstance(size, int) and size != kept.size:
            said = f"its size is {kept.size} bytes, and cwltool says {size}"
            self._results.refuse(kept.name, said)
        elif algorithm == "sha1" and digest != kept.sha1:
            said = f"its SHA-1 is {kept.sha1}, and cwltool says {digest}"
            self._results.refuse(kept.name, said)

    def _directory(self, directory: Mapping[str, Any], folder: PurePosixPath) -> JsonValue:
        name = self._name(folder, directory)
        source = _local(str(directory.get("location", "")))
        if source is not None and source.is_dir():
            for kept in self._results.keep_folder(source, Path(name), digest=True):
                self._kept[PurePosixPath(kept.name)] = kept
            listing = self._listing(name)
        else:
            (self._results.folder / name).mkdir(parents=True, exist_ok=True)
            listing = [self._value(item, name) for item in directory.get("listing", ())]
        told = self._described(directory, name, None)
        told["listing"] = listing
        return told

    def _listing(self, folder: PurePosixPath) -> list[JsonValue]:
        """What a kept folder has on the disk."""
        found: list[JsonValue] = []
        for path in sorted((self._results.folder / folder).iterdir()):
            name = folder / path.name
            if path.is_dir():
                inner = self._described({"class": "Directory"}, name, None)
                found.append(inner | {"listing": self._listing(name)})
            elif (kept := self._kept.get(name)) is not None:
                found.append(self._described({"class": "File"}, name, kept))
        return found

    def _described(
        self, item: Mapping[str, Any], name: PurePosixPath, kept: KeptOutputs | None
    ) -> dict[str, JsonValue]:
        told: dict[str, JsonValue] = {key: item[key] for key in ("class", "format") if key in item}
        if kept is not None:
            told |= {"size": kept.size, "checksum": f"sha1${kept.sha1}"}
        return told | {"path": str(name), "basename": name.name}

    def _name(self, folder: PurePosixPath, item: Mapping[str, Any]) -> PurePosixPath:
        """The item's name in `folder`. The same file named again keeps its name; another file of
        that name becomes `base_2`, as with cwltool."""
        base, identity = _basename(item), _identity(item)
        name, number = folder / base, 1
        while self._taken.get(name, identity) != identity:
            number += 1
            stem, suffix = PurePosixPath(base).stem, PurePosixPath(base).suffix
            name = folder / f"{stem}_{number}{suffix}"
        self._taken[name] = identity
        return name


def _identity(item: Mapping[str, Any]) -> str:
    """What makes two items of an output object the same file or folder."""
    location = item.get("location")
    if location:
        local = _local(str(location))
        return str(location) if local is None else str(local.resolve())
    return f"contents {item['contents']}" if "contents" in item else f"item {id(item)}"


def _basename(item: Mapping[str, Any]) -> str:
    base = item.get("basename")
    if not base:
        location = str(item.get("location", ""))
        local = _local(location)
        base = local.name if local is not None else unquote(urlsplit(location).path)
    return PurePosixPath(str(base)).name or "output"


def _local(location: str) -> Path | None:
    """cwltool's locations of local files are `file:` URLs, and plain paths of files that a tool
    stages and passes through."""
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


# What cwltool says about a failed run: its log, because it raises nothing.


INPUTS = ".inputs.json"
"""The job spec, below `work/`; relative paths in it start from its folder."""

_NOISE = (", try again with --debug for more information", "Unexpected exception: ")
_PLACE = re.compile(r"([^\s:/]+):(\d+):\d+:")
_MARGIN = re.compile(r"^[^\s:/]+:\d+:\d+: ?", re.MULTILINE)
_EXPRESSION = re.compile(
    r"(?:Failed to evaluate expression:\s*)?"
    r"Expression evaluation error:.*stderr was: '(?P<stderr>.*)'",
    re.DOTALL,
)
_JS_ERROR = re.compile(r"(?:Uncaught )?[A-Za-z]*Error\b.*")
_FAILED_EXPRESSION = "Failed to evaluate expression"
_HINTS = {
    "DockerRequirement under 'requirements'": "the tool insists on a container and this server "
    "runs none; move DockerRequirement to hints, or give the server docker, podman or apptainer",
    "NodeJS": "JavaScript expressions need node on PATH",
    "Missing required": "give every input that has no default in workflow_params",
    "No such file": "attach the file, and name it in workflow_params as it was attached",
}


def plain_expression_error(text: str) -> str:
    """cwltool's text, with the message of a failing expression instead of its whole script."""
    lines = _MARGIN.sub("", text)
    found = _EXPRESSION.search(lines)
    if found is None:
        return text
    told = [line.strip() for line in found["stderr"].replace("\\n", "\n").splitlines()]
    error = next((line for line in told if _JS_ERROR.match(line)), None)
    message = error or next((line for line in reversed(told) if line), "see stderr")
    place = _PLACE.search(text)
    where = f"{place[0]} " if place is not None else ""
    before = lines[: found.start()].strip()
    before = f"{before} " if before and place is None else ""
    return f"{before}{where}the expression failed: {message}"


class ErrorCollector(logging.Handler):
    """Keeps cwltool's errors, those about a task with the task. That an expression of an
    ExpressionTool fails is a warning of cwltool's."""

    def __init__(self, workspace: Workspace, tasks: LibraryTasks) -> None:
        super().__init__(logging.WARNING)
        self._workspace = workspace
        self._tasks = tasks
        self._first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR and not str(record.msg).startswith(_FAILED_EXPRESSION):
            return
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]) is not None:
            text = f"{text}: {error}"
        if str(record.msg).startswith("[job %s]") and isinstance(record.args, tuple):
            complaint = text.partition("Job error:")[2] or text
            self._tasks.add_error(str(record.args[0]), plain_expression_error(complaint))
        self._first = self._first or text

    def failure(self) -> RunFailure:
        """Of a run none of whose tasks is to blame."""
        text = plain_expression_error(self._first or "cwltool ended without a word")
        for noise in (*_NOISE, f"file://{self._workspace.work}/", f"{self._workspace.work}/"):
            text = text.replace(noise, "")
        if "surrogates not allowed" in text and (name := self._broken_name()) is not None:
            text = f"the output {name} cannot be published: its name is not UTF-8"
        place = _PLACE.search(text)
        file = place[1] if place is not None and place[1] != INPUTS else None
        hint = next((told for words, told in _HINTS.items() if words in text), None)
        if place is not None and hint is None:
            hint = f"correct {'the workflow' if file else 'workflow_params'} and submit it again"
        return RunFailure(
            message=shorten(text.replace(INPUTS, "workflow_params"), self._workspace.root),
            hint=hint,
            file=file,
            stderr="stderr.log",
        )

    def _broken_name(self) -> str | None:
        """A file of a tool whose name is not UTF-8; cwltool says only that there is one."""
        for folder in sorted((self._workspace.work / ".cwl" / "cache").glob("*")):
            for path in folder.rglob("*"):
                if not is_utf8(path):
                    return printable_path(str(path.relative_to(folder)))
        return None


_OVERRIDES = {"cwl:requirements", "https://w3id.org/cwl/cwl#requirements", "cwltool:overrides"}
"""Inputs that change the requirements of tools."""

_PRESERVED = (MARK, "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL")
"""CWL gives a tool HOME, TMPDIR and PATH only; these are ours."""


def run_workflow(worker: WorkerContext) -> int:
    """The exit status: 0, or 1 with the reason in the event_log."""
    inputs = worker.workspace.work / INPUTS
    write_job_order(inputs, worker.spec.inputs)
    hooks = Hooks(worker.tasks, keep_going=bool(worker.spec.options.get("keep_going")))
    hooks.install()
    os.environ["XDG_CACHE_HOME"] = str(worker.workspace.work / ".cwl" / "web")  # for inputs by URL
    worker.stop = hooks.kill_containers
    complaints = ErrorCollector(worker.workspace, worker.tasks)
    logging.getLogger("cwltool").addHandler(complaints)
    answer = io.StringIO()
    code = _main(worker, inputs, hooks, answer)
    if answer.getvalue():
        sys.stdout.write(answer.getvalue() + "\n")
        results = keep_outputs(worker.workspace, json.loads(answer.getvalue()))
        worker.tasks.event_log.outputs(results.files, results.problems)
    return 0 if code == 0 else worker.fail(complaints.failure())


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


def _main(worker: WorkerContext, inputs: Path, hooks: Hooks, answer: io.StringIO) -> int:
    executor = _executor(worker.spec)

    def execute(tool: Any, job_order: Any, runtime: Any, logger: logging.Logger) -> Any:
        worker.tasks.plan(hooks.tools)
        return executor(tool, job_order, runtime, logger)

    return call_main(worker, inputs, answer, execute, executor=executor, hooks=hooks)


def call_main(
    worker: WorkerContext,
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
    context = _runtime(worker.workspace, worker.spec, executor or _executor(worker.spec))
    hooks = hooks or Hooks(worker.tasks)
    words = ["--skip-schemas", "--disable-color", "--timestamps"]
    document = worker.spec.workflow_file.as_uri()
    if worker.spec.fragment:
        document += f"#{quote(worker.spec.fragment)}"
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


def _executor(spec: LibraryLaunchSpec) -> Any:
    """Steps run side by side, as many as the run's share of the node allows."""
    executor = import_module("cwltool.executors").MultithreadedJobExecutor(spec.resources.cores)
    if spec.resources.memory_mb:
        executor.max_ram = spec.resources.memory_mb
    executor.max_cuda = spec.resources.gpus
    return executor


def _runtime(workspace: Workspace, spec: LibraryLaunchSpec, executor: Any) -> Any:
    private = workspace.work / ".cwl"
    private.mkdir(exist_ok=True)

    def select(request: Mapping[str, Any], runtime: Any) -> Any:
        """A step that asks for more than the run's share gets the share."""
        fitting = dict(request)
        limits = {"coresMin": executor.max_cores, "ramMin": executor.max_ram}
        limits["cudaDeviceCountMin"] = executor.max_cuda
        fitting |= {name: min(fitting[name], limits[name]) for name in limits if name in fitting}
        return executor.select_resources(fitting, runtime)

    # with requirements from the job spec, cwltool's cache would run the tool without them
    cached = not _OVERRIDES & set(spec.inputs)
    defaults = import_module("cwltool.argparser").get_default_args()
    own = {
        "use_container": spec.containers is not None,
        "podman": spec.containers == "podman",
        "singularity": spec.containers == "apptainer",
        "cachedir": str(private / "cache") if cached else None,
        "rm_tmpdir": cached,  # outputs lie there otherwise
        "tmpdir_prefix": f"{private / 'tmp'}/",
        "tmp_outdir_prefix": f"{private}/cache/job-",  # below the cache nothing is cleared away
        "cidfile_dir": str(private),
        "move_outputs": "leave",  # so that the cache stays whole; `outputs` links them
        "preserve_environment": [name for name in _PRESERVED if name in os.environ],
        "on_error": "continue" if spec.options.get("keep_going") else "stop",
        "select_resources": select,
    }
    return import_module("cwltool.context").RuntimeContext(defaults | own)


# `python -m wesemu.engines.cwl.worker RUN_DIRECTORY`: the process of a CWL run.
