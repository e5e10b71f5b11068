"""Hooks into the internals of Snakemake, for the versions in TESTED.

They provide what Snakemake's logger events do not contain (docs/run-directory.md) and what its
command line cannot do. Contract tests are in tests/unit/engines/test_hooks.py and test_dry_run.py.
Other versions run without hooks (mode "cli"). Parts: `Watcher` (receives the notifications),
`install` and its hooks, conversion of jobs, log events, errors.
"""
# ruff: noqa: SLF001

import logging
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

from wesemu.engines.failures import deepest_frame
from wesemu.runs.model import Graph, PlannedTask, Resources, graph_of

TESTED = ((9, 27), (9, 28))
"""The first supported version, and the first unsupported one."""

INSTALLED = version("snakemake")
"""Read at import time, because engines must not block the running server."""

_SERVICE_SECONDS = 60
_GRACE_SECONDS = 5
GPU_RESOURCES = ("gpu", "gpus", "nvidia_gpu")
"""Resource names with which rules request GPUs."""

_INNER_COMMAND = ("cd", None, "&&", None, "-m", "snakemake")


def is_tested(release: str) -> bool:
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    return TESTED[0] <= numbers < TESTED[1]


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Snapshot of a job. Until the job is ready to run, the last four fields have their defaults.

    `works` is false for targets that only collect files. `command` is None without a shell
    command. `wanted` are the resources of the lease; None for local rules, which take no lease.
    `requested` are all resources by name.
    """

    jobid: int
    attempt: int
    rule: str
    wildcards: Mapping[str, str]
    outputs: tuple[str, ...]
    logs: tuple[str, ...]
    works: bool
    command: str | None = None
    threads: int | None = None
    wanted: Resources | None = None
    requested: Mapping[str, str] = field(default_factory=dict)


class Watcher(Protocol):
    """Receives notifications from the hooks, in several threads."""

    def scheduled(self, jobs: Iterable[JobFacts], stop: Callable[[], None]) -> None:
        """The jobs are planned. `stop` makes the scheduler start no more jobs."""
        ...

    def replanned(self, jobs: Iterable[JobFacts]) -> None:
        """Jobs may have been added by a checkpoint."""
        ...

    def entered(self, job: JobFacts) -> None:
        """The calling thread is about to run the job. Its later errors belong to the job."""
        ...

    def left(self, jobid: int) -> None:
        """The job of the calling thread has ended, successfully or not."""
        ...

    def group_entered(
        self, jobids: list[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        """A group of jobs that run at the same time (a pipe) is about to start."""
        ...

    def end_group(self, jobids: list[int]) -> None:
        """End the processes of a group, and start no more: readers of a pipe would hang."""
        ...

    def group_left(self, jobids: list[int]) -> None: ...

    def spawn(self, command: str, options: dict[str, Any]) -> "subprocess.Popen[Any]":
        """Start a shell command with Popen `options`."""
        ...

    def run_remotely(self, command: str) -> int | None:
        """Run a `run:` block on the cluster; return the exit status, or None for a local job."""
        ...

    def run_python(self, job: JobFacts, arguments: list[str], directory: str) -> int:
        """Run a `run:` block with Snakemake's command line; return the exit status."""
        ...

    def pause(self, seconds: float) -> bool:
        """Wait at most `seconds` for a group. Return False once the group or run is ended."""
        ...

    def failed(self, jobs: list[JobFacts], final: bool) -> None:
        """An attempt of a job, or of a group, failed; `final`: there is no retry."""
        ...

    def finished(self, jobid: int) -> None: ...

    def logged_error(self, message: str) -> None:
        """Snakemake logged an error about the job of the calling thread, or about the run."""
        ...


class ModuleProxy:
    """Replaces a module inside one other module, with some attributes changed."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def install(watcher: Watcher) -> None:
    """Install all hooks in this process. They cannot be removed."""
    keep_signals()
    _hook_shell(watcher)
    _hook_executor(watcher)
    _hook_groups(watcher)
    _hook_services(watcher)
    _hook_scheduler(watcher)


def keep_signals() -> None:
    """Disable the SIGTERM handler of Snakemake's scheduler.

    The handler takes a lock. If the interrupted code holds that lock, the process hangs and a
    cancel has no effect. The hook makes `signal.signal` a no-op in the module of the scheduler.
    """
    scheduling = import_module("snakemake.scheduling.job_scheduler")
    vars(scheduling)["signal"] = ModuleProxy(signal, signal=lambda number, handler: None)


def _hook_shell(watcher: Watcher) -> None:
    """Start the commands of jobs in `Watcher.spawn`.

    Snakemake's `shell` starts all commands of `shell:`, `script:`, notebooks and wrappers with
    `sp.Popen`. The hook replaces it so that each task has its own logs, process group, lease
    and resource usage. Snakemake offers no option for that.
    """
    shell = import_module("snakemake.script").shell  # `import snakemake.shell` is the class

    def popen(command: str, **options: Any) -> "subprocess.Popen[Any]":
        return watcher.spawn(command, options)

    module_globals(shell)["sp"] = ModuleProxy(subprocess, Popen=popen)


def module_globals(cls: Any) -> dict[str, Any]:
    """Return the namespace of the module that defines a class."""
    return vars(sys.modules[cls.__module__])


def _hook_executor(watcher: Watcher) -> None:
    """Notify the start and end of jobs, and run `run:` blocks in forked processes.

    The local executor calls `cached_or_run` in the thread of a job, where the hook can wait for
    a lease. Log events name no thread, and a handler must not block. `spawn_job` starts a
    new Snakemake for a `run:` block, which takes seconds. The run process forks one instead.
    """
    local = import_module("snakemake.executors.local")
    executor = local.Executor
    run, spawn = executor.cached_or_run, executor.spawn_job

    def cached_or_run(self: Any, job: Any, function: Any, *arguments: Any) -> None:
        watcher.entered(facts(job, ready=True))
        try:
            run(self, job, function, *arguments)
        finally:
            watcher.left(job.jobid)

    def spawn_job(self: Any, job: Any) -> None:
        if job.is_norun:  # a shadow directory without a command
            spawn(self, job)
            return
        command = self.format_job_exec(job)
        inner = inner_arguments(command)
        code = watcher.run_remotely(command)
        if code is None and inner is None:
            spawn(self, job)
            return
        if code is None and inner is not None:
            code = watcher.run_python(facts(job), inner[1], inner[0])
        if code != 0:
            raise local.SpawnedJobError()

    executor.cached_or_run, executor.spawn_job = cached_or_run, spawn_job
    # the executor polls the jobs of a pipe once a second, which is too slow for short tasks
    vars(local)["time"] = ModuleProxy(local.time, sleep=watcher.pause)


def _hook_groups(watcher: Watcher) -> None:
    """Take one lease for a group (the jobs of a pipe or service), and end all of a failed group.

    Snakemake runs each member in a thread. With a lease for each they could wait for each other.
    When one fails, Snakemake kills the others, but it misses members whose process starts later.
    The hook ends those as well and waits for all members.
    """
    executor = import_module("snakemake.executors.local").Executor
    together, single, group = executor.run_group_job, executor.run_single_job, threading.local()

    def run_single_job(self: Any, job: Any) -> Any:
        future = single(self, job)
        if (ended := getattr(group, "ended", None)) is not None:
            group.futures.append(future)
            future.add_done_callback(ended)
        return future

    def run_group_job(self: Any, job: Any) -> None:
        members = [member.jobid for member in job]
        watcher.group_entered(members, wanted(job, list(job)), requested(job))
        group.futures = []

        def ended(future: Future[Any]) -> None:
            if not future.cancelled() and future.exception() is not None:
                watcher.end_group(members)

        group.ended = ended
        try:
            together(self, job)
        except BaseException:
            watcher.end_group(members)
            raise
        finally:
            _await_members(group.futures, lambda: watcher.end_group(members))
            group.ended = None
            watcher.group_left(members)

    executor.run_group_job, executor.run_single_job = run_group_job, run_single_job


def _await_members(futures: list[Future[Any]], end: Callable[[], None]) -> None:
    """Wait for all members of a group. After a grace period, end the rest: unused services."""
    for future in futures:
        future.cancel()
    if wait(futures, _GRACE_SECONDS).not_done:
        end()
        wait(futures)


def inner_arguments(command: str) -> tuple[str, list[str]] | None:
    """Return directory and arguments of the Snakemake command of a `run:` job.

    None for other commands (a precommand). Ignores exported variables (`envvars:`): the forked
    process has the environment of this one.
    """
    argv = shlex.split(command)
    if argv[3:4] == ["export"] and "&&" in argv[3:]:
        del argv[3 : argv.index("&&", 3) + 1]
    shape = tuple(zip(_INNER_COMMAND, argv, strict=False))
    if "&&" in argv[3:] or any(word != expected for expected, word in shape if expected):
        return None
    return argv[1], argv[len(_INNER_COMMAND) :]


def _hook_services(watcher: Watcher) -> None:
    """Wait for the files of services.

    Runs on this machine have `latency_wait` 0, since files appear at once. Snakemake uses the same
    limit for the file of a `service()`, which appears some time after the start of the service.
    """
    jobs = import_module("snakemake.jobs")
    wait = jobs.wait_for_files

    async def wait_for_files(files: Iterable[Any], **options: Any) -> None:
        _await_services(options.get("consider_local", ()), watcher)
        await wait(files, **options)

    vars(jobs)["wait_for_files"] = wait_for_files


def _await_services(paths: Iterable[str], watcher: Watcher) -> None:
    """Wait until the files exist; pipes exist from the start."""
    deadline = time.monotonic() + _SERVICE_SECONDS
    while not all(Path(path).exists() for path in paths) and watcher.pause(1):
        if time.monotonic() > deadline:
            return


def _hook_scheduler(watcher: Watcher) -> None:
    """Notify the plan and failed attempts.

    Snakemake creates the scheduler when the DAG is complete; log events name only jobs that start.
    `_handle_error` decides about a retry, and no event says whether a failure is final.
    """
    scheduler = import_module("snakemake.scheduling.job_scheduler").JobScheduler
    initialize, handle = scheduler.__init__, scheduler._handle_error

    def initialized(self: Any, workflow: Any, *arguments: Any, **options: Any) -> None:
        initialize(self, workflow, *arguments, **options)
        watcher.scheduled(planned(workflow.dag), lambda: _stop(self))

    def handled(self: Any, job: Any, **options: Any) -> None:
        members = [facts(single) for single in (job if job.is_group() else [job])]
        handle(self, job, **options)
        watcher.failed(members, final=job in self.failed)

    scheduler.__init__, scheduler._handle_error = initialized, handled


def on_plan(callback: Callable[[Any], None]) -> None:
    """Call `callback` with the complete DAG before the scheduler starts (dry runs).

    The public interface prints the plan of a dry run but does not return it.
    """
    scheduler = import_module("snakemake.scheduling.job_scheduler").JobScheduler
    initialize = scheduler.__init__

    def initialized(self: Any, workflow: Any, *arguments: Any, **options: Any) -> None:
        callback(workflow.dag)
        initialize(self, workflow, *arguments, **options)

    scheduler.__init__ = initialized


def _stop(scheduler: Any) -> None:
    # what Snakemake's SIGTERM handler does, but outside of a signal handler (`keep_signals`)
    with scheduler._lock:
        scheduler._user_kill = "graceful"
    scheduler._open_jobs.release()


def planned(dag: Any) -> list[JobFacts]:
    """Return the jobs that need to run."""
    return [facts(job) for job in dag.needrun_jobs()]


def facts(job: Any, *, ready: bool = False) -> JobFacts:
    """Return a snapshot of a job. `ready`: its inputs exist, so its command can be formatted."""
    return JobFacts(
        jobid=job.jobid,
        attempt=job.attempt,
        rule=job.rule.name,
        wildcards={name: str(value) for name, value in job.wildcards_dict.items()},
        outputs=tuple(str(output) for output in job.output),
        logs=tuple(str(log) for log in job.log),
        works=not job.is_norun,
        command=job.shellcmd if ready and job.is_shell else None,
        threads=job.threads if ready else None,
        wanted=wanted(job, [job]) if ready else None,
        requested=requested(job) if ready else {},
    )


def graph(dag: Any) -> Graph:
    """Return the graph of the jobs that would run, without targets that only collect files."""
    needed = {job for job in dag.needrun_jobs() if not job.is_norun}
    ordered = [
        job
        for level in dag.toposorted(needed)
        for job in sorted(level, key=lambda job: int(job.jobid))
    ]
    tasks = [_planned_task(job, dag.dependencies[job], needed) for job in ordered]
    return graph_of(tasks, complete=not any(job.is_checkpoint for job in needed))


def _planned_task(job: Any, dependencies: Iterable[Any], needed: set[Any]) -> PlannedTask:
    return PlannedTask(
        id=str(job.jobid),
        name=job.rule.name,
        wildcards={name: str(value) for name, value in job.wildcards_dict.items()},
        threads=_whole(job.threads) or None,
        inputs=tuple(str(path) for path in job.input),
        outputs=tuple(str(path) for path in job.output),
        after=tuple(sorted((str(one.jobid) for one in dependencies if one in needed), key=int)),
    )


def wanted(job: Any, members: list[Any]) -> Resources | None:
    """Return the resources of a job or a group of `members`; None if all rules are local."""
    if all(_is_local(member.rule) for member in members):
        return None
    resources = dict(job.resources.items())
    return Resources(
        cores=_whole(resources.get("_cores")),
        memory_mb=_whole(resources.get("mem_mb")),
        gpus=max(_whole(resources.get(name)) for name in GPU_RESOURCES),
    )


def requested(job: Any) -> dict[str, str]:
    """Return the resources of a job or group as strings."""
    return {
        name: str(value)
        for name, value in job.resources.items()
        if isinstance(value, int | str) and not name.startswith("_")
    }


def _is_local(rule: Any) -> bool:
    """Return whether a remote executor would run the rule locally.

    Snakemake's `is_local` is true for every rule of a local executor.
    """
    ours = rule.name in rule.workflow._localrules or rule.norun or rule.is_template_engine
    return ours and rule.group is None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def final_outputs(dag: Any, *, only_made: bool = False) -> list[str]:
    """Return outputs that no other job consumes, and those that targets request.

    Without temporary files, pipes and logs. `only_made`: only outputs of successful jobs.
    """
    flagged = import_module("snakemake.io").is_flagged
    made, consumed, wanted = dict[str, None](), set[str](), set[str]()
    for job in dag.jobs:
        inputs = {str(path) for path in job.input}
        (wanted if job.is_norun else consumed).update(inputs)
        if only_made and dag.needrun(job) and not dag.finished(job):
            continue
        for path in job.output:
            if not any(flagged(path, flag) for flag in ("temp", "pipe", "service")):
                made[str(path)] = None
    return [path for path in made if path in wanted or path not in consumed]


class EventHandler(logging.Handler):
    """Handles Snakemake's log events in the thread that logs them.

    The handler of a logger plugin gets them later, through a queue.
    """

    def __init__(self, watcher: Watcher, dag: Callable[[], Any]) -> None:
        super().__init__()
        self._watcher = watcher
        self._dag = dag
        self._checkpoints = set[int]()
        self._grown = False

    def emit(self, record: logging.LogRecord) -> None:
        members = vars(record)
        match str(members.get("event", "")):
            case "job_info" if members["is_checkpoint"]:
                self._checkpoints.add(members["jobid"])
            case "job_started" if self._grown:
                self._grown = False
                self._watcher.replanned(planned(self._dag()))
            case "job_finished":
                self._grown |= members["job_id"] in self._checkpoints
                self._watcher.finished(members["job_id"])
            case "error":
                self._watcher.logged_error(record.getMessage())


def workflow_of(planning: Any) -> Any:
    """Return the workflow of a WorkflowApi; parses the Snakefile if necessary."""
    return planning._workflow


def origin(planning: Any, error: BaseException) -> tuple[str | None, int | None]:
    """Return file and line of the Snakefile that caused an error, if known."""
    workflow = getattr(planning, "_workflow_store", None)
    linemaps: Mapping[str, Mapping[int, int]] = workflow.linemaps if workflow else {}
    file, line = getattr(error, "snakefile", None), getattr(error, "lineno", None)
    file = file or (getattr(error, "filename", None) if line else None)
    if isinstance(error, SyntaxError) and error.text is None:
        # Snakemake's parser raised it; the tokenizer error in its context has the exact line
        cause = error.__context__
        line = cause.args[1][0] if isinstance(cause, TokenError) else error.lineno
        return error.filename, line
    if line is None:
        file, line = deepest_frame(error, set(linemaps)) or (None, None)
    if file is None or line is None:
        return None, None
    return str(file), linemaps.get(str(file), {}).get(line, line)
