"""Executor plugins for Snakemake, registered by its public interface: for runs and for dry runs.

A run uses Snakemake's local executor, which also notifies the `Watcher`. Log events do not contain
enough (docs/run-directory.md), and their handlers must not block. A dry run uses Snakemake's own
executor for dry runs, which also returns the plan. Contract tests are in
tests/unit/engines/test_hooks.py and test_dry_run.py. The server never imports this module, because
it imports Snakemake.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, as_completed, wait
from typing import Any, ClassVar

import snakemake.api  # noqa: F401  # the other modules cannot be imported before it
from snakemake.executors import dryrun, local
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from wesemu.engines.snakemake.hooks import (
    ModuleProxy,
    Watcher,
    facts,
    inner_arguments,
    planned,
    requested,
    wanted,
)

_TICK_SECONDS = 0.01
_GRACE_SECONDS = 5


def register(watcher: Watcher) -> str:
    """Register `TaskExecutor`; return its name for `execute_workflow`.

    A process can do this once, because Snakemake's registry is global.
    """
    return _register("wesemu", local, TaskExecutor, watcher=watcher)


def register_planner(callback: Callable[[Any], None]) -> str:
    """Register an executor for dry runs that calls `callback` with the complete DAG."""
    return _register("wesemu-plan", dryrun, DryRunExecutor, callback=staticmethod(callback))


def _register(name: str, base: Any, executor: type, **attributes: Any) -> str:
    """Register a subclass of the executor of a module that is a plugin itself."""
    plugin = ModuleProxy(base, Executor=type(executor.__name__, (executor,), attributes))
    ExecutorPluginRegistry().register_plugin(name, plugin)
    return name


class DryRunExecutor(dryrun.Executor):  # type: ignore[misc]
    """Simulates all jobs. `register_planner` sets `callback`."""

    callback: ClassVar[Callable[[Any], None]]

    def __init__(self, workflow: Any, logger: Any) -> None:
        super().__init__(workflow, logger)
        type(self).callback(self.dag)


class TaskExecutor(local.Executor):  # type: ignore[misc]
    """Runs jobs as Snakemake's local executor does, and notifies the watcher.

    `register` sets `watcher`. Each job and each group has its own thread, which waits for the
    lease.
    """

    watcher: ClassVar[Watcher]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._grown = False
        # Snakemake builds its executor after planning, so the DAG is complete here.
        self.watcher.scheduled(planned(self.dag), self._stop)

    def _stop(self) -> None:
        """Start no more jobs, as Snakemake does on SIGTERM (see `hooks.keep_signals`)."""
        while self.workflow.scheduler is None:  # its constructor calls the one of the executor
            time.sleep(_TICK_SECONDS)
        self.workflow.scheduler.exit_gracefully()

    def run_jobs(self, jobs: list[Any]) -> None:
        """Start jobs. Before the first ones after a checkpoint, notify the new plan."""
        if self._grown:
            self._grown = False
            self.watcher.replanned(planned(self.dag))
        super().run_jobs(jobs)

    def cached_or_run(self, job: Any, function: Any, *arguments: Any) -> None:
        """Run a job in its thread, between the notifications of its start and its end."""
        self.watcher.entered(facts(job, ready=True))
        try:
            super().cached_or_run(job, function, *arguments)
        finally:
            self.watcher.left(job.jobid)

    def spawn_job(self, job: Any) -> None:
        """Run a `run:` block in a fork of the run process.

        The local executor starts a new Snakemake, which takes seconds.
        """
        if job.is_norun:  # a shadow directory without a command
            super().spawn_job(job)
            return
        command = self.format_job_exec(job)
        inner = inner_arguments(command)
        code = self.watcher.run_remotely(command)
        if code is None and inner is None:
            super().spawn_job(job)
            return
        if code is None and inner is not None:
            code = self.watcher.run_python(facts(job), inner[1], inner[0])
        if code != 0:
            raise local.SpawnedJobError

    def run_group_job(self, job: Any) -> None:
        """Run the jobs of a pipe or service with one lease; end all if one fails.

        With a lease for each they could wait for each other. The local executor also polls them
        only once a second, and it kills only processes that exist: it misses those of members
        that start later.
        """
        members = [member.jobid for member in job]

        def end() -> None:
            self.watcher.end_group(members)

        self.watcher.group_entered(members, wanted(job, list(job)), requested(job))
        futures = list[Future[Any]]()
        try:
            self._run_members(job, futures, end)
        except BaseException:
            end()
            raise
        finally:
            _await_members(futures, end)
            self.watcher.group_left(members)

    def _run_members(self, group: Any, futures: list[Future[Any]], end: Callable[[], None]) -> None:
        """Start the members and add their futures; return when only services are left."""

        def ended(future: Future[Any]) -> None:
            if not future.cancelled() and future.exception() is not None:
                end()

        services = [member for member in group if member.is_service]
        others = [member for member in group if not member.is_service]
        for member in services + others:
            future = self.run_single_job(member)
            futures.append(future)
            future.add_done_callback(ended)
        for future in as_completed(futures[len(services) :]):
            future.result()
        for service in services:
            local.shell.terminate(service.jobid)

    def handle_job_success(self, job: Any) -> None:
        super().handle_job_success(job)
        for member in _members(job):
            self.watcher.finished(member.jobid)
        self._grown |= job.is_checkpoint

    def handle_job_error(self, job: Any) -> None:
        """Notify a failed attempt. After this call, the scheduler decides about a retry."""
        super().handle_job_error(job)
        final = job.restart_times < job.attempt
        self.watcher.failed([facts(member) for member in _members(job)], final=final)


def _members(job: Any) -> Iterable[Any]:
    return job if job.is_group() else [job]


def _await_members(futures: list[Future[Any]], end: Callable[[], None]) -> None:
    """Wait for all members of a group. After a grace period, end the rest: unused services."""
    for future in futures:
        future.cancel()
    if wait(futures, _GRACE_SECONDS).not_done:
        end()
        wait(futures)
