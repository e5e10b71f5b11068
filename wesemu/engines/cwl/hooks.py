"""Hooks into cwltool; each has a contract test.

loading_context       public: cwltool calls us to create each tool
tool.job              wrapped to notice failures, also without a process
job.output_callback   wrapped to notice the end of a job
job.run               wrapped to turn exceptions before the process into a failed job
_job_popen            replaced to start tools with own process group and logs, and to measure them
flock helpers         replaced so that jobs of one run never wait for each other's cache entry
"""

import contextlib
import fcntl
import logging
import math
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from wesemu.engines.attempt import Attempt, TaskProcess, Usage
from wesemu.engines.leases import LeaseAbandoned
from wesemu.engines.library_worker import named_task
from wesemu.engines.processes import send_group, start_when_possible
from wesemu.engines.task_recorder import TaskRecorder
from wesemu.runs.model import Resources

log = logging.getLogger("cwltool")

_SUCCEEDED = ("success", "skipped")
_NOT_FOUND = 127
_KILL_SECONDS = 10.0
_GRACE_SECONDS = 5.0

Jobs = Callable[..., Iterator[Any]]


class CacheBusy(Exception):
    """Another job of this run is creating the same cache entry."""


class Hooks:
    """Hooks of one run. With `keep_going`, steps wait for leases even after another has failed."""

    def __init__(self, tasks: TaskRecorder, *, keep_going: bool = False) -> None:
        self._tasks = tasks
        self._keep_going = keep_going
        self._failed = False
        self._jobs = dict[str, Any]()
        self._made = set[str]()
        self._containers = dict[str, tuple[str, Path]]()
        self.tools = 0
        """Number of command-line tools so far: the minimum number of tasks."""

    def install(self) -> None:
        jobs: Any = import_module("cwltool.job")
        jobs._job_popen = self.start_process  # noqa: SLF001
        tools: Any = import_module("cwltool.command_line_tool")
        tools.shared_file_lock = lambda file: _lock(file, fcntl.LOCK_SH)
        tools.upgrade_lock = lambda file: _lock(file, fcntl.LOCK_EX)

    def loading_context(self, runtime: Any) -> Any:
        context = import_module("cwltool.context").LoadingContext(vars(runtime))
        context.construct_tool_object = self._make_tool
        context.relax_path_checks = True  # blanks and `#` in names
        context.singularity, context.podman = runtime.singularity, runtime.podman
        return context

    def _make_tool(self, document: Any, context: Any) -> Any:
        tool = import_module("cwltool.workflow").default_make_tool(document, context)
        if isinstance(tool, import_module("cwltool.command_line_tool").CommandLineTool):
            self.tools += 1
            tool.job = self._record_jobs(tool.job)
        tool.job = self._watch_failures(tool.job)
        return tool

    def _watch_failures(self, jobs: Jobs) -> Jobs:
        """Notice failures without a process: in an expression, or while creating jobs."""

        def watched(job_order: Any, callback: Any, runtime: Any) -> Iterator[Any]:
            def ended(outputs: Any, status: str) -> None:
                self._failed |= status not in _SUCCEEDED
                callback(outputs, status)

            try:
                yield from jobs(job_order, ended, runtime)
            except Exception:
                self._failed = True
                raise

        return watched

    def _record_jobs(self, jobs: Jobs) -> Jobs:
        runs = import_module("cwltool.job").JobBase

        def watched(job_order: Any, callback: Any, runtime: Any) -> Iterator[Any]:
            for job in self._without_reuse(jobs, job_order, callback, runtime):
                if isinstance(job, runs):
                    self._jobs[job.name] = job
                    self._made.add(job.outdir)
                    job.output_callback = self._record_end(job.name, job.output_callback)
                    job.run = self._fail_as_job(job)
                yield job

        return watched

    def _without_reuse(
        self, jobs: Jobs, job_order: Any, callback: Any, runtime: Any
    ) -> Iterator[Any]:
        """Reuse only results of earlier launches.

        The same job again in this launch (a scatter over equal values) runs without the cache.
        """
        cached = import_module("cwltool.command_line_tool").CallbackJob
        with contextlib.suppress(CacheBusy):
            for job in jobs(job_order, callback, runtime):
                if isinstance(job, cached) and job.outdir in self._made:
                    break
                yield job
            else:
                return
        runtime = runtime.copy()
        runtime.cachedir = None
        yield from jobs(job_order, callback, runtime)

    def _record_end(self, name: str, callback: Any) -> Any:
        def ended(outputs: Any, status: str) -> None:
            self._tasks.end(name, succeeded=status == "success")
            self._jobs.pop(name, None)
            callback(outputs, status)

        return ended

    def _fail_as_job(self, job: Any) -> Callable[..., None]:
        """Turn an exception of `job.run` into a failed job.

        cwltool would otherwise hold a lock while it waits for the other jobs, and they cannot end
        without that lock.
        """
        run = job.run

        def guarded(runtime: Any, tmpdir_lock: Any = None) -> None:
            try:
                run(runtime, tmpdir_lock)
            except Exception as error:
                if job.name not in self._jobs:  # its end is recorded
                    raise
                log.error("[job %s] Job error:\n%s", job.name, error)
                with runtime.workflow_eval_lock:
                    job.output_callback({}, "permanentFail")

        return guarded

    def start_process(
        self,
        commands: list[str],
        stdin_path: str | None,
        stdout_path: str | None,
        stderr_path: str | None,
        env: Mapping[str, str],
        cwd: str,
        make_job_dir: Callable[[], str],
        job_script_contents: str | None = None,
        timelimit: int | None = None,
        name: str | None = None,
        monitor_function: object = None,
        default_stdout: object = None,
        default_stderr: object = None,
    ) -> int:
        """Replace cwltool's `_job_popen`; return a value like `Popen.returncode`."""
        assert name is not None
        job = self._jobs[name]
        command = shlex.join(map(str, job.command_line))  # cwltool has masked the secrets in it
        attempt = self._begin(name, command, _resources(job.builder.resources))
        self._note_container(name, commands)
        with contextlib.ExitStack() as files:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": env, "cwd": cwd}
            if stdin_path is not None:
                options["stdin"] = files.enter_context(Path(stdin_path).open("rb"))
            if stdout_path is not None:
                options["stdout"] = files.enter_context(Path(stdout_path).open("wb"))
            if stderr_path is not None:
                options["stderr"] = files.enter_context(Path(stderr_path).open("wb"))
                _link_log(Path(stderr_path), attempt)
            process = self._spawn(attempt, commands, options)
            with _time_limit(process, timelimit) as timed_out:
                process.wait()
        self._containers.pop(name, None)
        if timed_out.is_set():
            attempt.reason = f"it ran longer than its ToolTimeLimit of {timelimit} s"
        return int(process.returncode) or (-signal.SIGTERM if timed_out.is_set() else 0)

    def _begin(self, name: str, command: str, wanted: Resources) -> Attempt:
        try:
            facts = named_task(name, command, wanted.cores)
            attempt = self._tasks.begin_with_lease(facts, wanted, self._is_needed)
            attempt.note_command(command)
            return attempt
        except LeaseAbandoned as abandoned:
            error = import_module("cwltool.errors").WorkflowException
            raise error("not started, because another step has failed") from abandoned

    def _is_needed(self) -> bool:
        """Return whether a job may start: cwltool starts its created jobs even after a failure."""
        return self._keep_going or not self._failed

    def _spawn(self, attempt: Attempt, commands: list[str], options: Any) -> TaskProcess:
        try:
            process = partial(TaskProcess, commands)
            return start_when_possible(partial(self._tasks.spawn, attempt, process, options))
        except FileNotFoundError:
            attempt.process_ended(_NOT_FOUND, Usage(0.0, None))
            descriptor = attempt.open("stderr")
            os.write(descriptor, f"{commands[0]}: command not found\n".encode())
            os.close(descriptor)
            raise

    def _note_container(self, name: str, commands: list[str]) -> None:
        for word in commands:
            if word.startswith("--cidfile="):
                self._containers[name] = commands[0], Path(word.removeprefix("--cidfile="))

    def kill_containers(self) -> bool:
        """Kill the containers on cancel. A daemon runs them, so no process group has them.

        Returns False: the worker need not wait for cwltool.
        """
        for tool, file in list(self._containers.values()):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                container = file.read_text().strip()
                subprocess.run([tool, "kill", container], timeout=_KILL_SECONDS, check=False)
        return False


def _resources(resources: Mapping[str, float]) -> Resources:
    """Convert values of `select_resources`: cores may be fractions, `ram` is in MiB."""
    return Resources(
        cores=math.ceil(resources["cores"]),
        memory_mb=math.ceil(resources["ram"]),
        gpus=math.ceil(resources.get("cudaDeviceCount", 0)),
    )


def _lock(file: Any, kind: int) -> None:
    try:
        fcntl.flock(file.fileno(), kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CacheBusy from None


def _link_log(log: Path, attempt: Attempt) -> None:
    """Make a standard error file of the workflow the log of the task as well."""
    own = attempt.folder / "stderr"
    with contextlib.suppress(OSError):
        own.unlink()
        own.hardlink_to(log)


@contextlib.contextmanager
def _time_limit(process: TaskProcess, seconds: int | None) -> Iterator[threading.Event]:
    """Apply CWL's ToolTimeLimit: SIGTERM, and SIGKILL after a grace period.

    The event is set if the limit was reached.
    """
    timed_out, ended = threading.Event(), threading.Event()

    def watch() -> None:
        if ended.wait(seconds):
            return
        timed_out.set()
        send_group(process.pid, signal.SIGTERM)
        if not ended.wait(_GRACE_SECONDS):
            send_group(process.pid, signal.SIGKILL)

    if seconds:
        threading.Thread(target=watch, name="time limit", daemon=True).start()
    try:
        yield timed_out
    finally:
        ended.set()
