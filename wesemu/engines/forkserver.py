"""The forkserver of an engine: imports the engine once and forks a process for each launch.

`python -m wesemu.engines.forkserver FD ENGINE [MODULE …] [FOLDER]`. FD is one end of a socket pair
(SOCK_SEQPACKET, JSON); MODULEs are imported as well, and the Snakefiles below FOLDER are parsed.
It receives {"id", "root", "plan"}; "plan" is true for a dry run. It sends {"ready"}, or {"failed":
reason} before it exits. For each request it sends the announcement of `run_process.execute`, or the
{"pid"} of the dry run, and {"id", "exited"} when that process has ended. It exits when the other
end is closed; runs continue, dry runs end.

Forking takes most of the time of a launch, so one process is forked ahead and waits for a request.
Before the first fork, `load` imports the engine, `ParsedSnakefiles` parses the bundled pipelines,
and `PreloadedModules` imports modules that may change on the disk.
"""

import contextlib
import gc
import json
import os
import platform
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import psutil
import yaml

from wesemu.engines import main as engine_main
from wesemu.engines import run_process
from wesemu.engines.dry_run import plan_environment
from wesemu.engines.processes import offer_to_oom_killer, start_when_possible
from wesemu.runs.run_directory import Workspace

_MESSAGE_LIMIT = 1 << 16
_REASON_LIMIT = 1000
_SPARE_DELAY_MS = 200
_THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class _Child(NamedTuple):
    """A forked process, which waits for its request on the pipe of `writer`."""

    pid: int
    writer: int


class ForkServer:
    """Forks the processes of runs and dry runs.

    Has no threads: a child has only the thread that called fork(2), and locks of other threads
    would stay locked in it.
    """

    def __init__(self, channel: socket.socket, engine: str, ahead: Sequence[str]) -> None:
        """`ahead`: names of modules, and absolute paths of folders with Snakefiles."""
        self._channel = channel
        self._engine = engine
        self._modules = [name for name in ahead if not name.startswith("/")]
        self._folders = [Path(name) for name in ahead if name.startswith("/")]
        self._requests = dict[int, int]()
        self._plan_inputs = dict[int, int]()
        """The write end of each dry run's standard input: a dry run ends when it is closed."""
        self._spare: _Child | None = None
        self._wakeup, self._wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> None:
        """Load the engine, then serve requests until the other end of the channel is closed."""
        try:
            self._load()
        except BaseException as error:
            self._send({"failed": f"{type(error).__name__}: {error}"[:_REASON_LIMIT]})
            raise
        # frozen objects are not touched by the collector, so their pages stay shared after forks
        gc.collect()
        gc.freeze()
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._send({"ready": True})
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            # The spare process is forked after a pause: a run that was just launched comes first.
            pause = None if self._spare else _SPARE_DELAY_MS
            ready = {descriptor for descriptor, _ in poll.poll(pause)}
            if self._spare is None and not ready:
                self._spare = self._fork()
            if self._wakeup in ready:
                self._reap()
            if self._channel.fileno() in ready and not self._start():
                return

    def _load(self) -> None:
        with one_thread():
            load(self._engine)
            self._preloaded = PreloadedModules(self._modules)
            for folder in self._folders:
                ParsedSnakefiles([*folder.rglob("Snakefile"), *folder.rglob("*.smk")]).install()
        if threading.active_count() != 1 or psutil.Process().num_threads() != 1:
            raise RuntimeError(
                "preloaded modules have started threads, so this process cannot fork"
            )

    def _start(self) -> bool:
        """Receive a request and hand it to a process. Return False without a request."""
        content = self._channel.recv(_MESSAGE_LIMIT)
        if not content:
            return False
        request = json.loads(content)
        while True:  # until a child has the request
            child, self._spare = self._spare or self._fork(), None
            try:
                os.write(child.writer, content + b"\n")
            except BrokenPipeError:  # the spare process was killed
                os.close(child.writer)
                continue
            break
        self._requests[child.pid] = request["id"]
        if request["plan"]:
            self._plan_inputs[child.pid] = child.writer
        else:
            os.close(child.writer)
        return True

    def _fork(self) -> _Child:
        reader, writer = os.pipe()
        pid = start_when_possible(os.fork)
        if pid == 0:
            os.close(writer)
            self._run_child(reader)
        os.close(reader)
        return _Child(pid, writer)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (plan_input := self._plan_inputs.pop(pid, None)) is not None:
                os.close(plan_input)
            if self._spare is not None and self._spare.pid == pid:  # it was killed
                os.close(self._spare.writer)
                self._spare = None
            code = os.waitstatus_to_exitcode(status)
            self._send({"id": self._requests.pop(pid, 0), "exited": code})

    def _run_child(self, reader: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wakeup)
            os.close(self._wakeup_writer)
            # or the other dry runs would outlive the forkserver
            for other in self._plan_inputs.values():
                os.close(other)
            # the subreaper ends processes that a killed run or a dry run leaves behind
            run_process.fork_from_subreaper()
            if (request := _read_request(reader)) is not None:
                self._preloaded.forget_changed()
                workspace = Workspace(Path(request["root"]))
                if request["plan"]:
                    self._plan(workspace, request["id"], reader)
                else:
                    os.close(reader)
                    self._execute(workspace, request["id"])
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _execute(self, workspace: Workspace, number: int) -> None:
        def announce(message: dict[str, Any]) -> None:
            self._send({"id": number, **message})
            self._channel.close()

        engine_main.run(workspace, announce)

    def _plan(self, workspace: Workspace, number: int, reader: int) -> None:
        self._send({"id": number, "pid": os.getpid()})
        self._channel.close()
        offer_to_oom_killer()
        with workspace.stderr.open("wb") as stderr:
            for target, source in ((0, reader), (1, stderr.fileno()), (2, stderr.fileno())):
                os.dup2(source, target)
        os.close(reader)
        os.environ |= plan_environment(workspace)
        tempfile.tempdir = None  # an import may have set it, before TMPDIR was known
        engine_main.plan(workspace)
        sys.stdout.flush()
        sys.stderr.flush()

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the server has gone; the runs continue
            self._channel.send(json.dumps(message).encode())


def _read_request(reader: int) -> dict[str, Any] | None:
    """Wait for a request, a line of JSON. Return None if the forkserver ends before."""
    with open(reader, "rb", closefd=False) as pipe:
        line = pipe.readline()
    request: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
    return request


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Stop numpy, which engines import if it is installed, from starting BLAS threads.

    Restores the environment for the processes of runs.
    """
    before = {name: os.environ.get(name) for name in _THREAD_COUNTS}
    os.environ.update(dict.fromkeys(_THREAD_COUNTS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Engines


def load(engine: str) -> None:
    """Import an engine and fill the caches that all its runs share. Starts no threads.

    Raises RuntimeError for an engine that cannot run in a forked process.
    """
    match engine:
        case "snakemake":
            _load_snakemake()
        case "cwltool":
            _load_cwltool()
        case "miniwdl":
            _load_miniwdl()
        case _:
            raise RuntimeError(f"there is no engine {engine!r}")


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):  # the run then imports it itself
            import_module(name)


# Snakemake

_SNAKEMAKE_MODULES = (
    "snakemake.api",
    "snakemake.cli",
    "wesemu.engines.snakemake.executor_plugin",
    "snakemake.scheduling.job_scheduler",
    "snakemake.script",
    "snakemake.storage",
    "smart_open",
    "yte",
    "dpath",
    "platformdirs",
    "packaging.version",
    "jsonschema",
    "getpass",
    "graphlib",
    "encodings.idna",
)


def _load_snakemake() -> None:
    """Import Snakemake and its plugins, and cache the processor name, which needs a program."""
    hooks: Any = import_module("wesemu.engines.snakemake.hooks")
    if not hooks.is_tested(hooks.INSTALLED):
        raise RuntimeError("this version of Snakemake has not been tested with the warm mode")
    import_module("wesemu.engines.snakemake.worker")
    _import(_SNAKEMAKE_MODULES)
    for kind in ("executor", "storage", "scheduler", "logger"):
        registry = import_module(f"snakemake_interface_{kind}_plugins.registry")
        vars(registry)[f"{kind.capitalize()}PluginRegistry"]()
    platform.processor()
    if hasattr(yaml, "CFullLoader"):
        # the Python parser takes longer than planning a small workflow
        vars(import_module("yte"))["yaml"] = hooks.ModuleProxy(yaml, load=load_yaml)
    base = vars(import_module("snakemake.persistence"))["PersistenceBase"]
    base._serialize_param = property(_serializer_of_params)  # noqa: SLF001


def _serializer_of_params(persistence: Any) -> Any:
    """Return the method with which Snakemake records a parameter of a job.

    Snakemake imports pandas for it if pandas is installed, which takes longer than a small
    workflow. Only a workflow that has imported pandas has such parameters.
    """
    if "pandas" in sys.modules:
        return persistence._serialize_param_pandas  # noqa: SLF001
    return persistence._serialize_param_builtin  # noqa: SLF001


def load_yaml(stream: Any, Loader: Any) -> Any:  # noqa: N803  # as yaml.load names it
    """Parse YAML with libyaml; give the same results and errors as PyYAML's Python parser.

    libyaml treats tabs differently and rejects some valid input, so those cases use the other
    parser.
    """
    text = stream if isinstance(stream, str) else stream.read()
    if "\t" not in text:
        with contextlib.suppress(yaml.YAMLError):
            return yaml.load(text, yaml.CFullLoader)  # noqa: S506  # same loader, in C
    if not isinstance(stream, str):
        stream.seek(0)
    return yaml.load(stream, Loader)  # noqa: S506  # the caller's choice


_ANY_PATH = "/path of the Snakefile"


class _Parsed(NamedTuple):
    code: str
    linemap: Mapping[int, int]
    rules: int


class ParsedSnakefiles:
    """Keeps the Python code into which Snakemake translates Snakefiles.

    After `install`, runs use this code for files with the same text. All rules must have names:
    Snakemake numbers unnamed rules, and the numbers depend on the file that includes them.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._parse: Any = import_module("snakemake.parser").parse
        source = import_module("snakemake.sourcecache").LocalSourceFile(_ANY_PATH)
        self._parsed = dict[str, _Parsed]()
        for file in files:
            opened = SimpleNamespace(open=lambda path, file=file: file.open(encoding="utf-8"))
            linemap = dict[int, int]()
            parsed = self._parse(source, SimpleNamespace(sourcecache=opened), linemap)
            self._parsed[file.read_text(encoding="utf-8")] = _Parsed(parsed[0], linemap, parsed[1])

    def install(self) -> None:
        vars(import_module("snakemake.workflow"))["parse"] = self.parse

    def parse(
        self, path: Any, workflow: Any, linemap: dict[int, int], rulecount: int
    ) -> tuple[str, int]:
        """Return what Snakemake's `parse` returns; fill `linemap` in the same way."""
        with workflow.sourcecache.open(path) as file:
            parsed = self._parsed.get(file.read())
        if parsed is None:
            code: tuple[str, int] = self._parse(path, workflow, linemap, rulecount=rulecount)
            return code
        linemap |= parsed.linemap
        name = path.get_path_or_uri(secret_free=True)
        return parsed.code.replace(repr(_ANY_PATH), repr(name)), rulecount + parsed.rules


# CWL and WDL

_CWL_VERSIONS = ("v1.0", "v1.1", "v1.2")
_WDL_VERSIONS = ("draft-2", "1.0", "1.1", "1.2")


def _load_cwltool() -> None:
    """Import cwltool and parse its schemas, which takes longer than a small workflow."""
    import_module("wesemu.engines.cwl.worker")
    import_module("wesemu.engines.cwl.dry_run")
    for name in ("main", "executors", "argparser", "context", "job", "workflow"):
        import_module(f"cwltool.{name}")
    for version in _CWL_VERSIONS:
        vars(import_module("cwltool.process"))["get_schema"](version)


def _load_miniwdl() -> None:
    """Import miniwdl and build its parsers of all versions of the language."""
    import_module("wesemu.engines.wdl.worker")
    import_module("wesemu.engines.wdl.backend")
    _import(f"WDL.runtime.backend.{name}" for name in ("docker_swarm", "podman", "singularity"))
    library: Any = import_module("WDL")
    for version in _WDL_VERSIONS:
        head = "" if version == "draft-2" else f"version {version}\n"
        library.parse_document(f"{head}task empty {{ command {{}} }}")


# Modules that the workflows of a run import


class PreloadedModules:
    """Imports the modules `names`. Ignores failures: the run that needs one reports the error."""

    def __init__(self, names: Sequence[str]) -> None:
        before = {*sys.modules}
        _import(names)
        packages = {name.partition(".")[0] for name in names}
        self._stamps = {
            name: _stamp(name)
            for name in {*sys.modules} - before
            if name.partition(".")[0] in packages
        }

    def forget_changed(self) -> None:
        """Remove all preloaded modules from sys.modules if the file of one has changed.

        The process of a run calls this; its imports then read the new files.
        """
        if any(_stamp(name) != stamp for name, stamp in self._stamps.items()):
            for name in self._stamps:
                sys.modules.pop(name, None)


def _stamp(name: str) -> tuple[int, int] | None:
    """Return modification time and size of the file of a module."""
    file = getattr(sys.modules.get(name), "__file__", None)
    try:
        status = Path(file or "").stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if status else None


def main() -> None:
    descriptor, engine, *ahead = sys.argv[1:]
    os.chdir("/")
    ForkServer(socket.socket(fileno=int(descriptor)), engine, ahead).serve()


if __name__ == "__main__":
    main()
