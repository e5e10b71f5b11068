"""Runs one CWL workflow with cwltool's `main` and fixed options.

Parts: output files, failures from cwltool's log, the run itself.
"""

import glob
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
from wesemu.engines.launch_spec import LaunchSpec
from wesemu.engines.library_worker import NAME, KeptOutput, LibraryResults, WorkerContext
from wesemu.engines.processes import MARK
from wesemu.engines.task_recorder import TaskRecorder
from wesemu.runs.model import JsonObject, JsonValue, RunFailure
from wesemu.runs.run_directory import Workspace, is_utf8, printable_path, write_json

# Outputs: cwltool's output object as files in `work/out/`.

_URL_SCHEMES = ("http", "https")


def keep_outputs(workspace: Workspace, outputs: Mapping[str, Any]) -> LibraryResults:
    """Keep all files of the output object, and write outputs.json: the object with paths.

    Every File has its size and SHA-1. A file that differs from cwltool's values becomes a problem.
    """
    results = LibraryResults(workspace)
    _OutputStager(results).close(outputs)
    return results


class _OutputStager:
    def __init__(self, results: LibraryResults) -> None:
        self._results = results
        self._taken: dict[PurePosixPath, str] = {PurePosixPath(NAME): ""}
        self._kept: dict[PurePosixPath, KeptOutput] = {}

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
        entry = self._described(file, name, kept)
        if file.get("secondaryFiles"):
            beside = [_beside(each, file, name) for each in file["secondaryFiles"]]
            entry["secondaryFiles"] = self._value(beside, folder)
        return entry

    def _keep(self, file: Mapping[str, Any], name: PurePosixPath) -> KeptOutput | None:
        location, path = str(file.get("location", "")), Path(name)
        if (source := _local(location)) is not None:
            return self._results.keep(source, path, digest=True)
        if "contents" in file:
            return self._results.write(str(file["contents"]), path, digest=True)
        if urlsplit(location).scheme in _URL_SCHEMES:
            return self._fetch(location, path)
        self._results.refuse(path, f"its location {location[:200]!r} cannot be read")
        return None

    def _fetch(self, url: str, name: Path) -> KeptOutput | None:
        """Fetch an input URL that the workflow passes through as an output."""
        try:
            fetched, _ = import_module("cwltool.utils").downloadHttpFile(url)
        except Exception as error:
            self._results.refuse(name, f"{url[:200]} cannot be fetched: {error}")
            return None
        try:
            return self._results.keep(Path(fetched), name, digest=True)
        finally:
            Path(fetched).unlink()

    def _verify(self, file: Mapping[str, Any], kept: KeptOutput) -> None:
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
        entry = self._described(directory, name, None)
        entry["listing"] = listing
        return entry

    def _listing(self, folder: PurePosixPath) -> list[JsonValue]:
        """Return the content of a kept folder on the disk."""
        entries: list[JsonValue] = []
        for path in sorted((self._results.folder / folder).iterdir()):
            name = folder / path.name
            if path.is_dir():
                inner = self._described({"class": "Directory"}, name, None)
                entries.append(inner | {"listing": self._listing(name)})
            elif (kept := self._kept.get(name)) is not None:
                entries.append(self._described({"class": "File"}, name, kept))
        return entries

    def _described(
        self, item: Mapping[str, Any], name: PurePosixPath, kept: KeptOutput | None
    ) -> dict[str, JsonValue]:
        entry: dict[str, JsonValue] = {key: item[key] for key in ("class", "format") if key in item}
        if kept is not None:
            entry |= {"size": kept.size, "checksum": f"sha1${kept.sha1}"}
        return entry | {"path": str(name), "basename": name.name}

    def _name(self, folder: PurePosixPath, item: Mapping[str, Any]) -> PurePosixPath:
        """Return the name of an item in `folder`.

        The same file keeps its name; another file with this name becomes `base_2`, like in cwltool.
        """
        base, identity = _basename(item), _identity(item)
        name, number = folder / base, 1
        while self._taken.get(name, identity) != identity:
            number += 1
            stem, suffix = PurePosixPath(base).stem, PurePosixPath(base).suffix
            name = folder / f"{stem}_{number}{suffix}"
        self._taken[name] = identity
        return name


def _beside(
    item: Mapping[str, Any], file: Mapping[str, Any], name: PurePosixPath
) -> Mapping[str, Any]:
    """Return a secondary file with the name that fits `name`, the kept name of its file.

    Programs find `a_2.bam.bai` and `a_2.dict` beside `a_2.bam`.
    """
    own, base = _basename(item), PurePosixPath(_basename(file))
    for before, after in ((base.name, name.name), (base.stem, name.stem)):
        if own.startswith(before):
            return {**item, "basename": after + own.removeprefix(before)}
    return item


def _identity(item: Mapping[str, Any]) -> str:
    """Return a key that is equal for items that are the same file or folder."""
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
    """Return the path of a local file, or None for other locations.

    cwltool uses `file:` URLs, and plain paths for staged files that a tool passes through.
    """
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


# Failures: cwltool raises nothing, so its log is read.

INPUTS = ".inputs.json"
"""The job order below `work/`; its relative paths start there."""

_NOISE = (", try again with --debug for more information", "Unexpected exception: ")
_POSITION = re.compile(r"([^\s:/]+):(\d+):\d+:")
_MARGIN = re.compile(r"^[^\s:/]+:\d+:\d+: ?", re.MULTILINE)
_EXPRESSION = re.compile(
    r"(?:Failed to evaluate expression:\s*)?"
    r"Expression evaluation error:.*stderr was: '(?P<stderr>.*)'",
    re.DOTALL,
)
_JS_ERROR = re.compile(r"(?:Uncaught )?[A-Za-z]*Error\b.*")
_FAILED_EXPRESSION = "Failed to evaluate expression"
ATTACH_HINT = "attach the file, and give the name of the attachment in the parameters"

_HINTS = {
    "DockerRequirement under 'requirements'": "the tool requires a container and this server "
    "runs none; move DockerRequirement to hints, or install docker, podman or apptainer there",
    "NodeJS": "JavaScript expressions need node on PATH",
    "Missing required": "give every input without a default as a parameter",
    "No such file": ATTACH_HINT,
}


def plain_expression_error(text: str) -> str:
    """Return cwltool's text with the message of a failed expression instead of its script."""
    lines = _MARGIN.sub("", text)
    match = _EXPRESSION.search(lines)
    if match is None:
        return text
    stderr = [line.strip() for line in match["stderr"].replace("\\n", "\n").splitlines()]
    error = next((line for line in stderr if _JS_ERROR.match(line)), None)
    message = error or next((line for line in reversed(stderr) if line), "see stderr")
    position = _POSITION.search(text)
    where = f"{position[0]} " if position is not None else ""
    before = lines[: match.start()].strip()
    before = f"{before} " if before and position is None else ""
    return f"{before}{where}the expression failed: {message}"


class ErrorCollector(logging.Handler):
    """Collects cwltool's errors, and assigns the error of a task to its attempt.

    cwltool logs a failed expression of an ExpressionTool as a warning.
    """

    def __init__(self, workspace: Workspace, tasks: TaskRecorder) -> None:
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
            reason = text.partition("Job error:")[2] or text
            if (attempt := self._tasks.running(str(record.args[0]))) is not None:
                attempt.error = attempt.error or plain_expression_error(reason)
        self._first = self._first or text

    def failure(self) -> RunFailure:
        """Return the failure of a run without failed tasks."""
        text = plain_expression_error(self._first or "cwltool ended without an error message")
        for noise in (*_NOISE, f"file://{self._workspace.work}/", f"{self._workspace.work}/"):
            text = text.replace(noise, "")
        if "surrogates not allowed" in text and (name := self._broken_name()) is not None:
            text = f"the output {name} cannot be published: its name is not UTF-8"
        position = _POSITION.search(text)
        file = position[1] if position is not None and position[1] != INPUTS else None
        hint = next((hint for phrase, hint in _HINTS.items() if phrase in text), None)
        if position is not None and hint is None:
            what = "the workflow" if file else "the parameters"
            hint = f"correct {what}, then submit the workflow again"
        return RunFailure(
            message=shorten(text.replace(INPUTS, "workflow_params"), self._workspace.root),
            hint=hint,
            file=file,
            stderr="stderr.log",
        )

    def _broken_name(self) -> str | None:
        """Return a file name that is not UTF-8; cwltool does not name the file."""
        for folder in sorted((self._workspace.work / ".cwl" / "cache").glob("*")):
            for path in folder.rglob("*"):
                if not is_utf8(path):
                    return printable_path(str(path.relative_to(folder)))
        return None


_OVERRIDES = {"cwl:requirements", "https://w3id.org/cwl/cwl#requirements", "cwltool:overrides"}
"""Inputs that override the requirements of tools."""

_PRESERVED = (MARK, "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL")
"""Variables for tools in addition to HOME, TMPDIR and PATH of the CWL specification."""


def run_workflow(worker: WorkerContext) -> int:
    """Return the exit status: 0, or 1 with the failure in the event log."""
    if glob.escape(str(worker.workspace.root)) != str(worker.workspace.root):
        return worker.fail_by_path("cwltool reads the characters [ * ? in it as patterns")
    inputs = worker.workspace.work / INPUTS
    write_job_order(inputs, worker.spec.inputs)
    hooks = Hooks(worker.tasks, keep_going=bool(worker.spec.options.get("keep_going")))
    hooks.install()
    os.environ["XDG_CACHE_HOME"] = str(worker.workspace.work / ".cwl" / "web")  # for inputs by URL
    worker.stop = hooks.kill_containers
    errors = ErrorCollector(worker.workspace, worker.tasks)
    logging.getLogger("cwltool").addHandler(errors)
    output = io.StringIO()
    code = _main(worker, inputs, hooks, output)
    if output.getvalue():
        sys.stdout.write(output.getvalue() + "\n")
        results = keep_outputs(worker.workspace, json.loads(output.getvalue()))
        worker.tasks.event_log.outputs(results.files, results.problems)
    return 0 if code == 0 else worker.fail(errors.failure())


def write_job_order(path: Path, inputs: JsonObject) -> None:
    """Write the job order with a `file:` URL for each file of the run.

    cwltool reads a relative `path` as a URL, where `#` starts a fragment.
    """
    located = _with_urls(inputs, path.parent)
    write_json(path, located if isinstance(located, dict) else {})


def _with_urls(value: JsonValue, work: Path) -> JsonValue:
    if isinstance(value, list):
        return [_with_urls(item, work) for item in value]
    if not isinstance(value, dict):
        return value
    located = {key: _with_urls(item, work) for key, item in value.items()}
    if value.get("class") in ("File", "Directory"):
        for key in ("path", "location"):
            name = value.get(key)
            if isinstance(name, str) and "\0" not in name and os.path.lexists(work / name):
                located.pop(key)
                located["location"] = Path(os.path.normpath(work / name)).as_uri()
    return located


def _main(worker: WorkerContext, inputs: Path, hooks: Hooks, output: io.StringIO) -> int:
    executor = _executor(worker.spec)

    def execute(tool: Any, job_order: Any, runtime: Any, logger: logging.Logger) -> Any:
        worker.tasks.plan(hooks.tools)
        return executor(tool, job_order, runtime, logger)

    return call_main(worker, inputs, output, execute, executor=executor, hooks=hooks)


def call_main(
    worker: WorkerContext,
    inputs: Path,
    output: io.StringIO,
    execute: Callable[[Any, Any, Any, logging.Logger], Any],
    *,
    executor: Any = None,
    hooks: Hooks | None = None,
) -> int:
    """Call cwltool's `main`; it calls `execute` with the tool and job order once both are valid.

    Returns the exit status.
    """
    context = _runtime(worker.workspace, worker.spec, executor or _executor(worker.spec))
    hooks = hooks or Hooks(worker.tasks)
    options = ["--skip-schemas", "--disable-color", "--timestamps"]
    document = worker.spec.workflow_file.as_uri()
    if worker.spec.fragment:
        document += f"#{quote(worker.spec.fragment)}"
    try:
        code = import_module("cwltool.main").main(
            [*options, document, str(inputs)],
            stdout=output,
            logger_handler=logging.StreamHandler(sys.stderr),
            executor=execute,
            custom_schema_callback=_keep_schemas,
            loadingContext=hooks.loading_context(context),
            runtimeContext=context,
        )
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    return int(code)


def _keep_schemas() -> None:
    """Do nothing: without a callback, `main` discards the schemas that are loaded already."""


def _executor(spec: LaunchSpec) -> Any:
    """Return an executor that runs steps in parallel within the resources of the run."""
    executor = import_module("cwltool.executors").MultithreadedJobExecutor(spec.resources.cores)
    if spec.resources.memory_mb:
        executor.max_ram = spec.resources.memory_mb
    executor.max_cuda = spec.resources.gpus
    return executor


def _runtime(workspace: Workspace, spec: LaunchSpec, executor: Any) -> Any:
    private = workspace.work / ".cwl"
    private.mkdir(exist_ok=True)

    def select(request: Mapping[str, Any], runtime: Any) -> Any:
        """Limit the request of a step to the resources of the run."""
        fitting = dict(request)
        limits = {"coresMin": executor.max_cores, "ramMin": executor.max_ram}
        limits["cudaDeviceCountMin"] = executor.max_cuda
        fitting |= {name: min(fitting[name], limits[name]) for name in limits if name in fitting}
        return executor.select_resources(fitting, runtime)

    # the key of cwltool's cache ignores requirements from the job order
    cached = not _OVERRIDES & set(spec.inputs)
    defaults = import_module("cwltool.argparser").get_default_args()
    own = {
        "use_container": spec.containers is not None,
        "podman": spec.containers == "podman",
        "singularity": spec.containers == "apptainer",
        "cachedir": str(private / "cache") if cached else None,
        "rm_tmpdir": cached,  # without a cache the outputs are there
        "tmpdir_prefix": f"{private / 'tmp'}/",
        "tmp_outdir_prefix": f"{private}/cache/job-",  # cwltool does not delete below the cache
        "cidfile_dir": str(private),
        "move_outputs": "leave",  # keeps the cache complete; `keep_outputs` makes links
        "preserve_environment": [name for name in _PRESERVED if name in os.environ],
        "on_error": "continue" if spec.options.get("keep_going") else "stop",
        "select_resources": select,
    }
    return import_module("cwltool.context").RuntimeContext(defaults | own)
