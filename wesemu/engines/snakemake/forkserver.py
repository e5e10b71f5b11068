"""The warm process: it has imported Snakemake and forks a run's process for each launch.

`python -m wesemu.engines.snakemake.forkserver FD [MODULE …]`, where FD is one end of a socket pair
(SOCK_SEQPACKET, JSON) and MODULEs are imported as well. It is sent {"id", "root"}; it sends
{"ready"}, or {"failed": reason} before it ends, then for each launch what `run_process.execute`
announces, and {"id", "exited"} once that process has ended. It ends when the other end is closed;
the runs go on.
"""

import contextlib
import gc
import json
import os
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

from wesemu.engines import run_process
from wesemu.engines.launch_spec import launch_details, read_snakemake_spec
from wesemu.engines.snakemake import hooks
from wesemu.engines.snakemake.worker import WarmWorker
from wesemu.runs.run_directory import Workspace

# Modules that the warm process has imported for the workflows that it forks runs of.


class PreloadedModules:
    """Imports `names`. Those that cannot be, a run will import, or say why it cannot."""

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
        """Where one's file has changed since, let whoever imports any of them read it anew.

        For a run's own process: workflows and the modules that they import change together.
        """
        if any(_stamp(name) != stamp for name, stamp in self._stamps.items()):
            for name in self._stamps:
                sys.modules.pop(name, None)


def _stamp(name: str) -> tuple[int, int] | None:
    """Time of change and size of a module's file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    try:
        status = Path(file or "").stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if status else None


_MESSAGE_LIMIT = 1 << 16
_REASON_LIMIT = 1000
_THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class ForkServer:
    """Has no threads and no event loop: whatever it forks must be whole."""

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
            hooks.load()
            self._preloaded = PreloadedModules(self._modules)
        if threading.active_count() != 1 or psutil.Process().num_threads() != 1:
            raise RuntimeError("modules imported ahead start threads; they cannot be forked")

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

        workspace = Workspace(Path(request["root"]))
        spec = read_snakemake_spec(workspace)
        run_process.execute(
            workspace,
            lambda context: WarmWorker(context, spec),
            announce,
            details=launch_details(spec),
            grace_seconds=spec.grace_seconds,
        )

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the server has gone; the runs go on
            self._channel.send(json.dumps(message).encode())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep numpy, which Snakemake imports where it is installed, from starting BLAS's threads.

    The runs' own processes have the environment as it was.
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
