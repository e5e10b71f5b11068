"""All that reaches into Snakemake's internals, for the versions in TESTED.

Everything here is for what Snakemake's logger events do not tell (docs/run-directory.md) or what
its command line cannot do. Each hook has its contract test in tests/unit/engines/test_hooks.py, or
in test_rehearsal.py beside it; a version outside TESTED gets none of them (mode "cli").
"""
# ruff: noqa: SLF001

import contextlib
import logging
import platform
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

import yaml

from wesemu.engines.failures import deepest_frame
from wesemu.runs.model import Graph, PlannedTask, Resources, graph_of

TESTED = ((9, 27), (9, 28))
"""From the first version on, below the second one."""

INSTALLED = version("snakemake")
"""Looked up when this is imported, because no engine may block once the server runs."""

_SERVICE_SECONDS = 60
_GRACE_SECONDS = 5
GPU_RESOURCES = ("gpu", "gpus", "nvidia_gpu")
"""The names under which rules ask for GPUs."""

_INNER_COMMAND = ("cd", None, "&&", None, "-m", "snakemake")


def is_tested(release: str) -> bool:
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    return TESTED[0] <= numbers < TESTED[1]


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job at the moment. `command` is None before the job is ready to run and
    where it is no shell command; `works` is false for targets that only collect. `wanted` is what
    its lease is for, once it is ready; None for local rules, which take none. `requested` are all
    its resources by name, once it is ready."""

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
    """Who is told what happens inside Snakemake, from several threads."""

    def scheduled(self, jobs: Iterable[JobFacts], stop: Callable[[], None]) -> None:
        """The jobs are planned; `stop` makes the scheduler start no more."""
        ...

    def replanned(self, jobs: Iterable[JobFacts]) -> None:
        """More jobs may have come up (checkpoints)."""
        ...

    def entered(self, job: JobFacts) -> None:
        """The calling thread is about to run the job, and will report its errors."""
        ...

    def left(self, jobid: int) -> None:
        """The job that the calling thread has entered has run, well or not."""
        ...

    def group_entered(
        self, jobids: list[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        """Jobs that run together, as those of a pipe, are about to be entered."""
        ...

    def end_group(self, jobids: list[int]) -> None:
        """End the processes of jobs that run together, and let them start no others: a reader of
        a pipe whose writer has failed would wait for ever."""
        ...

    def group_left(self, jobids: list[int]) -> None: ...

    def spawn(self, command: str, options: dict[str, Any]) -> "subprocess.Popen[Any]":
        """Start a shell command; `options` are those of Popen."""
        ...

    def run_remotely(self, command: str) -> int | None:
        """Run the command that stands for the `run:` block of the thread's job, and return its
        exit status; None if that job runs on this machine."""
        ...

    def run_python(self, job: JobFacts, arguments: list[str], directory: str) -> int:
        """Run the job of a `run:` block by Snakemake's command line; returns its exit status."""
        ...

    def pause(self, seconds: float) -> bool:
        """Wait at most so long for tasks that run together; false once they, or the run, are
        ended."""
        ...

    def failed(self, jobs: list[JobFacts], final: bool) -> None:
        """An attempt at jobs that run together (mostly one) failed; the last if `final`."""
        ...

    def finished(self, jobid: int) -> None: ...

    def logged_error(self, message: str) -> None:
        """Snakemake prints an error, of the calling thread's job where it has one."""
        ...


class _ModuleProxy:
    """Stands for a module inside another one, with some names replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def install(watcher: Watcher) -> None:
    """Set all hooks in this process, for good."""
    keep_signals()
    _hook_shell(watcher)
    _hook_executor(watcher)
    _hook_groups(watcher)
    _hook_services(watcher)
    _hook_scheduler(watcher)


def keep_signals() -> None:
    """Let the scheduler leave SIGTERM alone: its handler takes a lock that the interrupted code
    may hold, and then neither tools nor Snakemake end."""
    scheduling = import_module("snakemake.scheduling.job_scheduler")
    vars(scheduling)["signal"] = _ModuleProxy(signal, signal=lambda number, handler: None)


def _hook_shell(watcher: Watcher) -> None:
    """`shell:`, `script:`, notebooks and wrappers all start their commands here."""
    shell = import_module("snakemake.script").shell  # `import snakemake.shell` is the class

    def popen(command: str, **options: Any) -> "subprocess.Popen[Any]":
        return watcher.spawn(command, options)

    module_globals(shell)["sp"] = _ModuleProxy(subprocess, Popen=popen)


def module_globals(cls: Any) -> dict[str, Any]:
    """The namespace of the module that defines a class."""
    return vars(sys.modules[cls.__module__])


def _hook_executor(watcher: Watcher) -> None:
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
        if job.is_norun:  # a shadow directory for nothing but `touch()`
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
    vars(local)["time"] = _ModuleProxy(local.time, sleep=watcher.pause)


def _hook_groups(watcher: Watcher) -> None:
    executor = import_module("snakemake.executors.local").Executor
    together, single, group = executor.run_group_job, executor.run_single_job, threading.local()

    def run_single_job(self: Any, job: Any) -> Any:
        future = single(self, job)
        if (ended := getattr(group, "ended", None)) is not None:
            group.futures.append(future)
            future.add_done_callback(ended)
        return future

    def run_group_job(self: Any, job: Any) -> None:
        """Snakemake kills the other members when one fails, but misses those that have not
        started their process yet. They are ended whenever they start, and waited for."""
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
    """Wait for all members of a group. Those that still run have failed, or they are services
    that nobody needs."""
    for future in futures:
        future.cancel()
    if wait(futures, _GRACE_SECONDS).not_done:
        end()
        wait(futures)


def inner_arguments(command: str) -> tuple[str, list[str]] | None:
    """Directory and arguments of the Snakemake that a `run:` job is handed to; None for a
    command of another shape (a precommand). What is exported (`envvars:`) is this process's own
    environment, which that Snakemake has anyway."""
    words = shlex.split(command)
    if words[3:4] == ["export"] and "&&" in words[3:]:
        del words[3 : words.index("&&", 3) + 1]
    shape = tuple(zip(_INNER_COMMAND, words, strict=False))
    if "&&" in words[3:] or any(word != expected for expected, word in shape if expected):
        return None
    return words[1], words[len(_INNER_COMMAND) :]


def _hook_services(watcher: Watcher) -> None:
    """Who uses a service waits for its file, though no other file is waited for (latency_wait)."""
    jobs = import_module("snakemake.jobs")
    wait = jobs.wait_for_files

    async def wait_for_files(files: Iterable[Any], **options: Any) -> None:
        _await_services(options.get("consider_local", ()), watcher)
        await wait(files, **options)

    vars(jobs)["wait_for_files"] = wait_for_files


def _await_services(paths: Iterable[str], watcher: Watcher) -> None:
    """Those of pipes are there already."""
    deadline = time.monotonic() + _SERVICE_SECONDS
    while not all(Path(path).exists() for path in paths) and watcher.pause(1):
        if time.monotonic() > deadline:
            return


def _hook_scheduler(watcher: Watcher) -> None:
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


def on_plan(tell: Callable[[Any], None]) -> None:
    """Have `tell` called with the DAG once it is planned and before anything of it is run."""
    scheduler = import_module("snakemake.scheduling.job_scheduler").JobScheduler
    initialize = scheduler.__init__

    def initialized(self: Any, workflow: Any, *arguments: Any, **options: Any) -> None:
        tell(workflow.dag)
        initialize(self, workflow, *arguments, **options)

    scheduler.__init__ = initialized


def _stop(scheduler: Any) -> None:
    with scheduler._lock:
        scheduler._user_kill = "graceful"
    scheduler._open_jobs.release()


def planned(dag: Any) -> list[JobFacts]:
    """The jobs that are still to be run."""
    return [facts(job) for job in dag.needrun_jobs()]


def facts(job: Any, *, ready: bool = False) -> JobFacts:
    """`ready`: the job's inputs are there, so that its command can be told."""
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
    """The jobs that would be run; targets that only collect are left out."""
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
    """What a job, or a group of `members`, uses while it runs; None where all rules are local."""
    if all(_is_local(member.rule) for member in members):
        return None
    resources = dict(job.resources.items())
    return Resources(
        cores=_whole(resources.get("_cores")),
        memory_mb=_whole(resources.get("mem_mb")),
        gpus=max(_whole(resources.get(name)) for name in GPU_RESOURCES),
    )


def requested(job: Any) -> dict[str, str]:
    """The resources of a job or group as words."""
    return {
        name: str(value)
        for name, value in job.resources.items()
        if isinstance(value, int | str) and not name.startswith("_")
    }


def _is_local(rule: Any) -> bool:
    """As with remote executors; Snakemake's own `is_local` calls every rule of this machine so."""
    ours = rule.name in rule.workflow._localrules or rule.norun or rule.is_template_engine
    return ours and rule.group is None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def final_outputs(dag: Any, *, only_made: bool = False) -> list[str]:
    """The files that no other job consumed, and those that the targets ask for; temporary ones,
    pipes and logs left out. With `only_made`, those of jobs that have ended well."""
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
    """Hears Snakemake's log events at once (a plugin's handler would through a queue)."""

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
    """The workflow of a WorkflowApi; parses the Snakefile where nobody has yet."""
    return planning._workflow


def origin(planning: Any, error: BaseException) -> tuple[str | None, int | None]:
    """The file and the line of the Snakefile that an error stems from, where it tells."""
    workflow = getattr(planning, "_workflow_store", None)
    linemaps: Mapping[str, Mapping[int, int]] = workflow.linemaps if workflow else {}
    file, line = getattr(error, "snakefile", None), getattr(error, "lineno", None)
    file = file or (getattr(error, "filename", None) if line else None)
    if isinstance(error, SyntaxError) and error.text is None:
        # from Snakemake's parser, which sees the source; Python's own tokenizer knows better where
        cause = error.__context__
        line = cause.args[1][0] if isinstance(cause, TokenError) else error.lineno
        return error.filename, line
    if line is None:
        file, line = deepest_frame(error, set(linemaps)) or (None, None)
    if file is None or line is None:
        return None, None
    return str(file), linemaps.get(str(file), {}).get(line, line)


def load() -> None:
    """Import what a run imports, and look up what is the same for every run: the plugins, and the
    processor's name, which Snakemake asks a program for."""
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):  # at worst, the run imports something else itself
            import_module(name)
    for kind in ("executor", "storage", "scheduler", "logger"):
        registry = import_module(f"snakemake_interface_{kind}_plugins.registry")
        vars(registry)[f"{kind.capitalize()}PluginRegistry"]()
    platform.processor()
    _read_yaml_by_libyaml()


def _read_yaml_by_libyaml() -> None:
    """Schemas and configurations; the parser in Python takes longer than to plan a workflow."""
    if hasattr(yaml, "CFullLoader"):
        vars(import_module("yte"))["yaml"] = _ModuleProxy(yaml, load=load_yaml)


def load_yaml(stream: Any, Loader: Any) -> Any:  # noqa: N803  # as yaml.load names it
    """What PyYAML's own parser reads, and in its words where it refuses: libyaml takes tabs
    otherwise, and refuses what that one reads."""
    text = stream if isinstance(stream, str) else stream.read()
    if "\t" not in text:
        with contextlib.suppress(yaml.YAMLError):
            return yaml.load(text, yaml.CFullLoader)  # noqa: S506  # what yte takes, in C
    if not isinstance(stream, str):
        stream.seek(0)
    return yaml.load(stream, Loader)  # noqa: S506  # the caller's choice


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
