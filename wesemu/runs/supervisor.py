"""One run's life: prepare, launch, follow its events, publish, settle; also after a restart."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from wesemu.errors import EngineFault, FaultInjected, RunNotFound, TransitionRefused, WesemuError
from wesemu.runs import serialization
from wesemu.runs.clock import Clock
from wesemu.runs.database import check_room, out_of_files, retry_on_full_disk
from wesemu.runs.model import UNPUBLISHED, OutputFile, Run, RunFailure, RunId, RunState
from wesemu.runs.notifications import RunNotifier, TagWriteBehind, TaskWriteBehind
from wesemu.runs.outcome import (
    FailAtTask,
    cancel_open_tasks,
    cause,
    count_crash,
    fault,
    real_seconds,
    refused_outputs,
    unpublished_note,
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
    QueuePriority,
    RunStarted,
    TaskChanged,
)
from wesemu.runs.publishing import Publisher
from wesemu.runs.run_directory import Workspace, write_json
from wesemu.runs.serialization import read_plan, write_end
from wesemu.runs.service import RunLimits
from wesemu.runs.sla import due
from wesemu.runs.store import RunStore

# Work on a thread that ends when whoever waits for it is cancelled.


_T = TypeVar("_T")


async def in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """What `work` returns or raises. When this is cancelled, the event that `work` was given is
    set, and the thread is waited for, so that it changes nothing any more."""
    stop = threading.Event()
    thread = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({thread})
        if not thread.cancelled():
            thread.exception()  # it was told to stop, and has
        raise


_RESUMES = 1
"""How often a server resumes a run whose process vanished before it is given up."""

_FILES_PAUSE_SECONDS = 1.0

_TOLD_AT_THE_END = ("ended", "exit_code", "outputs", "counts", "failure", "tags", "real_seconds")

log = structlog.get_logger("wesemu.supervisor")


class Supervisor:
    """Carries runs from INITIALIZING to an end. One `drive` a run; `cancel` from anywhere.

    Runs end by `clock`, the emulated one; their tasks' times are told by `wall`. Tasks take their
    leases in the folder `leases`; without one they start at once. `declare_leases` is called before
    each launch, should somebody have removed it.
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
        self._publisher = publisher or Publisher()
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
        self._stoppable: dict[RunId, asyncio.Task[Any]] = {}
        self._endings: set[asyncio.Task[None]] = set()

    async def drive(self, run: Run, leave_room: Callable[[], None]) -> None:
        """Carry `run` to a terminal state. Never raises but CancelledError (at shut-down).

        `leave_room` is called where the run waits for its end after its tools'.
        """
        try:
            await self._live_with_files(run, leave_room)
        except asyncio.CancelledError:
            if not self._keep_runs:
                await self._suspend(run.id)
            raise
        except TransitionRefused:
            await self._settle_canceled(run.id)
        except Exception as error:
            with suppress(RunNotFound):  # it was forgotten meanwhile
                await self._settle_fault(run, error)
        finally:
            self._executions.pop(run.id, None)
            self._changes.notify(run.id)

    def cancel(self, run_id: RunId) -> None:
        """Begin to end the tools of a run that has become CANCELING; `drive` then settles it."""
        if (work := self._stoppable.get(run_id)) is not None:
            work.cancel()
        if (execution := self._executions.get(run_id)) is not None:
            ending = asyncio.create_task(execution.cancel(), name=f"cancel {run_id}")
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def _live_with_files(self, run: Run, leave_room: Callable[[], None]) -> None:
        """Where no file can be opened, wait and go on, as after a restart of the server: the run
        and its results are none the worse for that."""
        while True:
            try:
                return await self._live(run, leave_room)
            except TransitionRefused:
                raise
            except Exception as error:
                if (lack := out_of_files(error)) is None:
                    raise
                log.error("a run waits", run_id=run.id, reason=lack.message)
            self._executions.pop(run.id, None)
            await asyncio.sleep(_FILES_PAUSE_SECONDS)
            run = await self._store.get(run.id)

    async def _live(self, run: Run, leave_room: Callable[[], None]) -> None:
        workspace = Workspace(self._runs / run.id)
        plan = await asyncio.to_thread(read_plan, workspace)
        engine = self._engines.get(plan.engine)
        if engine is None:
            raise EngineFault(f"this server has no engine {plan.engine!r} any more")
        run, outcome, failures = await self._execute(run, engine, workspace)
        self._executions.pop(run.id, None)
        leave_room()
        await self._settle(run, workspace, plan, outcome, failures)

    async def _execute(
        self, run: Run, engine: Engine, workspace: Workspace
    ) -> tuple[Run, Outcome, list[RunFailure]]:
        """Launch the run, or follow an earlier server's launch, until the workflow has ended.

        A run that a signal has ended is launched again, unless it is being canceled: once after
        its process has vanished under this server, and after each stop of an earlier server.
        Raises EngineFault for a run whose process has vanished too often.
        """
        execution = await engine.attach(run, workspace)
        if execution is not None:
            log.info("run resumed", run_id=run.id, name=run.handle, launched_again=False)
        elif run.state is RunState.RUNNING:
            log.info("run resumed", run_id=run.id, name=run.handle, launched_again=True)
        followed_earlier = execution is not None
        if execution is None and await asyncio.to_thread(workspace.lock.exists):
            await asyncio.to_thread(count_crash, workspace)
        resumes_left = _RESUMES
        while True:
            if execution is None:
                await self._refuse_canceled(run.id)
                execution = await self._launch(run, engine, workspace)
            run, failures = await self._carry(run, execution)
            outcome = await execution.outcome()
            if not outcome.by_signal or await self._is_canceling(run.id):
                break
            if not (followed_earlier and outcome.stopped):
                if not resumes_left:
                    break
                resumes_left -= 1
                await asyncio.to_thread(count_crash, workspace)
            await asyncio.to_thread(check_room, self._runs)
            log.warning("a run was interrupted; it is resumed", run_id=run.id)
            execution, followed_earlier = None, False
        return run, outcome, failures

    async def _carry(self, run: Run, execution: Execution) -> tuple[Run, list[RunFailure]]:
        """Follow one execution to its end."""
        self._executions[run.id] = execution
        try:
            await self._refuse_canceled(run.id)
            if run.state is RunState.INITIALIZING:
                run = await retry_on_full_disk(partial(self._store.move, run.id, RunState.RUNNING))
                log.info("run started", run_id=run.id, name=run.handle, workflow=run.workflow)
                self._changes.notify(run.id)
        except TransitionRefused:
            await execution.cancel()
            raise
        async with self._limits.enforced(Workspace(self._runs / run.id), execution):
            failures = await self._follow(run, execution)
        return run, failures

    async def _is_canceling(self, run_id: RunId) -> bool:
        return (await self._store.get(run_id)).state is RunState.CANCELING

    async def _refuse_canceled(self, run_id: RunId) -> None:
        if await self._is_canceling(run_id):
            raise TransitionRefused(f"run {run_id} was canceled")

    async def _launch(self, run: Run, engine: Engine, workspace: Workspace) -> Execution:
        self._changes.notify(run.id)
        async with TagWriteBehind(self._store, self._changes, run) as tags:
            preparing = self._prepare(run, engine, workspace, tags.add)
            job = await self._stoppably(run.id, preparing)
        if run.input_bytes is None and job.input_bytes is not None:
            size = job.input_bytes
            await retry_on_full_disk(partial(self._store.amend, run.id, input_bytes=size))
        job = replace(job, priority=self._standing(run))
        await asyncio.to_thread(self._declare_leases)
        launch = asyncio.create_task(engine.launch(job), name=f"launch {run.id}")
        try:
            return await asyncio.shield(launch)
        except asyncio.CancelledError:
            self._executions[run.id] = await launch  # so that it can be ended
            raise

    async def _prepare(
        self, run: Run, engine: Engine, workspace: Workspace, tell: ProgressCallback
    ) -> LaunchRequest:
        """All that may be broken off: a launch that has begun has to be waited for."""
        job = await self._planner.prepare(run, workspace, tell)
        with suppress(EngineFault):  # the launch tells of it, or does without
            await engine.warm()
        return job

    def _standing(self, run: Run) -> QueuePriority | None:
        if self._leases is None:
            return None
        return QueuePriority(self._leases, rank=run.service_level.rank, age=run.sequence)

    async def _stoppably(self, run_id: RunId, work: Coroutine[Any, Any, _T]) -> _T:
        """Do what a cancel may simply break off. Raises TransitionRefused when it did."""
        task = asyncio.create_task(work, name=f"run {run_id}, stoppable")
        self._stoppable[run_id] = task
        try:
            await self._refuse_canceled(run_id)  # before there was anything to stop
            done = await task
        except asyncio.CancelledError:
            await self._refuse_canceled(run_id)
            raise
        finally:
            task.cancel()
            del self._stoppable[run_id]
        await self._refuse_canceled(run_id)
        return done

    async def _follow(self, run: Run, execution: Execution) -> list[RunFailure]:
        failures: list[RunFailure] = []
        doom = FailAtTask(run.terms.fault.fails_at_task)
        doomed: str | None = None
        async with TaskWriteBehind(self._store, self._changes, run.id) as tasks:
            async for event in execution.events():
                match event:
                    case TaskChanged(task=task):
                        tasks.add(task)
                        if doom.match(task):
                            doomed = task.name
                            await execution.cancel()
                    case EngineError(failure=failure):
                        failures.append(failure)
                    case Launched():
                        failures.clear()
                    case RunStarted() | Progress():
                        self._changes.notify(run.id)
        if doomed is not None:
            raise FaultInjected(f"the task {doomed} failed, as was asked of the control API")
        return failures

    async def _suspend(self, run_id: RunId) -> None:
        """At shut-down: end the tools. The next server resumes the run, also where this one is
        killed meanwhile: its exit status is that of a signal."""
        if (execution := self._executions.get(run_id)) is not None:
            await execution.cancel()

    async def _settle(
        self,
        run: Run,
        workspace: Workspace,
        plan: Plan,
        outcome: Outcome,
        failures: Sequence[RunFailure],
    ) -> None:
        current = await self._store.get(run.id)
        if current.state is RunState.CANCELING:
            await self._settle_canceled(run.id)
        elif outcome.crashed:
            raise EngineFault(
                f"the engine's process vanished {_RESUMES + 1} times without an exit status; "
                "was it killed for want of memory?"
            )
        elif outcome.exit_code == 0:
            await self._complete(run, workspace, plan, outcome)
        else:
            explained = await self._planner.describe_failure(run, workspace)
            failure = cause(outcome, failures, explained)
            if plan.publications is None:
                run = await self._publish_partial(run, workspace, outcome)
            await self._end(run, RunState.EXECUTOR_ERROR, failure, outcome.exit_code)

    async def _publish_partial(self, run: Run, workspace: Workspace, outcome: Outcome) -> Run:
        """Publish what a failed run has made into its own directory. Never raises."""
        wanted = [Publication(path, path, optional=True) for path in outcome.outputs]
        try:
            outputs = await self._publish(run.id, workspace, wanted)
        except (OSError, WesemuError) as error:
            log.warning("partial outputs are not published", run_id=run.id, error=str(error))
            return run
        return replace(run, outputs=outputs, tags={**run.tags, **_note(outcome)})

    async def _publish(
        self, run_id: RunId, workspace: Workspace, wanted: Sequence[Publication]
    ) -> tuple[OutputFile, ...]:
        """Publish, until the run is canceled or the server stops."""
        work = partial(self._publisher.publish, workspace, wanted)
        return await self._stoppably(run_id, in_thread(work))

    async def _complete(self, run: Run, workspace: Workspace, plan: Plan, outcome: Outcome) -> None:
        results = await self._planner.results(run, workspace)
        wanted = plan.publications
        if wanted is None:
            wanted = tuple(Publication(name=path, result=path) for path in outcome.outputs)
        if plan.publications is None and (refused := refused_outputs(outcome)) is not None:
            run = await self._publish_partial(run, workspace, outcome)
            await self._end(run, RunState.EXECUTOR_ERROR, refused, outcome.exit_code)
            return
        tags = {**run.tags, **results.tags, **_note(outcome)}
        run = replace(run, counts=results.counts, tags=tags)
        ended = await self._keep_pace(run)
        if run.terms.fault.out_of_disk:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        outputs = await self._publish(run.id, workspace, wanted)
        async with TagWriteBehind(self._store, self._changes, run) as buffer:
            delivering = self._planner.deliver(run, workspace, outputs, buffer.add)
            delivery = await self._stoppably(run.id, delivering)
        run = replace(run, outputs=delivery.outputs, tags=buffer.tags)
        if delivery.failure is not None:
            await self._end(run, RunState.SYSTEM_ERROR, delivery.failure, outcome.exit_code)
            return
        await self._write_end(
            replace(run, state=RunState.COMPLETE, ended=ended or self._clock.now(), exit_code=0)
        )

    async def _keep_pace(self, run: Run) -> datetime | None:
        """Stay RUNNING for as long as the service level says; the moment at which `run` ends,
        None for one that ends with its tools. Nothing of it is lost in a restart: the next
        server reckons the same moment."""
        if (end := due(run)) is None:
            return None
        counts = serialization.run_to_row(run)["counts"]
        await retry_on_full_disk(lambda: self._store.amend(run.id, counts=counts))
        self._changes.notify(run.id)
        await self._stoppably(run.id, self._clock.wait_until(end))
        return end

    async def _end(
        self, run: Run, state: RunState, failure: RunFailure, exit_code: int | None = None
    ) -> None:
        told = {key: value for key, value in asdict(failure).items() if value is not None}
        path = Workspace(self._runs / run.id).error
        with _told_if_lost("error.json", run):
            await asyncio.to_thread(write_json, path, told)
        await self._write_end(
            replace(run, state=state, ended=self._clock.now(), exit_code=exit_code, failure=failure)
        )

    async def _settle_canceled(self, run_id: RunId) -> None:
        run = await self._store.get(run_id)
        if run.state.ended:
            return
        tasks = cancel_open_tasks(await self._store.tasks(run_id), self._wall.now())
        await retry_on_full_disk(lambda: self._store.put_tasks(run_id, tasks))
        await self._write_end(replace(run, state=RunState.CANCELED, ended=self._clock.now()))

    async def _settle_fault(self, run: Run, error: Exception) -> None:
        """The request or its inputs were at fault, or this machine was."""
        run = await self._store.get(run.id)  # its tags and counts were amended meanwhile
        if not isinstance(error, (WesemuError, OSError)):
            log.exception("a run ended by an internal error", run_id=run.id)
        state, failure = fault(error)
        try:
            await self._end(run, state, failure)
        except TransitionRefused:
            await self._settle_canceled(run.id)

    async def _write_end(self, run: Run) -> None:
        """The index first decides (compare-and-set), then the directory tells.

        Where the disk is full, the end is written once there is room.
        """
        tasks = await self._store.tasks(run.id)
        run = replace(run, real_seconds=real_seconds(tasks))
        row = serialization.run_to_row(run)
        values = {name: row[name] for name in _TOLD_AT_THE_END}
        await retry_on_full_disk(lambda: self._store.move(run.id, run.state, **values))
        _log_end(run)
        self._changes.notify(run.id)
        workspace = Workspace(self._runs / run.id)
        with _told_if_lost("state.json", run):
            # the index has the end: a shut-down waits until the directory has it, too
            await _to_its_end(asyncio.to_thread(write_end, workspace, run, tasks))
            await asyncio.to_thread(self._publisher.clean_up, workspace)
        try:
            await self._planner.cleanup(run, workspace)
        except Exception:
            log.exception("what a run held is not let go of", run_id=run.id)


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, which goes on when the caller is cancelled; the caller waits for it."""
    task = asyncio.create_task(work, name="not to be cancelled")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _log_end(run: Run) -> None:
    about: dict[str, object] = {"state": run.state.value, "seconds": run.real_seconds}
    if run.failure is not None:
        about["reason"] = run.failure.message
    log.info("run ended", run_id=run.id, name=run.handle, **about)


def _note(outcome: Outcome) -> dict[str, str]:
    note = unpublished_note(outcome)
    return {UNPUBLISHED: note} if note else {}


@contextmanager
def _told_if_lost(name: str, run: Run) -> Iterator[None]:
    """The index has it; a file that the disk has no room for is not worth a run's end."""
    try:
        yield
    except OSError as error:
        log.error("a record could not be written", file=name, run_id=run.id, error=str(error))
