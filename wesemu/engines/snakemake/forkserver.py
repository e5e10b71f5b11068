"""The forkserver: imports Snakemake once and forks a run process for each launch.

`python -m wesemu.engines.snakemake.forkserver FD [MODULE …]`. FD is one end of a socket pair
(SOCK_SEQPACKET, JSON); MODULEs are imported as well. It receives {"id", "root"}. It sends
{"ready"}, or {"failed": reason} before it exits. For each launch it sends the announcement of
`run_process.execute`, and {"id", "exited"} when that process has ended. It exits when the other
end is closed; the runs continue.
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
import threading
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import psutil
import yaml

from wesemu.engines import main as engine_main
from wesemu.engines.snakemake import hooks
from wesemu.runs.run_directory import Workspace

# Preloaded modules: imported before the fork, so runs need not.


class PreloadedModules:
    """Imports the modules `names`. Ignores failures: the run that needs one reports the error."""

    def __init__(self, names: Sequence[str]) -> None:
        before = {*sys.modules}
        for name in names:
            with contextlib.suppress(ImportError):
                import_module(name)
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


_PRELOADED = (
    "snakemake.api",
    "snakemake.cli",
    "snakemake.executors.local",
    "snakemake.scheduling.job_scheduler",
    "snakemake.script",
    "snakemake.storage",
    "smart_open",
    "yte",
    "dpath",
    "platformdirs",
    "jsonschema",
    "getpass",
    "graphlib",
    "encodings.idna",
)


def load() -> None:
    """Import the modules of a run, and fill caches that all runs share.

    These are the plugin registries, and the processor name, for which Snakemake runs a program.
    """
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):  # the run then imports it itself
            import_module(name)
    for kind in ("executor", "storage", "scheduler", "logger"):
        registry = import_module(f"snakemake_interface_{kind}_plugins.registry")
        vars(registry)[f"{kind.capitalize()}PluginRegistry"]()
    platform.processor()
    _read_yaml_by_libyaml()


def _read_yaml_by_libyaml() -> None:
    """Let yte parse with libyaml: the Python parser takes longer than planning a workflow."""
    if hasattr(yaml, "CFullLoader"):
        vars(import_module("yte"))["yaml"] = hooks.ModuleProxy(yaml, load=load_yaml)


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


_MESSAGE_LIMIT = 1 << 16
_REASON_LIMIT = 1000
_THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class ForkServer:
    """Forks run processes. Has no threads: after fork(2) only the calling thread exists."""

    def __init__(self, channel: socket.socket, modules: Sequence[str]) -> None:
        self._channel = channel
        self._modules = modules
        self._launches = dict[int, int]()
        self._wakeup, self._wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> None:
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
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wakeup in ready:
                self._reap()
            if self._channel.fileno() in ready and not self._fork_run():
                return

    def _load(self) -> None:
        with _one_thread():
            load()
            self._preloaded = PreloadedModules(self._modules)
        if threading.active_count() != 1 or psutil.Process().num_threads() != 1:
            raise RuntimeError(
                "preloaded modules have started threads, so this process cannot fork"
            )

    def _fork_run(self) -> bool:
        content = self._channel.recv(_MESSAGE_LIMIT)
        if not content:
            return False
        request = json.loads(content)
        pid = os.fork()
        if pid == 0:
            self._run_child(request)
        self._launches[pid] = request["id"]
        return True

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
            code = os.waitstatus_to_exitcode(status)
            self._send({"id": self._launches.pop(pid, 0), "exited": code})

    def _run_child(self, request: dict[str, Any]) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wakeup)
            os.close(self._wakeup_writer)
            self._preloaded.forget_changed()
            self._execute(request)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _execute(self, request: dict[str, Any]) -> None:
        def announce(message: dict[str, Any]) -> None:
            self._send({"id": request["id"], **message})
            self._channel.close()

        engine_main.run(Workspace(Path(request["root"])), announce)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the server has gone; the runs continue
            self._channel.send(json.dumps(message).encode())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Stop numpy, which Snakemake imports if installed, from starting BLAS threads.

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


def main() -> None:
    if not hooks.is_tested(hooks.INSTALLED):
        sys.exit("this version of Snakemake has not been tested with the warm mode")
    os.chdir("/")
    ForkServer(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]).serve()


if __name__ == "__main__":
    main()
