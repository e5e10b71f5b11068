"""Hooks into the internals of Snakemake, for the versions in TESTED.

They do what an executor plugin (`executor_plugin`) cannot do. Contract tests are in
tests/unit/engines/test_hooks.py. Other versions run without hooks and plugin (mode "cli").
Parts: `Watcher` (receives the notifications of hooks and plugin), `install` and its hooks,
conversion of jobs, log events, errors.
"""
# ruff: noqa: SLF001

import logging
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

from wesemu.engines.failures import deepest_frame
from wesemu.runs.model import DETAIL_PATHS, Graph, PlannedTask, Resources, graph_of

TESTED = ((9, 27), (9, 28))
"""The first supported version, and the first unsupported one."""

INSTALLED = version("snakemake")
"""Read at import time, because engines must not block the running server."""

_SERVICE_SECONDS = 60
_LATER_SECONDS = 0.001
GPU_RESOURCES = ("gpu", "gpus", "nvidia_gpu")
"""Resource names with which rules request GPUs."""

_INNER_COMMAND = ("cd", None, "&&", None, "-m", "snakemake")
"""The start of the command of a `run:` job: directory and interpreter are None."""


def is_tested(release: str) -> bool:
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    return TESTED[0] <= numbers < TESTED[1]


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Snapshot of a job.

    Until the job is ready to run, `command`, `threads`, `wanted`, `requested` and `inputs` have
    their defaults.

    `works` is false for targets that only collect files. `command` is None without a shell
    command. `wanted` are the resources of the lease; None for local rules, which take no lease.
    `requested` are all resources by name. `after` are the jobs whose outputs it needs.
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
    inputs: tuple[str, ...] = ()
    after: tuple[int, ...] = ()


class Watcher(Protocol):
    """Receives notifications from the executor and the hooks, in several threads."""

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
        """Wait at most `seconds`. Return False once the thread's group or the run is ended."""
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
    _hook_services(watcher)
    accept_times_of_inputs()


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


def keep_signals() -> None:
    """Disable the SIGTERM handler of Snakemake's scheduler.

    The handler takes a lock. If the interrupted code holds that lock, the process hangs and a
    cancel has no effect. The hook makes `signal.signal` a no-op in the module of the scheduler.
    """
    scheduling = import_module("snakemake.scheduling.job_scheduler")
    vars(scheduling)["signal"] = ModuleProxy(signal, signal=lambda number, handler: None)


def _hook_shell(watcher: Watcher) -> None:
    """Start the commands of jobs with `Watcher.spawn` instead of `sp.Popen`.

    Snakemake's `shell` starts all commands of `shell:`, `script:`, notebooks and wrappers with
    `sp.Popen`. With this hook each task has its own logs, process group, lease and resource usage.
    Snakemake has no option for that.
    """
    shell = import_module("snakemake.script").shell  # `import snakemake.shell` is the class

    def popen(command: str, **options: Any) -> "subprocess.Popen[Any]":
        return watcher.spawn(command, options)

    module_globals(shell)["sp"] = ModuleProxy(subprocess, Popen=popen)


def module_globals(cls: Any) -> dict[str, Any]:
    """Return the namespace of the module that defines a class."""
    return vars(sys.modules[cls.__module__])


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


def accept_times_of_inputs() -> None:
    """Give an output that is older than an input of its job a time after that of the input.

    An input can have a time in the future: another machine wrote it, or the clock was set back
    since. Snakemake refuses the outputs then, after the job, and would run the job again.
    """

    async def check_output_mtime(dag: Any, job: Any, outputs: Iterable[Any]) -> None:
        inputs = [await _modified(path) for path in job.input if await path.exists_local()]
        newest = max(inputs, default=0.0)
        for output in outputs:
            if await output.exists_local() and await _modified(output) < newest:
                output.touch((newest + _LATER_SECONDS, newest + _LATER_SECONDS))

    import_module("snakemake.dag").DAG.check_output_mtime = check_output_mtime


async def _modified(path: Any) -> float:
    modified = await path.mtime_uncached(skip_storage=True)
    return float(modified.local())


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
        inputs=tuple(map(str, islice(job.input, DETAIL_PATHS))) if ready else (),
        after=tuple(sorted(one.jobid for one in job.dag.dependencies[job])),
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
    """Return the outputs that no other job reads, and those that targets request.

    Leaves out temporary files, pipes and logs. `only_made`: only outputs of successful jobs.
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


class ErrorHandler(logging.Handler):
    """Handles the errors that Snakemake logs, in the thread that logs them.

    The handler of a logger plugin gets them later, through a queue.
    """

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher

    def emit(self, record: logging.LogRecord) -> None:
        if str(vars(record).get("event", "")) == "error":
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
