"""miniwdl's task containers: one that is no container, and its own, recorded.

Only imported in a run's process, where miniwdl is there.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from logging import Logger, getLogger
from pathlib import Path
from typing import Any

import psutil

from wesemu.engines.launch_spec import ContainerTool
from wesemu.engines.leases import LeaseAbandoned
from wesemu.engines.task_recorder import Attempt, LibraryTasks, RunCanceled, TaskProcess
from wesemu.runs.model import Resources

# Container images of WDL tasks: which one a task names, and whether this machine can have it.


_NAMES = ("container", "docker")
_FOUND: Mapping[str, list[str]] = {
    "docker": ["docker", "image", "inspect"],
    "podman": ["podman", "image", "exists"],
}
_PULL: Mapping[str, list[str]] = {"docker": ["docker", "pull"], "podman": ["podman", "pull"]}
_LOOK_SECONDS, _PULL_SECONDS = 30.0, 1800.0
_REASON_LIMIT = 300


def names_image(task: Any, inputs: Any) -> bool:
    """Whether a task's `runtime`, or an input that overrides it, asks for an image."""
    keys = {*_NAMES, "inlineDockerfile"}
    given = {
        binding.name
        for namespace in ("runtime", "requirements")
        for binding in inputs.enter_namespace(namespace)
    }
    return bool(keys & (set(task.runtime) | given))


def image_of(task: Any, inputs: Any) -> str | None:
    """The image by its name, as far as constants and inputs tell it."""
    for key in _NAMES:
        for namespace in ("runtime", "requirements"):
            for binding in inputs.enter_namespace(namespace):
                if binding.name == key:
                    return str(binding.value.value)
        expression = task.runtime.get(key)
        value = getattr(expression, "literal", None)
        if value is None and expression is not None:
            value = _of_input(str(expression), task, inputs)
        if isinstance(name := getattr(value, "value", None), str):
            return name
    return None


def _of_input(name: str, task: Any, inputs: Any) -> Any:
    """An input, or its default."""
    for binding in inputs:
        if binding.name == name:
            return binding.value
    for declaration in task.inputs or ():
        if declaration.name == name and declaration.expr is not None:
            return declaration.expr.literal
    return None


class Images:
    """Images of one container tool. Thread-safe; each image is looked for once."""

    def __init__(self, tool: ContainerTool) -> None:
        self._tool = tool
        self._lock = threading.Lock()
        self._known = dict[str, str | None]()

    def obtain(self, image: str) -> str | None:
        """None once the image is on this machine; else the reason why it cannot be had. Blocks.

        apptainer is not asked: it fetches an image when it is used.
        """
        with self._lock:
            if image not in self._known:
                self._known[image] = self._fetch(image)
            return self._known[image]

    def _fetch(self, image: str) -> str | None:
        if self._tool not in _FOUND:
            return None
        if _call([*_FOUND[self._tool], image], _LOOK_SECONDS) is None:
            return None
        return _call([*_PULL[self._tool], image], _PULL_SECONDS)


def _call(command: list[str], seconds: float) -> str | None:
    """None for success; else the last line of what the command says."""
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
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit status {done.returncode}")[:_REASON_LIMIT]


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


def local_backend(tasks: LibraryTasks, share: Resources) -> type:
    """A `TaskContainer` that runs a task as a local process in the task's own directory.

    The image that a task asks for is not looked at. A task's `note` goes into its stderr.
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
            self.note = ""
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
                _tell(attempt, self.note)
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


def recorded(backend: Any, tasks: LibraryTasks, share: Resources, images: Images) -> type:
    """One of miniwdl's backends whose tasks are told of."""

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
                tasks.add_error(name, f"{error}" or type(error).__name__)
                raise
            finally:
                for stream in ("stdout", "stderr"):
                    written = Path(getattr(self, f"host_{stream}_txt")())
                    if written.is_file():
                        shutil.copyfile(written, attempt.folder / stream)
                tasks.end(name, succeeded=code >= 0 and self.success_exit_code(code))
            return code

        def _obtain_image(self) -> None:
            default = self.cfg.get_dict("task_runtime", "defaults").get("docker")
            image = self.runtime_values.get("docker", default)
            if image is None or "inlineDockerfile" in self.runtime_values:
                return
            if (reason := images.obtain(str(image))) is not None:
                raise RuntimeError(f"the image {image} cannot be had: {reason}")

    return RecordedTask


def chosen(local: Any, container: Any, images: Images) -> type:
    """A backend that runs a task in a container if the task names an image that can be had, and
    on this machine otherwise."""
    here = threading.local()
    lock = threading.Lock()
    started = dict[str, str | None]()

    def start(config: Any, logger: Logger) -> str | None:
        """Start the container backend once; why it does not start."""
        with lock:
            if "reason" not in started:
                try:
                    container.global_init(config, logger)
                    started["reason"] = None
                except Exception as error:
                    started["reason"] = f"{error}"
            return started["reason"]

    def note(config: Any, logger: Logger) -> str | None:
        """None for a task that runs in a container, else why it does not ("" for no image)."""
        task, inputs = here.task, here.inputs
        if not names_image(task, inputs):
            return ""
        image = image_of(task, inputs)
        reason = start(config, logger)
        if reason is None and image is not None:
            reason = images.obtain(image)
        if reason is None:
            return None
        return f"the image {image or ''} cannot be had ({reason}): the task runs on this machine"

    class Chosen(_containers.TaskContainer):  # type: ignore[misc]
        def __new__(cls, config: Any, run_id: str, host_dir: str) -> Any:
            logger = getLogger("wdl")
            if (told := note(config, logger)) is None:
                return container(config, run_id, host_dir)
            made = local(config, run_id, host_dir)
            made.note = told
            if told:
                logger.warning("%s: %s", task_name(run_id, Path(host_dir)), told)
            return made

        @classmethod
        def global_init(cls, config: Any, logger: Logger) -> None:
            """The container backend starts with the first task that needs it."""

    _remember_tasks(here)
    return Chosen


def _remember_tasks(here: threading.local) -> None:
    """miniwdl tells a backend no more of a task than its name."""
    modules = [import_module(f"WDL.runtime{name}") for name in ("", ".task", ".workflow")]
    run: Any = vars(modules[1])["run_local_task"]

    def run_local_task(config: Any, task: Any, inputs: Any, *more: Any, **options: Any) -> Any:
        here.task, here.inputs = task, inputs
        return run(config, task, inputs, *more, **options)

    for module in modules:
        vars(module)["run_local_task"] = run_local_task


def _tell(attempt: Attempt, note: str) -> None:
    if note:
        descriptor = attempt.open("stderr")
        os.write(descriptor, f"wesemu: {note}\n".encode())
        os.close(descriptor)


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
    tasks: LibraryTasks, name: str, command: str, wanted: Resources, terminating: Callable[[], bool]
) -> Attempt:
    try:
        return tasks.begin(name, command.strip("\n"), wanted, lambda: not terminating())
    except (RunCanceled, LeaseAbandoned):
        raise _errors.Terminated(quiet=True) from None


def _bring_inputs(paths: dict[str, str]) -> None:
    """Files where a container would have mounts: hard links, so that `tar` and `cp -a` see no
    links. What lies on another file system is a symbolic link."""
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
