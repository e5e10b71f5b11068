"""RunService: all that a dialect can ask of the core."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
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
    PLACE_NOTE,
    PRETENDED,
    InjectedFault,
    Owner,
    Run,
    RunId,
    RunRequest,
    RunState,
    SlaTerms,
    TaskLog,
    pretended_bases,
)
from wesemu.runs.notifications import RunNotifier
from wesemu.runs.ports import DryRunResult, Execution, GpuStatus, Plan, Planner
from wesemu.runs.publishing import SHARED, ActiveTargets
from wesemu.runs.run_directory import RunDirectoryDraft, Workspace, tree_size
from wesemu.runs.serialization import write_submission
from wesemu.runs.store import EVERYTHING, HandleTaken, Head, HeadPage, Page, RunStore, Selection


class ServicePolicy:
    """Gives every run `terms`, changed by what its request asks for.

    A fault that was ordered strikes one run, the next that is accepted.
    """

    def __init__(self, terms: SlaTerms) -> None:
        self._terms = terms
        self._pending: deque[InjectedFault] = deque()

    @property
    def pending(self) -> tuple[InjectedFault, ...]:
        """The faults that still wait for a run, the next one's first."""
        return tuple(self._pending)

    def inject(self, fault: InjectedFault) -> None:
        self._pending.append(fault)

    def clear(self) -> None:
        self._pending.clear()

    def check(self, request: RunRequest, workflow: str) -> SlaTerms:
        """The terms of a run of `workflow`, a bundled pipeline or "". Raises InvalidRequest."""
        bases = pretended_bases(request.tags)
        if bases is not None and not workflow:
            raise InvalidRequest(
                "only mapping and wgs have a service level that goes by their size; leave it out",
                field=PRETENDED,
            )
        return replace(self._terms, bases=bases)

    def accept(self, request: RunRequest, workflow: str) -> SlaTerms:
        """As `check`, for a run that is accepted: the first fault that can happen to it is now
        its own. A workflow without a service level cannot miss one."""
        terms = self.check(request, workflow)
        for fault in self._pending:
            if workflow or fault.fails_at_task is not None or fault.out_of_disk:
                self._pending.remove(fault)
                return replace(terms, fault=fault)
        return terms


# Submissions that may be sent twice: a key stands for one request and for the run it became.


_DIGEST = "submission_digest"


@dataclass(frozen=True, slots=True)
class SubmissionKey:
    """`name` is the caller's own; `digest` tells one request from another."""

    name: str
    digest: str

    def mark(self, request: RunRequest) -> RunRequest:
        """The request as it is kept: in the index and in the run directory."""
        own = {"submission_key": self.name, _DIGEST: self.digest}
        return replace(request, marks={**request.marks, **own})

    def check(self, run: Run) -> None:
        """Raises KeyReused unless `run` came of the same request."""
        if run.request.marks.get(_DIGEST) != self.digest:
            raise KeyReused(
                f"the key {self.name!r} was used for another request, which became run {run.id}; "
                "draw a new key for each request",
                field="Idempotency-Key",
            )


class KeyedLocks:
    """One submission at a time for each key of an owner."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[Owner, str], asyncio.Lock] = WeakValueDictionary()

    def of(self, owner: Owner, key: SubmissionKey) -> asyncio.Lock:
        return self._locks.setdefault((owner, key.name), asyncio.Lock())


# What a run may use and how many runs an owner may have at a time.


_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RunLimits:
    """0 stands for no limit.

    `minutes` are real ones, of one launch; `size` counts the bytes in the run directory, without
    hard links to files outside it; `runs_per_owner` counts queued and active runs.
    """

    minutes: float = 0
    size: int = 0
    runs_per_owner: int = 0
    look_seconds: float = _LOOK_SECONDS

    async def check_owner(self, store: RunStore, owner: Owner) -> None:
        """Before one more run is accepted. Raises TooManyRuns."""
        if not self.runs_per_owner:
            return
        counts = await store.state_counts(owner)
        active = sum(number for state, number in counts.items() if state.active)
        if active >= self.runs_per_owner:
            raise TooManyRuns(
                f"the owner {owner} has {active} runs that are queued or active, which is the "
                "most that limits.runs_per_owner allows; wait for one to end, or cancel one"
            )

    @asynccontextmanager
    async def enforced(self, workspace: Workspace, execution: Execution) -> AsyncIterator[None]:
        """Cancel the execution once it exceeds a limit. Raises RunLimitExceeded at the end."""
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
                await asyncio.sleep(min(left, self.look_seconds) if self.size else left)
        await execution.cancel()


log = structlog.get_logger("wesemu.runs")


_OWN_TAGS = (PLACE_NOTE, SHARED)
"""Tags that only the server gives."""


class Dispatcher(Protocol):
    """Who carries runs out, as the service sees it."""

    def wake(self) -> None:
        """There may be something to start."""
        ...

    def cancel(self, run_id: RunId) -> None:
        """A run has become CANCELING: begin to end its tools."""
        ...


@dataclass(frozen=True, slots=True)
class RunDraft:
    """A submission in the making: its id is known, its files arrive."""

    id: RunId
    files: RunDirectoryDraft


class RunService:
    """Submit, read, cancel and remove runs, each on behalf of an owner.

    A run of another owner raises Forbidden, an unknown one RunNotFound.
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
        """`gpu_status` tells of the node's GPUs as they are when it is called; it may block."""
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
        self._turns = KeyedLocks()
        self._targets = ActiveTargets(store, runs)
        self._unmarking: set[asyncio.Task[None]] = set()

    async def draft(self) -> RunDraft:
        """A new run directory that attachments can be streamed into before `submit`."""
        while True:
            run_id = RunId(self._ids.run_id())
            draft = RunDirectoryDraft(self._runs / run_id)
            try:
                await asyncio.to_thread(draft.create)
            except FileExistsError:  # a seeded source of ids that began anew
                continue
            return RunDraft(run_id, draft)

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
        """Check a request, put it on disk, commit it, and queue it; in this order.

        A request that came before under the same `key` is the run that it became then. Raises
        InvalidRequest, BucketNotFound, ObjectNotFound, ReferenceNotFound or KeyReused, and then
        nothing is left of the submission.
        """
        draft = draft or await self.draft()
        try:
            if key is None:
                return await self._accept(owner, request, draft)
            async with self._turns.of(owner, key):
                earlier = await self._store.by_submission_key(owner, key.name)
                if earlier is None:
                    return await self._accept(owner, key.mark(request), draft)
            key.check(earlier)
        except BaseException:
            await self.discard(draft)
            raise
        await self.discard(draft)
        return earlier

    async def dry_run(
        self, owner: Owner, request: RunRequest, draft: RunDraft | None = None
    ) -> DryRunResult:
        """Check a request as `submit` does, plan its workflow, and leave nothing of it.

        Raises as `submit` does; also InvalidRequest for a workflow that cannot be planned.
        """
        draft = draft or await self.draft()
        workspace = draft.files.workspace
        try:
            request = await self._planner.fetch_workflow(request, draft.files)
            plan = await self._planner.plan(owner, request, workspace.attachments)
            self._policy.check(request, plan.workflow)
            shared = await self._targets.shared(owner, plan)
            plan = replace(plan, tags={**plan.tags, **shared})
            graph = await self._planner.dry_run(plan, request, workspace)
            return DryRunResult(plan, graph, await asyncio.to_thread(self._gpu_status))
        finally:
            await self.discard(draft)

    async def get(self, owner: Owner, run_id: str) -> Run:
        return _visible(owner, await self._store.get(run_id))

    async def head(self, owner: Owner, run_id: str) -> Head:
        """The state and little more, which is cheaper than the run."""
        found, head = await self._store.head(run_id)
        if found != owner:
            raise _foreign(run_id)
        return head

    async def many(self, owner: Owner, run_ids: Sequence[RunId]) -> dict[RunId, Run]:
        """Those of them that are there and the owner's."""
        found = await self._store.many(run_ids)
        return {run_id: run for run_id, run in found.items() if run.owner == owner}

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
        """At most `size` runs, newest first; go on with `before` = the last page's `before`."""
        return await self._store.page(owner, size=size, before=before, selection=selection)

    async def heads(
        self,
        owner: Owner,
        *,
        size: int,
        before: int | None = None,
        selection: Selection = EVERYTHING,
    ) -> HeadPage:
        """As `page`, with no more of each run than its head."""
        return await self._store.heads(owner, size=size, before=before, selection=selection)

    async def tasks(self, run: Run) -> list[TaskLog]:
        return await self._store.tasks(run.id)

    async def state_counts(self, owner: Owner) -> dict[RunState, int]:
        return await self._store.state_counts(owner)

    async def cancel(self, owner: Owner, run_id: str) -> Run:
        """Cancel a run that is queued or under way; a run that has ended stays as it is."""
        while True:
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
                else:
                    run = await self._store.move(run.id, RunState.CANCELING)
                    self._dispatcher.cancel(run.id)
            except TransitionRefused:
                continue
            self._changes.notify(run.id)
            return run

    async def remove(self, owner: Owner, run_id: str) -> None:
        """Forget a run and its directory, never what it published. Raises RunActive."""
        run = await self.get(owner, run_id)
        if run.state is RunState.CANCELING:
            raise RunActive(f"run {run.id} is being cancelled; remove it once it has ended")
        if run.state.active:
            raise RunActive(
                f"run {run.id} is {run.state}; cancel it or wait for its end before removing it"
            )
        away = await asyncio.to_thread(trash, self.workspace(run))
        await self._store.delete(run.id)
        self._changes.notify(run.id)
        await asyncio.to_thread(delete, away)

    def workspace(self, run: Run) -> Workspace:
        return Workspace(self._runs / run.id)

    async def follow(self, owner: Owner, run_id: str) -> AsyncGenerator[Run]:
        """The run now and after each change, the last time when it has ended."""
        while True:
            changed = self._changes.subscribe(RunId(run_id))
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
        self._unmark(run)
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
        plan = replace(plan, tags={**plan.tags, **shared})
        try:
            return await self._queue(self._new_run(owner, request, plan, run_id), plan)
        except BaseException:
            self._targets.release(run_id)
            raise

    def _unmark(self, run: Run) -> None:
        """The directory is no draft any more. Nobody waits for this: what was accepted cannot be
        given up, and the index is asked first."""
        unmarking = asyncio.create_task(
            asyncio.to_thread(self.workspace(run).draft.unlink, missing_ok=True),
            name=f"accept {run.id}",
        )
        self._unmarking.add(unmarking)
        unmarking.add_done_callback(self._unmarking.discard)

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
            tags={name: tag for name, tag in request.tags.items() if name not in _OWN_TAGS}
            | dict(plan.tags),
            input_bytes=plan.input_bytes,
            terms=self._policy.accept(request, plan.workflow),
        )

    async def _queue(self, run: Run, plan: Plan) -> Run:
        while True:
            await asyncio.to_thread(write_submission, self.workspace(run), run, plan)
            try:
                return await self._insert(run)
            except HandleTaken:
                run = replace(run, handle=self._ids.handle())

    async def _insert(self, run: Run) -> Run:
        """A submission that is given up while its row is committed leaves no row either."""
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
    return Forbidden(f"run {run_id} belongs to somebody else")
