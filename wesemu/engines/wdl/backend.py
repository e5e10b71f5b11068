"""Backends of miniwdl: local processes, and containers with records of their tasks.

Only the worker of a run imports this module, because it imports miniwdl. Parts: container images,
`local_backend`, `recorded` (miniwdl's container backends), `chosen` (selects one for each task).
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from logging import Logger, getLogger
from pathlib import Path
from typing import Any

import psutil

from wesemu.engines.attempt import Attempt, TaskProcess
from wesemu.engines.launch_spec import ContainerTool
from wesemu.engines.leases import LeaseAbandoned
from wesemu.engines.library_worker import named_task
from wesemu.engines.processes import exit_code_of, start_when_possible
from wesemu.engines.task_recorder import RunCanceled, TaskRecorder
from wesemu.runs.model import Resources

# Container images.

_NAMES = ("container", "docker")
_FOUND: Mapping[str, list[str]] = {
    "docker": ["docker", "image", "inspect"],
    "podman": ["podman", "image", "exists"],
}
_PULL: Mapping[str, list[str]] = {"docker": ["docker", "pull"], "podman": ["podman", "pull"]}
_LOOK_SECONDS, _PULL_SECONDS = 30.0, 1800.0
_REASON_LIMIT = 300


def names_image(task: Any, inputs: Any) -> bool:
    """Return whether a task's `runtime`, or an input that overrides it, names an image."""
    keys = {*_NAMES, "inlineDockerfile"}
    given = {
        binding.name
        for namespace in ("runtime", "requirements")
        for binding in inputs.enter_namespace(namespace)
    }
    return bool(keys & (set(task.runtime) | given))


def image_of(task: Any, inputs: Any) -> str | None:
    """Return the name of the image if it follows from constants and inputs."""
    for key in _NAMES:
        for namespace in ("runtime", "requirements"):
            for binding in inputs.enter_namespace(namespace):
                if binding.name == key:
                    return str(binding.value.value)
        expression = task.runtime.get(key)
        value = getattr(expression, "literal", None)
        if value is None and expression is not None:
            value = _input_value(str(expression), task, inputs)
        if isinstance(name := getattr(value, "value", None), str):
            return name
    return None


def _input_value(name: str, task: Any, inputs: Any) -> Any:
    """Return the value of an input, or its default."""
    for binding in inputs:
        if binding.name == name:
            return binding.value
    for declaration in task.inputs or ():
        if declaration.name == name and declaration.expr is not None:
            return declaration.expr.literal
    return None


class Images:
    """Images of one container tool. Thread-safe; looks for each image once.

    Tasks with other images do not wait for a slow pull.
    """

    def __init__(self, tool: ContainerTool) -> None:
        self._tool = tool
        self._locks = defaultdict[str, threading.Lock](threading.Lock)
        self._locks_lock = threading.Lock()
        self._known = dict[str, str | None]()

    def obtain(self, image: str) -> str | None:
        """Fetch an image. Return None for success, else the reason of the failure. Blocks.

        Does nothing for apptainer, which fetches an image on its first use.
        """
        with self._locks_lock:
            lock = self._locks[image]
        with lock:
            if image not in self._known:
                self._known[image] = self._fetch(image)
            return self._known[image]

    def _fetch(self, image: str) -> str | None:
        if self._tool not in _FOUND:
            return None
        if _run_command([*_FOUND[self._tool], image], _LOOK_SECONDS) is None:
            return None
        return _run_command([*_PULL[self._tool], image], _PULL_SECONDS)


def _run_command(command: list[str], seconds: float) -> str | None:
    """Run a command. Return None for success, else the last line of its output."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)[:_REASON_LIMIT]
    return _last_line(done) if done.returncode else None


def _last_line(ended: subprocess.CompletedProcess[str] | subprocess.CalledProcessError) -> str:
    """Return the last line of the output of a failed command, or its exit status."""
    text: str = ended.stderr or ended.stdout or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit status {ended.returncode}")[:_REASON_LIMIT]


_TICK_SECONDS = 0.1

_containers: Any = import_module("WDL.runtime.task_container")
_errors: Any = import_module("WDL.runtime.error")


class Cores:
    """The cores of the run, shared by its tasks. `take` waits until enough are free."""

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
    """Return `align`, `align-0-NA12878` in a scatter, `sub.align` in a sub-workflow."""
    calls = [part for part in folder.parts if part.startswith("call-")]
    return ".".join(call.removeprefix("call-") for call in calls) or run_id


def local_backend(tasks: TaskRecorder, share: Resources) -> type:
    """Return a `TaskContainer` that runs a task as a local process in its directory.

    It ignores the image. It writes the `note` of a task to stderr of the task.
    """
    cores = Cores(share.cores)

    class LocalTask(_containers.TaskContainer):  # type: ignore[misc]
        @classmethod
        def global_init(cls, config: Any, logger: Logger) -> None:
            """Do nothing."""

        @classmethod
        def detect_resource_limits(cls, config: Any, logger: Logger) -> dict[str, int]:
            return {"cpu": share.cores, "mem_bytes": psutil.virtual_memory().total}

        def __init__(self, config: Any, run_id: str, host_dir: str) -> None:
            super().__init__(config, run_id, host_dir)
            self.container_dir = host_dir
            self.note = ""
            self._name = task_name(run_id, Path(host_dir))

        def host_work_dir(self) -> str:
            """Return the same folder for every attempt: the command contains its paths."""
            return str(Path(self.host_dir, "work"))

        def reset(self, logger: Logger) -> None:
            work = Path(self.host_work_dir())
            work.rename(work.with_name(f"work.attempt{self.try_counter}"))
            super().reset(logger)

        def _run(self, logger: Logger, terminating: Callable[[], bool], command: str) -> int:
            _link_inputs(self.input_path_map)
            script = Path(self.host_dir, "command")
            text = _exports(self.runtime_values.get("env", {})) + command
            script.write_text(text, encoding="utf-8", errors="surrogateescape")
            shell = shlex.split(self.cfg.get("task_runtime", "command_shell"))
            code = -1
            wanted = wanted_by(self.runtime_values, share)
            with cores.take(wanted.cores):
                attempt = _begin(tasks, self._name, command, wanted, terminating)
                _write_note(attempt, self.note)
                process = partial(TaskProcess, [*shell, str(script)])
                try:
                    options = {"cwd": self.host_work_dir()}
                    start = partial(tasks.spawn, attempt, process, options)
                    code = _wait(start_when_possible(start), terminating)
                    _copy(attempt, self.host_stdout_txt(), self.host_stderr_txt())
                except RunCanceled:
                    raise _errors.Terminated(quiet=True) from None
                finally:
                    tasks.end(self._name, succeeded=code >= 0 and self.success_exit_code(code))
            if terminating():
                raise _errors.Terminated
            return code

    return LocalTask


def recorded(backend: Any, tasks: TaskRecorder, share: Resources, images: Images) -> type:
    """Return a backend of miniwdl that records its tasks."""

    class RecordedTask(backend):  # type: ignore[misc]
        def _run(self, logger: Logger, terminating: Callable[[], bool], command: str) -> int:
            name = task_name(self.run_id, Path(self.host_dir))
            wanted = wanted_by(self.runtime_values, share)
            attempt = _begin(tasks, name, command, wanted, terminating)
            code: int = -1
            try:
                self._obtain_image()
                code = super()._run(logger, terminating, command)
                attempt.task = replace(attempt.task, exit_code=code)
            except _errors.Terminated:
                raise
            except Exception as error:
                attempt.error = _describe(error, self._image())
                raise
            finally:
                for stream in ("stdout", "stderr"):
                    written = Path(getattr(self, f"host_{stream}_txt")())
                    if written.is_file():
                        shutil.copyfile(written, attempt.folder / stream)
                tasks.end(name, succeeded=code >= 0 and self.success_exit_code(code))
            return code

        def _image(self) -> str | None:
            default = self.cfg.get_dict("task_runtime", "defaults").get("docker")
            image: str | None = self.runtime_values.get("docker", default)
            return image

        def _obtain_image(self) -> None:
            image = self._image()
            if image is None or "inlineDockerfile" in self.runtime_values:
                return
            if (reason := images.obtain(image)) is not None:
                raise RuntimeError(f"the image {image} is not available: {reason}")

    return RecordedTask


def chosen(local: Any, container: Any, images: Images) -> type:
    """Return a backend that runs a task in a container if its image is available.

    Other tasks run as local processes.
    """
    current = threading.local()
    lock = threading.Lock()
    started = dict[str, str | None]()

    def start(config: Any, logger: Logger) -> str | None:
        """Start the container backend once; return the reason if it cannot start."""
        with lock:
            if "reason" not in started:
                try:
                    container.global_init(config, logger)
                    started["reason"] = None
                except Exception as error:
                    started["reason"] = f"{error}"
            return started["reason"]

    def note(config: Any, logger: Logger) -> str | None:
        """Return None for a container, else the reason for a local process ("": no image)."""
        task, inputs = current.task, current.inputs
        if not names_image(task, inputs):
            return ""
        image = image_of(task, inputs)
        reason = start(config, logger)
        if reason is None and image is not None:
            reason = images.obtain(image)
        if reason is None:
            return None
        return (
            f"the image {image or ''} is not available ({reason}), so the task runs on this machine"
        )

    class Chosen(_containers.TaskContainer):  # type: ignore[misc]
        def __new__(cls, config: Any, run_id: str, host_dir: str) -> Any:
            logger = getLogger("wdl")
            if (reason := note(config, logger)) is None:
                return container(config, run_id, host_dir)
            made = local(config, run_id, host_dir)
            made.note = reason
            if reason:
                logger.warning("%s: %s", task_name(run_id, Path(host_dir)), reason)
            return made

        @classmethod
        def global_init(cls, config: Any, logger: Logger) -> None:
            """Do nothing: the container backend starts with the first task that needs it."""

    _remember_tasks(current)
    return Chosen


def _remember_tasks(current: threading.local) -> None:
    """Store task and inputs of a thread: miniwdl gives a backend only the task name."""
    modules = [import_module(f"WDL.runtime{name}") for name in ("", ".task", ".workflow")]
    run: Any = vars(modules[1])["run_local_task"]

    def run_local_task(config: Any, task: Any, inputs: Any, *more: Any, **options: Any) -> Any:
        current.task, current.inputs = task, inputs
        return run(config, task, inputs, *more, **options)

    for module in modules:
        vars(module)["run_local_task"] = run_local_task


def _describe(error: Exception, image: str | None) -> str:
    """Return the message of an error. That of a failed pull lacks the reason, so it is added."""
    pull = error.__context__
    failed_pull = isinstance(error, _errors.DownloadFailed)
    if failed_pull and isinstance(pull, subprocess.CalledProcessError):
        return f"the image {image} is not available: {_last_line(pull)}"
    return f"{error}" or type(error).__name__


def _write_note(attempt: Attempt, note: str) -> None:
    if note:
        attempt.note = note
        descriptor = attempt.open("stderr")
        os.write(descriptor, f"wesemu: {note}\n".encode())
        os.close(descriptor)


def wanted_by(runtime: Mapping[str, Any], share: Resources) -> Resources:
    """Return the resources of a task, limited to those of the run.

    `memory_reservation` of the runtime values is in bytes.
    """
    memory_mb = -(-runtime.get("memory_reservation", 0) // (1 << 20))
    return Resources(
        cores=max(1, min(runtime.get("cpu", 1), share.cores)),
        memory_mb=min(memory_mb, share.memory_mb) if share.memory_mb else memory_mb,
        gpus=min(int(runtime.get("gpu", False)), share.gpus),
    )


def _begin(
    tasks: TaskRecorder, name: str, command: str, wanted: Resources, terminating: Callable[[], bool]
) -> Attempt:
    try:
        facts = named_task(name, command.strip("\n"), wanted.cores)
        attempt = tasks.begin_with_lease(facts, wanted, lambda: not terminating())
        attempt.note_command(command.strip("\n"))
        return attempt
    except (RunCanceled, LeaseAbandoned):
        raise _errors.Terminated(quiet=True) from None


def _link_inputs(paths: dict[str, str]) -> None:
    """Link inputs to the paths where a container would mount them.

    These are hard links, because `tar` and `cp -a` would keep symbolic links. Files on another file
    system become symbolic links.
    """
    for host, inside in paths.items():
        target, source = Path(inside.rstrip("/")), Path(host.rstrip("/"))
        if target.exists() or target.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if source.is_dir():
                shutil.copytree(source, target, copy_function=_link)
            else:
                _link(str(source), str(target))
        except OSError:
            if target.is_dir():
                shutil.rmtree(target)
            target.symlink_to(source)


def _link(source: str, target: str) -> None:
    os.link(Path(source).resolve(), target)


def _exports(variables: dict[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _wait(process: TaskProcess, terminating: Callable[[], bool]) -> int:
    """Wait; return the exit status of a shell. Ends the process when miniwdl terminates."""
    waiting = threading.Thread(target=process.wait, name="wait", daemon=True)
    waiting.start()
    terminated = False
    while waiting.is_alive():
        waiting.join(_TICK_SECONDS)
        if terminating() and not terminated:
            terminated = True
            process.terminate()
    return exit_code_of(int(process.returncode))


def _copy(attempt: Attempt, stdout: str, stderr: str) -> None:
    """Link the logs to the files that `stdout()` and `stderr()` of WDL read."""
    for stream, target in (("stdout", stdout), ("stderr", stderr)):
        try:
            os.link(attempt.folder / stream, target)
        except OSError:
            shutil.copyfile(attempt.folder / stream, target)
