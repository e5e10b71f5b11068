"""Supervisor: prepares, launches, follows and publishes one run and records its end.

It also resumes runs that an earlier server started.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from wesemu.errors import (
    EngineFault,
    FaultInjected,
    IndexLocked,
    RunNotFound,
    TransitionRefused,
    WesemuError,
)
from wesemu.runs import serialization
from wesemu.runs.clock import Clock
from wesemu.runs.disk_full import check_room, out_of_files, retry_index
from wesemu.runs.model import Run, RunFailure, RunId, RunState
from wesemu.runs.notifications import RunNotifier, TagWriteBehind, TaskWriteBehind
from wesemu.runs.outcome import (
    FailAtTask,
    cancel_open_tasks,
    cause,
    count_crash,
    fault,
    real_seconds,
    refused_outputs,
    unpublished_notes,
)
from wesemu.runs.ports import (
    Engine,
    EngineError,
    Execution,
    Launched,
    LaunchRequest,
    Outcome,
    Plan,
    Planner,
    Progress,
    ProgressCallback,
    Publication,
    Publisher,
    QueuePriority,
    RunStarted,
    TaskChanged,
)
from wesemu.runs.publishing import LocalPublisher
from wesemu.runs.run_directory import Workspace, write_json
from wesemu.runs.run_figures import due
from wesemu.runs.serialization import read_plan, write_end
from wesemu.runs.service import RunLimits
from wesemu.runs.store import RunStore
from wesemu.util.cancellation import finish_in_thread

_T = TypeVar("_T")

_RESUMES = 1
"""How often one server launches a run again after its process vanished."""

_RESUME_PAUSE_SECONDS = 1.0

_END_COLUMNS = (
    *("ended", "exit_code", "outputs", "counts", "failure", "tags", "facts", "real_seconds"),
)

log = structlog.get_logger("wesemu.supervisor")


class Supervisor:
    """Executes runs from INITIALIZING to a terminal state: one `drive` per run.

    `clock` is the emulated clock, which sets the end of a run; `wall` sets the times of its tasks.
    Tasks take leases in the folder `leases`; without a folder they start at once. `declare_leases`
    is called before each launch and creates the folder again if it is missing.
    """

    def __init__(
        self,
        store: RunStore,
        planner: Planner,
        engines: Mapping[str, Engine],
        changes: RunNotifier,
        *,
        runs: Path,
        clock: Clock,
        wall: Clock,
        keep_runs: bool = False,
        leases: Path | None = None,
        declare_leases: Callable[[], None] = lambda: None,
        publisher: Publisher | None = None,
        limits: RunLimits | None = None,
    ) -> None:
        self._store = store
        self._publisher = publisher or LocalPublisher()
        self._planner = planner
        self._limits = limits or RunLimits()
        self._engines = engines
        self._changes = changes
        self._runs = runs
        self._clock = clock
        self._wall = wall
        self._keep_runs = keep_runs
        self._leases = leases
        self._declare_leases = declare_leases
        self._executions: dict[RunId, Execution] = {}
        self._cancellable: dict[RunId, asyncio.Task[Any]] = {}
        self._cancels: set[asyncio.Task[None]] = set()

    async def drive(self, run: Run, free_slot: Callable[[], None]) -> None:
        """Execute `run` to a terminal state. Raises only CancelledError (at shutdown).

        `free_slot` is called when the tools of the run have ended.
        """
        try:
            await self._drive_with_resumes(run, free_slot)
        except asyncio.CancelledError:  # the server stops; the next one resumes the run
            execution = self._executions.get(run.id)
            if execution is not None and not self._keep_runs:
                await execution.cancel()
            raise
        except TransitionRefused:  # the run became CANCELING while a step was in progress
            await retry_index(partial(self._end_canceled, run.id))
        except Exception as error:
            await self._end_execution(run.id)
            with suppress(RunNotFound):  # it was removed meanwhile
                await retry_index(partial(self._end_failed, run, error))
        finally:
            self._executions.pop(run.id, None)
            self._changes.notify(run.id)

    async def _end_execution(self, run_id: RunId) -> None:
        """End the tools of a run that an error ends: they must not outlive it. Raises nothing."""
        if (execution := self._executions.get(run_id)) is not None:
            try:
                await execution.cancel()
            except Exception:
                log.exception("ending the tools of a run failed", run_id=run_id)

    def cancel(self, run_id: RunId) -> None:
        """Start to end the tools of a run that is now CANCELING; `drive` then ends the run."""
        if (work := self._cancellable.get(run_id)) is not None:
            work.cancel()
        if (execution := self._executions.get(run_id)) is not None:
            cancel = asyncio.create_task(execution.cancel(), name=f"cancel {run_id}")
            self._cancels.add(cancel)  # asyncio keeps only weak references to tasks
            cancel.add_done_callback(self._cancels.discard)

    async def _drive_with_resumes(self, run: Run, free_slot: Callable[[], None]) -> None:
        """Drive the run; without file descriptors, threads or a free index, wait and resume it.

        Resuming works as after a restart of the server, so the run loses nothing.
        """
        while True:
            try:
                return await self._drive_once(run, free_slot)
            except TransitionRefused:
                raise
            except Exception as error:
                lack = error if isinstance(error, IndexLocked) else out_of_files(error)
                if lack is None:
                    raise
                log.error("run waits", run_id=run.id, reason=lack.message)
            self._executions.pop(run.id, None)
            await asyncio.sleep(_RESUME_PAUSE_SECONDS)
            run = await retry_index(partial(self._store.get, run.id))

    async def _drive_once(self, run: Run, free_slot: Callable[[], None]) -> None:
        workspace = Workspace(self._runs / run.id)
        plan = await asyncio.to_thread(read_plan, workspace)
        engine = self._engines.get(plan.engine)
        if engine is None:
            raise EngineFault(f"this server no longer has the engine {plan.engine!r}")
        run, outcome, failures = await self._execute(run, engine, workspace)
        self._executions.pop(run.id, None)
        free_slot()
        await self._finish(run, workspace, plan, outcome, failures)

    async def _execute(
        self, run: Run, engine: Engine, workspace: Workspace
    ) -> tuple[Run, Outcome, list[RunFailure]]:
        """Launch the run, or attach to the launch of an earlier server, and wait for its end.

        If a signal ended the run process, the run is launched again, unless it is being canceled.
        This server does that once; a signal from the shutdown of an earlier server does not count.
        Raises EngineFault if the process has vanished too often.
        """
        # 1. The process of an earlier server may still be running, or may have ended meanwhile.
        execution = await engine.attach(run, workspace)
        if execution is not None:
            log.info("run resumed", run_id=run.id, name=run.handle, launched_again=False)
        elif run.state is RunState.RUNNING:
            log.info("run resumed", run_id=run.id, name=run.handle, launched_again=True)
        attached = execution is not None
        # 2. A lock file without a process or exit code: the process vanished. The count is on disk,
        #    so a workflow that kills the whole machine cannot restart forever.
        if execution is None and await asyncio.to_thread(workspace.lock.exists):
            await asyncio.to_thread(count_crash, workspace)
        resumes_left = _RESUMES
        while True:
            # 3. Launch, then follow the events to the end of the process.
            if execution is None:
                await self._refuse_canceled(run.id)
                execution = await self._launch(run, engine, workspace)
            run, failures = await self._follow_execution(run, execution)
            outcome = await execution.outcome()
            # 4. An exit code of the workflow itself is final; a signal is not.
            if not outcome.by_signal or await self._is_canceling(run.id):
                break
            # SIGTERM in an attached process came from the shutdown of the earlier server, so it
            # does not count as a crash.
            if not (attached and outcome.stopped):
                if not resumes_left:
                    break
                resumes_left -= 1
                await asyncio.to_thread(count_crash, workspace)
            # A full disk may have killed it, and another launch would only fail again.
            await asyncio.to_thread(check_room, self._runs)
            log.warning("run was interrupted; resuming it", run_id=run.id)
            execution, attached = None, False
        return run, outcome, failures

    async def _follow_execution(
        self, run: Run, execution: Execution
    ) -> tuple[Run, list[RunFailure]]:
        # Registered first: from here on `cancel` reaches the process. The check below finds an
        # earlier cancel.
        self._executions[run.id] = execution
        try:
            await self._refuse_canceled(run.id)
            if run.state is RunState.INITIALIZING:
                run = await retry_index(partial(self._store.move, run.id, RunState.RUNNING))
                log.info("run started", run_id=run.id, name=run.handle, workflow=run.workflow)
                self._changes.notify(run.id)
        except TransitionRefused:
            await execution.cancel()
            raise
        async with self._limits.enforced(Workspace(self._runs / run.id), execution):
            failures = await self._follow(run, execution)
        return run, failures

    async def _is_canceling(self, run_id: RunId) -> bool:
        _, head = await self._store.head(run_id)
        return head.state is RunState.CANCELING

    async def _refuse_canceled(self, run_id: RunId) -> None:
        if await self._is_canceling(run_id):
            raise TransitionRefused(f"run {run_id} was canceled")

    async def _launch(self, run: Run, engine: Engine, workspace: Workspace) -> Execution:
        self._changes.notify(run.id)
        # Stage the inputs and warm up the engine. A cancel interrupts this step at any point.
        async with TagWriteBehind(self._store, self._changes, run) as tags:
            preparing = self._prepare(run, engine, workspace, tags.add)
            job = await self._run_cancellable(run.id, preparing)
        # Remote inputs have a size only now; the SLA prediction uses it.
        if run.input_bytes is None and job.input_bytes is not None:
            size = job.input_bytes
            await retry_index(partial(self._store.amend, run.id, input_bytes=size))
        job = replace(job, priority=self._priority(run))
        await asyncio.to_thread(self._declare_leases)
        # The launch is shielded: a process that starts after a cancellation would otherwise have no
        # owner. The execution is registered before the cancellation goes on, so it can be ended.
        launch = asyncio.create_task(engine.launch(job), name=f"launch {run.id}")
        try:
            return await asyncio.shield(launch)
        except asyncio.CancelledError:
            self._executions[run.id] = await launch
            raise

    async def _prepare(
        self, run: Run, engine: Engine, workspace: Workspace, tell: ProgressCallback
    ) -> LaunchRequest:
        job = await self._planner.prepare(run, workspace, tell)
        with suppress(EngineFault):  # the launch reports it, or starts a cold process
            await engine.warm()
        return job

    def _priority(self, run: Run) -> QueuePriority | None:
        if self._leases is None:
            return None
        return QueuePriority(self._leases, rank=run.service_level.rank, age=run.sequence)

    async def _run_cancellable(
        self, run_id: RunId, work: Coroutine[Any, Any, _T], *, final: bool = False
    ) -> _T:
        """Await `work`, which `cancel` may interrupt. Raises TransitionRefused if it did.

        `final`: what is done cannot be undone, so a cancel that comes too late has no effect.
        """
        task = asyncio.create_task(
            self._unless_canceled(run_id, work), name=f"run {run_id}, cancellable"
        )
        self._cancellable[run_id] = task
        try:
            result = await task
        except asyncio.CancelledError:
            await self._refuse_canceled(run_id)  # a cancel of the run, or else of the server
            raise
        finally:
            work.close()  # has an effect only if it never began
            del self._cancellable[run_id]
        if not final:
            await self._refuse_canceled(run_id)  # a cancel came when the work was already done
        return result

    async def _unless_canceled(self, run_id: RunId, work: Coroutine[Any, Any, _T]) -> _T:
        """Await `work`, unless a cancel came before its task was registered."""
        await self._refuse_canceled(run_id)
        return await work

    async def _follow(self, run: Run, execution: Execution) -> list[RunFailure]:
        failures: list[RunFailure] = []
        fail_at = FailAtTask(run.terms.fault.fails_at_task)
        failed_task: str | None = None
        async with TaskWriteBehind(self._store, self._changes, run.id) as tasks:
            async for event in execution.events():
                match event:
                    case TaskChanged(task=task):
                        tasks.add(task)
                        if fail_at.match(task):
                            failed_task = task.name
                            await execution.cancel()
                    case EngineError(failure=failure):
                        failures.append(failure)
                    case Launched():
                        failures.clear()  # those of earlier launches
                    case RunStarted() | Progress():
                        self._changes.notify(run.id)
        if failed_task is not None:
            raise FaultInjected(f"the task {failed_task} failed, as the control API requested")
        return failures

    async def _finish(
        self,
        run: Run,
        workspace: Workspace,
        plan: Plan,
        outcome: Outcome,
        failures: Sequence[RunFailure],
    ) -> None:
        current = await self._store.get(run.id)
        if current.state is RunState.CANCELING:
            await self._end_canceled(run.id)
        elif outcome.crashed:
            raise EngineFault(
                f"the engine's process vanished {_RESUMES + 1} times without an exit status; "
                "did the machine run out of memory?"
            )
        elif outcome.exit_code == 0:
            await self._complete(run, workspace, plan, outcome)
        else:
            described = await self._planner.describe_failure(run, workspace)
            failure = cause(outcome, failures, described)
            if plan.publications is None:
                run = await self._publish_partial(run, workspace, outcome)
            await self._end(run, RunState.EXECUTOR_ERROR, failure, outcome.exit_code)

    async def _publish_partial(self, run: Run, workspace: Workspace, outcome: Outcome) -> Run:
        """Publish the outputs of a failed run into its own directory. Never raises."""
        wanted = [Publication(path, path, optional=True) for path in outcome.outputs]
        publishing = self._publisher.publish(workspace, wanted, lambda tags: None)
        try:
            delivery = await self._run_cancellable(run.id, publishing)
        except (OSError, WesemuError) as error:
            log.warning("publishing partial outputs failed", run_id=run.id, error=str(error))
            return run
        return replace(run, outputs=delivery.outputs, unpublished=unpublished_notes(outcome))

    async def _complete(self, run: Run, workspace: Workspace, plan: Plan, outcome: Outcome) -> None:
        results = await self._planner.results(run, workspace)
        wanted = plan.publications
        if wanted is None:
            wanted = tuple(Publication(name=path, result=path) for path in outcome.outputs)
        if plan.publications is None and (refused := refused_outputs(outcome)) is not None:
            run = await self._publish_partial(run, workspace, outcome)
            await self._end(run, RunState.EXECUTOR_ERROR, refused, outcome.exit_code)
            return
        run = replace(
            run,
            counts=results.counts,
            tools={**run.tools, **results.tools},
            tags={**run.tags, **results.tags},
            unpublished=unpublished_notes(outcome),
        )
        ended = await self._wait_for_sla_end(run)
        if run.terms.fault.out_of_disk:  # an injected fault
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        async with TagWriteBehind(self._store, self._changes, run) as buffer:
            publishing = self._publisher.publish(workspace, wanted, buffer.add)
            delivery = await self._run_cancellable(run.id, publishing, final=True)
        run = replace(run, outputs=delivery.outputs, tags=buffer.tags)
        if delivery.failure is not None:
            await self._end(run, RunState.SYSTEM_ERROR, delivery.failure, outcome.exit_code)
            return
        await self._write_end(
            replace(run, state=RunState.COMPLETE, ended=ended or self._clock.now(), exit_code=0)
        )

    async def _wait_for_sla_end(self, run: Run) -> datetime | None:
        """Stay RUNNING for the minutes of the service level and return the end of `run`.

        Return None for a run that ends with its tools. After a restart, the next server computes
        the same time from the stored counts.
        """
        if (end := due(run)) is None:
            return None
        counts = serialization.run_to_row(run)["counts"]
        await retry_index(lambda: self._store.amend(run.id, counts=counts))
        self._changes.notify(run.id)
        await self._run_cancellable(run.id, self._clock.wait_until(end))
        return end

    async def _end(
        self, run: Run, state: RunState, failure: RunFailure, exit_code: int | None = None
    ) -> None:
        content = {key: value for key, value in asdict(failure).items() if value is not None}
        path = Workspace(self._runs / run.id).error
        with _log_write_errors("error.json", run):
            await asyncio.to_thread(write_json, path, content)
        await self._write_end(
            replace(run, state=state, ended=self._clock.now(), exit_code=exit_code, failure=failure)
        )

    async def _end_canceled(self, run_id: RunId) -> None:
        run = await self._store.get(run_id)
        if run.state.ended:
            return
        tasks = cancel_open_tasks(await self._store.tasks(run_id), self._wall.now())
        await retry_index(lambda: self._store.put_tasks(run_id, tasks))
        await self._write_end(replace(run, state=RunState.CANCELED, ended=self._clock.now()))

    async def _end_failed(self, run: Run, error: Exception) -> None:
        """End the run with an error of the request, its inputs, or this machine."""
        run = await self._store.get(run.id)  # its tags and counts have changed since it started
        if not isinstance(error, (WesemuError, OSError)):
            log.exception("run ended by an internal error", run_id=run.id)
        state, failure = fault(error)
        try:
            await self._end(run, state, failure)
        except TransitionRefused:
            await self._end_canceled(run.id)

    async def _write_end(self, run: Run) -> None:
        """Write the end to the index (compare-and-set), then to the run directory.

        On a full disk, wait until there is space.
        """
        tasks = await retry_index(partial(self._store.tasks, run.id))
        run = replace(run, real_seconds=real_seconds(tasks))
        row = serialization.run_to_row(run)
        values = {name: row[name] for name in _END_COLUMNS}
        await retry_index(lambda: self._store.move(run.id, run.state, **values))
        _log_end(run)
        self._changes.notify(run.id)
        workspace = Workspace(self._runs / run.id)
        with _log_write_errors("state.json", run):
            # The index already has the end, so a shutdown waits until the directory has it too.
            await finish_in_thread(write_end, workspace, run, tasks)
        with _log_write_errors("publishing", run):
            await self._publisher.clean_up(workspace)
        try:
            await self._planner.cleanup(run, workspace)
        except Exception:
            log.exception("releasing run resources failed", run_id=run.id)


def _log_end(run: Run) -> None:
    about: dict[str, object] = {"state": run.state.value, "seconds": run.real_seconds}
    if run.failure is not None:
        about["reason"] = run.failure.message
    log.info("run ended", run_id=run.id, name=run.handle, **about)


@contextmanager
def _log_write_errors(name: str, run: Run) -> Iterator[None]:
    """Log an OSError and go on: the index has the same facts, so the run can end."""
    try:
        yield
    except OSError as error:
        log.error("writing a run file failed", file=name, run_id=run.id, error=str(error))
