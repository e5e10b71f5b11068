"""RunService: the interface of the core to the APIs: submit, read, cancel and remove runs.

Parts: SLA terms and injected faults (ServicePolicy), keys (SubmissionKey), limits (RunLimits).
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from wesemu.errors import (
    Forbidden,
    InvalidRequest,
    KeyReused,
    RunActive,
    RunLimitExceeded,
    TooManyRuns,
    TransitionRefused,
)
from wesemu.runs import serialization
from wesemu.runs.clock import Clock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.maintenance import delete, trash
from wesemu.runs.model import (
    PRETENDED,
    InjectedFault,
    Owner,
    Run,
    RunId,
    RunRequest,
    RunState,
    SlaTerms,
    SubmissionKey,
    TaskLog,
    pretended_bases,
)
from wesemu.runs.notifications import RunNotifier
from wesemu.runs.ports import DryRunResult, Execution, GpuStatus, Plan, Planner
from wesemu.runs.publishing import ActiveTargets
from wesemu.runs.run_directory import RunDirectoryDraft, Workspace, tree_size
from wesemu.runs.run_figures import facts_of, own_tags
from wesemu.runs.serialization import write_end, write_submission
from wesemu.runs.store import EVERYTHING, HandleTaken, Head, HeadPage, Page, RunStore, Selection


class ServicePolicy:
    """Computes the SLA terms of a run from the server's `terms` and the request.

    An injected fault applies to the next accepted runs that it can happen to; a run has one fault.
    """

    def __init__(self, terms: SlaTerms) -> None:
        self._terms = terms
        self._pending: list[tuple[InjectedFault, int]] = []
        self.applied: deque[tuple[RunId, InjectedFault]] = deque(maxlen=100)
        """The last runs that got a fault."""

    @property
    def pending(self) -> Sequence[tuple[InjectedFault, int]]:
        """The faults, oldest first, each with the number of runs that it still waits for."""
        return tuple(self._pending)

    def inject(self, fault: InjectedFault, times: int) -> None:
        """Apply the fault to the next `times` runs that it can happen to."""
        self._pending.append((fault, times))

    def clear(self) -> None:
        self._pending.clear()
        self.applied.clear()

    def check(self, request: RunRequest, workflow: str) -> SlaTerms:
        """Return the terms of a run; `workflow`: bundled pipeline or "". Raises InvalidRequest."""
        bases = pretended_bases(request.tags)
        if bases is not None and not workflow:
            raise InvalidRequest(
                "only mapping and wgs have a service level that depends on the size; leave it out",
                field=PRETENDED,
            )
        return replace(self._terms, bases=bases)

    def accept(self, request: RunRequest, workflow: str, run_id: RunId) -> SlaTerms:
        """As `check`, for an accepted run; also assign it the first fault that can happen to it.

        A workflow without a service level cannot be late.
        """
        terms = self.check(request, workflow)
        for number, (fault, times) in enumerate(self._pending):
            if workflow or fault.fails_at_task is not None or fault.out_of_disk:
                self._pending[number : number + 1] = [(fault, times - 1)] if times > 1 else []
                self.applied.append((run_id, fault))
                return replace(terms, fault=fault)
        return terms


def _check_key(key: SubmissionKey, run: Run) -> None:
    """Raise KeyReused unless `run` was submitted with the same request."""
    if run.request.key != key:
        raise KeyReused(
            f"the key {key.name!r} was used for another request, which became run {run.id}; "
            "use a new key for each request",
            field="Idempotency-Key",
        )


class KeyedLocks:
    """One lock for each key of an owner: submissions with the same key run one after another."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[Owner, str], asyncio.Lock] = WeakValueDictionary()

    def of(self, owner: Owner, key: SubmissionKey) -> asyncio.Lock:
        return self._locks.setdefault((owner, key.name), asyncio.Lock())


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits of runs and owners; 0: no limit.

    `minutes`: wall clock time of one launch. `size`: bytes in the run directory, without hard links
    to files outside it. `runs_per_owner`: queued and active runs.
    """

    minutes: float = 0
    size: int = 0
    runs_per_owner: int = 0
    check_seconds: float = 5.0

    async def check_owner(self, store: RunStore, owner: Owner) -> None:
        """Raise TooManyRuns if the owner may not submit one more run."""
        if not self.runs_per_owner:
            return
        counts = await store.state_counts(owner)
        active = sum(number for state, number in counts.items() if state.active)
        if active >= self.runs_per_owner:
            raise TooManyRuns(
                f"the owner {owner} has {active} runs that are queued or active, and "
                "limits.runs_per_owner allows no more; wait for one to end, or cancel one"
            )

    @asynccontextmanager
    async def enforced(self, workspace: Workspace, execution: Execution) -> AsyncIterator[None]:
        """Cancel the execution when it exceeds a limit; raise RunLimitExceeded on exit."""
        exceeded: list[str] = []
        watching = asyncio.create_task(
            self._watch(workspace, execution, exceeded), name="run limits"
        )
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        if exceeded:
            raise RunLimitExceeded(exceeded[0])

    async def _watch(self, workspace: Workspace, execution: Execution, exceeded: list[str]) -> None:
        if not self.minutes and not self.size:
            return
        deadline = time.monotonic() + self.minutes * 60 if self.minutes else float("inf")
        while not exceeded:
            left = deadline - time.monotonic()
            if left <= 0:
                exceeded.append(
                    f"the run took longer than {self.minutes:g} minutes (limits.run_minutes)"
                )
            elif self.size and await asyncio.to_thread(tree_size, workspace.root) > self.size:
                exceeded.append(f"the run wrote more than {self.size} bytes (limits.bytes)")
            else:
                await asyncio.sleep(min(left, self.check_seconds) if self.size else left)
        await execution.cancel()


log = structlog.get_logger("wesemu.runs")


class Dispatcher(Protocol):
    """Scheduler and supervisor, as far as the service uses them."""

    def wake(self) -> None:
        """Look at the queue again."""

    def cancel(self, run_id: RunId) -> None:
        """Start to end the tools of a run that is now CANCELING."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RunDraft:
    """A submission that receives its files: the id and the directory of the future run."""

    id: RunId
    files: RunDirectoryDraft


class RunService:
    """Submits, reads, cancels and removes runs on behalf of their owners.

    A run of another owner raises Forbidden, an unknown run RunNotFound.
    """

    def __init__(
        self,
        store: RunStore,
        planner: Planner,
        dispatcher: Dispatcher,
        changes: RunNotifier,
        *,
        policy: ServicePolicy,
        runs: Path,
        clock: Clock,
        ids: IdSource,
        gpu_status: Callable[[], GpuStatus] = GpuStatus,
        limits: RunLimits | None = None,
    ) -> None:
        """`gpu_status` returns the current state of the node's GPUs; it may block."""
        self._store = store
        self._planner = planner
        self._dispatcher = dispatcher
        self._changes = changes
        self._policy = policy
        self._runs = runs
        self._clock = clock
        self._ids = ids
        self._gpu_status = gpu_status
        self._limits = limits or RunLimits()
        self._accepting = asyncio.Lock()
        self._key_locks = KeyedLocks()
        self._drafts: WeakValueDictionary[RunId, RunDraft] = WeakValueDictionary()
        self._targets = ActiveTargets(store, runs)
        self._background: set[asyncio.Task[None]] = set()

    async def draft(self) -> RunDraft:
        """Create a run directory; attachments are streamed into it before `submit`."""
        while True:
            run_id = RunId(self._ids.run_id())
            draft = self._drafts[run_id] = RunDraft(run_id, RunDirectoryDraft(self._runs / run_id))
            with suppress(FileExistsError):  # a seeded IdSource draws ids of earlier runs again
                await asyncio.to_thread(draft.files.create)
                return draft

    def is_open(self, run_id: RunId) -> bool:
        """Return whether a submission with this id is in progress."""
        return run_id in self._drafts

    async def discard(self, draft: RunDraft) -> None:
        await asyncio.to_thread(draft.files.discard)

    async def submit(
        self,
        owner: Owner,
        request: RunRequest,
        draft: RunDraft | None = None,
        *,
        key: SubmissionKey | None = None,
    ) -> Run:
        """Check a request, write it to disk, commit it to the index, and queue it, in this order.

        A request that was submitted before with the same `key` returns the earlier run. Raises
        InvalidRequest, BucketNotFound, ObjectNotFound, ReferenceNotFound or KeyReused; the draft is
        then deleted.
        """
        draft = draft or await self.draft()
        try:
            if key is None:
                return await self._accept(owner, request, draft)
            async with self._key_locks.of(owner, key):
                earlier = await self._store.by_submission_key(owner, key.name)
                if earlier is None:
                    return await self._accept(owner, replace(request, key=key), draft)
            _check_key(key, earlier)
        except BaseException:
            await self.discard(draft)
            raise
        await self.discard(draft)
        return earlier

    async def dry_run(
        self, owner: Owner, request: RunRequest, draft: RunDraft | None = None
    ) -> DryRunResult:
        """Check a request as `submit` does, plan its workflow, and delete the draft.

        Raises as `submit` does, and InvalidRequest for a workflow that cannot be planned.
        """
        draft = draft or await self.draft()
        workspace = draft.files.workspace
        try:
            request = await self._planner.fetch_workflow(request, draft.files)
            plan = await self._planner.plan(owner, request, workspace.attachments)
            terms = self._policy.check(request, plan.workflow)
            shared = await self._targets.shared(owner, plan)
            plan = replace(plan, shared_output=shared)
            graph = await self._planner.dry_run(plan, request, workspace)
            return DryRunResult(plan, graph, await asyncio.to_thread(self._gpu_status), terms)
        finally:
            await self.discard(draft)

    @property
    def change_number(self) -> int:
        """As `RunStore.change_number`."""
        return self._store.change_number

    async def get(self, owner: Owner, run_id: str) -> Run:
        return _visible(owner, await self._store.get(run_id))

    async def head(self, owner: Owner, run_id: str) -> Head:
        """Return id, sequence and state only, which is cheaper than the whole run."""
        run_owner, head = await self._store.head(run_id)
        if run_owner != owner:
            raise _foreign(run_id)
        return head

    async def many(self, owner: Owner, run_ids: Sequence[RunId]) -> dict[RunId, Run]:
        """Return those runs that exist and belong to the owner."""
        runs = await self._store.many(run_ids)
        return {run_id: run for run_id, run in runs.items() if run.owner == owner}

    async def by_handle(self, owner: Owner, handle: str) -> Run:
        return _visible(owner, await self._store.by_handle(handle))

    async def page(
        self,
        owner: Owner,
        *,
        size: int,
        before: int | None = None,
        selection: Selection = EVERYTHING,
    ) -> Page:
        """Return at most `size` runs, newest first. `before` is `Page.before` of the last page."""
        return await self._store.page(owner, size=size, before=before, selection=selection)

    async def heads(
        self,
        owner: Owner,
        *,
        size: int,
        before: int | None = None,
        selection: Selection = EVERYTHING,
    ) -> HeadPage:
        """As `page`, with the heads of the runs only."""
        return await self._store.heads(owner, size=size, before=before, selection=selection)

    async def tasks(self, run: Run, *, start: int = 0, size: int | None = None) -> list[TaskLog]:
        return await self._store.tasks(run.id, start=start, size=size)

    async def task(self, run: Run, task_id: str, attempt: int) -> TaskLog | None:
        return await self._store.task(run.id, task_id, attempt)

    async def state_counts(self, owner: Owner) -> dict[RunState, int]:
        return await self._store.state_counts(owner)

    async def cancel(self, owner: Owner, run_id: str) -> Run:
        """Cancel a queued or active run and return it; a run that has ended does not change."""
        while True:  # until a compare-and-set succeeds: the scheduler may move the run meanwhile
            run = await self.get(owner, run_id)
            if run.state.ended or run.state is RunState.CANCELING:
                return run
            try:
                if run.state is RunState.QUEUED:
                    run = await self._store.move(
                        run.id,
                        RunState.CANCELED,
                        ended=serialization.format_timestamp(self._clock.now()),
                    )
                    await self._record_end(run)
                else:
                    run = await self._store.move(run.id, RunState.CANCELING)
                    self._dispatcher.cancel(run.id)
            except TransitionRefused:
                continue
            self._changes.notify(run.id)
            return run

    async def _record_end(self, run: Run) -> None:
        """Write the end into the run directory, so a rebuilt index does not queue the run again."""
        try:
            await asyncio.to_thread(write_end, self.workspace(run), run, ())
        except OSError as error:
            log.error("writing a run file failed", run_id=run.id, error=str(error))

    async def remove(self, owner: Owner, run_id: str) -> None:
        """Delete a run and its directory; published results stay. Raises RunActive."""
        run = await self.get(owner, run_id)
        if run.state is RunState.CANCELING:
            raise RunActive(f"run {run.id} is being cancelled; remove it once it has ended")
        if run.state.active:
            raise RunActive(
                f"run {run.id} is {run.state}; cancel it or wait for its end before removing it"
            )
        # Rename, delete the row, delete the files: a crash in between leaves a row without a
        # directory or trash, which the next start cleans up, and never half a directory.
        trashed = await asyncio.to_thread(trash, self.workspace(run))
        await self._store.delete(run.id)
        self._changes.notify(run.id)
        await asyncio.to_thread(delete, trashed)

    def workspace(self, run: Run) -> Workspace:
        return Workspace(self._runs / run.id)

    async def follow(self, owner: Owner, run_id: str) -> AsyncGenerator[Run]:
        """Yield the run now and after each change; stop when it has ended."""
        while True:
            # Subscribe before reading, so a change in between is not missed.
            with self._changes.subscribe(RunId(run_id)) as changed:
                run = await self.get(owner, run_id)
                yield run
                if run.state.ended:
                    return
                await changed

    async def _accept(self, owner: Owner, request: RunRequest, draft: RunDraft) -> Run:
        request = await self._planner.fetch_workflow(request, draft.files)
        plan = await self._planner.plan(owner, request, draft.files.workspace.attachments)
        async with self._accepting if self._limits.runs_per_owner else nullcontext():
            await self._limits.check_owner(self._store, owner)
            run = await self._claim_and_queue(owner, request, plan, draft.id)
        self._delete_draft_mark(run)
        log.info(
            "run accepted",
            run_id=run.id,
            name=run.handle,
            owner=owner,
            workflow=run.workflow or request.workflow_url,
        )
        self._dispatcher.wake()
        return run

    async def _claim_and_queue(
        self, owner: Owner, request: RunRequest, plan: Plan, run_id: RunId
    ) -> Run:
        shared = await self._targets.claim(run_id, owner, plan)
        plan = replace(plan, shared_output=shared)
        try:
            return await self._queue(self._new_run(owner, request, plan, run_id), plan)
        except BaseException:
            self._targets.release(run_id)
            raise

    def _delete_draft_mark(self, run: Run) -> None:
        # In the background: a mark that stays after a crash does no harm, because the clean-up
        # looks in the index first.
        task = asyncio.create_task(
            asyncio.to_thread(self.workspace(run).draft.unlink, missing_ok=True),
            name=f"accept {run.id}",
        )
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _new_run(self, owner: Owner, request: RunRequest, plan: Plan, run_id: RunId) -> Run:
        return Run(
            id=run_id,
            sequence=0,
            handle=self._ids.handle(),
            owner=owner,
            state=RunState.QUEUED,
            workflow=plan.workflow,
            service_level=plan.service_level,
            request=request,
            resources=plan.resources,
            created=self._clock.now(),
            tags=own_tags(request.tags),
            input_bytes=plan.input_bytes,
            placement=plan.placement,
            shared_output=plan.shared_output,
            tools=facts_of(request.tags)["tools"],
            terms=self._policy.accept(request, plan.workflow, run_id),
        )

    async def _queue(self, run: Run, plan: Plan) -> Run:
        while True:
            await asyncio.to_thread(write_submission, self.workspace(run), run, plan)
            try:
                return await self._insert(run)
            except HandleTaken:
                run = replace(run, handle=self._ids.handle())

    async def _insert(self, run: Run) -> Run:
        """Insert the row; delete it again if the submission is cancelled during the commit."""
        inserting = asyncio.create_task(self._store.insert(run), name=f"insert {run.id}")
        try:
            return await asyncio.shield(inserting)
        except asyncio.CancelledError:
            await asyncio.wait({inserting})
            if inserting.exception() is None:
                await self._store.delete(run.id)
            raise


def _visible(owner: Owner, run: Run) -> Run:
    if run.owner != owner:
        raise _foreign(run.id)
    return run


def _foreign(run_id: str) -> Forbidden:
    return Forbidden(f"run {run_id} belongs to another owner")
