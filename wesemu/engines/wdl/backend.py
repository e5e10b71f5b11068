"""miniwdl's task containers: one that is no container, and its own, recorded.

Only imported in a run's process, where miniwdl is there.
"""

import contextlib
import os
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from logging import Logger
from pathlib import Path
from typing import Any

import psutil

from wesemu.engines.hosted.tasks import RunCanceled, Tasks
from wesemu.engines.leases import LeaseForgone
from wesemu.engines.task_process import Attempt, TaskProcess
from wesemu.runs.model import Resources

_TICK_SECONDS = 0.1

_containers: Any = import_module("WDL.runtime.task_container")
_errors: Any = import_module("WDL.runtime.error")


class Cores:
    """The run's share of the node, given out to tasks; one that asks for all of it waits."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, taken: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


def task_name(run_id: str, folder: Path) -> str:
    """`align`, `align-0-NA12878` in a scatter, `sub.align` in a sub-workflow."""
    calls = [part for part in folder.parts if part.startswith("call-")]
    return ".".join(call.removeprefix("call-") for call in calls) or run_id


def local_backend(tasks: Tasks, share: Resources) -> type:
    """A `TaskContainer` that runs a task as a local process in the task's own directory.

    The image that a task asks for is not looked at.
    """
    cores = Cores(share.cores)

    class LocalTask(_containers.TaskContainer):  # type: ignore[misc]
        @classmethod
        def global_init(cls, config: Any, logger: Logger) -> None:
            """Nothing is needed."""

        @classmethod
        def detect_resource_limits(cls, config: Any, logger: Logger) -> dict[str, int]:
            return {"cpu": share.cores, "mem_bytes": psutil.virtual_memory().total}

        def __init__(self, config: Any, run_id: str, host_dir: str) -> None:
            super().__init__(config, run_id, host_dir)
            self.container_dir = host_dir
            self._name = task_name(run_id, Path(host_dir))

        def host_work_dir(self) -> str:
            """The same for every attempt: the command has its paths from the first one."""
            return str(Path(self.host_dir, "work"))

        def reset(self, logger: Logger) -> None:
            work = Path(self.host_work_dir())
            work.rename(work.with_name(f"work.attempt{self.try_counter}"))
            super().reset(logger)

        def _run(self, logger: Logger, terminating: Callable[[], bool], command: str) -> int:
            _bring_inputs(self.input_path_map)
            script = Path(self.host_dir, "command")
            script.write_text(_exports(self.runtime_values.get("env", {})) + command)
            shell = shlex.split(self.cfg.get("task_runtime", "command_shell"))
            code = -1
            wanted = wanted_by(self.runtime_values, share)
            with cores.take(wanted.cores):
                attempt = _begin(tasks, self._name, command, wanted, terminating)
                try:
                    process = tasks.spawn(attempt, [*shell, str(script)], cwd=self.host_work_dir())
                    code = _wait(process, terminating)
                    _copy(attempt, self.host_stdout_txt(), self.host_stderr_txt())
                except RunCanceled:
                    raise _errors.Terminated(quiet=True) from None
                finally:
                    tasks.end(self._name, succeeded=code >= 0 and self.success_exit_code(code))
            if terminating():
                raise _errors.Terminated
            return code

    return LocalTask


def recorded(backend: Any, tasks: Tasks, share: Resources) -> type:
    """One of miniwdl's backends whose tasks are told of."""

    class RecordedTask(backend):  # type: ignore[misc]
        def _run(self, logger: Logger, terminating: Callable[[], bool], command: str) -> int:
            name = task_name(self.run_id, Path(self.host_dir))
            wanted = wanted_by(self.runtime_values, share)
            attempt = _begin(tasks, name, command, wanted, terminating)
            code: int = -1
            try:
                code = super()._run(logger, terminating, command)
                attempt.task = replace(attempt.task, exit_code=code)
            finally:
                for stream in ("stdout", "stderr"):
                    written = Path(getattr(self, f"host_{stream}_txt")())
                    if written.is_file():
                        shutil.copyfile(written, attempt.folder / stream)
                tasks.end(name, succeeded=code >= 0 and self.success_exit_code(code))
            return code

    return RecordedTask


def wanted_by(runtime: Mapping[str, Any], share: Resources) -> Resources:
    """Of a task's runtime values (`memory_reservation` is in bytes); more than the run's share
    means the share."""
    memory_mb = -(-runtime.get("memory_reservation", 0) // (1 << 20))
    return Resources(
        cores=max(1, min(runtime.get("cpu", 1), share.cores)),
        memory_mb=min(memory_mb, share.memory_mb) if share.memory_mb else memory_mb,
        gpus=min(int(runtime.get("gpu", False)), share.gpus),
    )


def _begin(
    tasks: Tasks, name: str, command: str, wanted: Resources, terminating: Callable[[], bool]
) -> Attempt:
    try:
        return tasks.begin(name, command.strip("\n"), wanted, lambda: not terminating())
    except (RunCanceled, LeaseForgone):
        raise _errors.Terminated(quiet=True) from None


def _bring_inputs(paths: dict[str, str]) -> None:
    """Links where a container would have mounts."""
    for host, inside in paths.items():
        link = Path(inside.rstrip("/"))
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(host.rstrip("/"))


def _exports(variables: dict[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _wait(process: TaskProcess, terminating: Callable[[], bool]) -> int:
    """As a shell tells it. Another task's failure ends this one."""
    waiting = threading.Thread(target=process.wait, name="wait", daemon=True)
    waiting.start()
    told = False
    while waiting.is_alive():
        waiting.join(_TICK_SECONDS)
        if terminating() and not told:
            told = True
            process.terminate()
    code = int(process.returncode)
    return code if code >= 0 else 128 - code


def _copy(attempt: Attempt, stdout: str, stderr: str) -> None:
    """miniwdl's own place of the task's streams, for `stdout()` and `stderr()`."""
    for stream, target in (("stdout", stdout), ("stderr", stderr)):
        try:
            os.link(attempt.folder / stream, target)
        except OSError:
            shutil.copyfile(attempt.folder / stream, target)
