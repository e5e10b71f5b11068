"""RunService: all that a dialect can ask of the core."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog

from wesemu.clock import Clock
from wesemu.errors import Forbidden, RunActive, TransitionRefused
from wesemu.ids import IdSource
from wesemu.runs import codec
from wesemu.runs.changes import Changes
from wesemu.runs.cleanup import delete, put_away
from wesemu.runs.limits import RunLimits
from wesemu.runs.listing import EVERYTHING, Head, HeadPage, Page, Selection
from wesemu.runs.model import PLACE_NOTE, Owner, Run, RunId, RunRequest, RunState, TaskLog
from wesemu.runs.policy import ServicePolicy
from wesemu.runs.ports import Cards, Plan, Planner, Rehearsal
from wesemu.runs.records import write_submission
from wesemu.runs.store import HandleTaken, RunStore
from wesemu.runs.submissions import SubmissionKey, Turns
from wesemu.runs.targets import SHARED, ActiveTargets
from wesemu.runs.workspace import Draft, Workspace

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
    files: Draft


class RunService:
    """Submit, read, cancel and remove runs, each on behalf of an owner.

    A run of another owner raises Forbidden, an unknown one RunNotFound.
    """

    def __init__(
        self,
        store: RunStore,
        planner: Planner,
        dispatcher: Dispatcher,
        changes: Changes,
        *,
        policy: ServicePolicy,
        runs: Path,
        clock: Clock,
        ids: IdSource,
        cards: Callable[[], Cards] = Cards,
        limits: RunLimits | None = None,
    ) -> None:
        """`cards` tells of the node's GPUs as they are when it is called; it may block."""
        self._store = store
        self._planner = planner
        self._dispatcher = dispatcher
        self._changes = changes
        self._policy = policy
        self._runs = runs
        self._clock = clock
        self._ids = ids
        self._cards = cards
        self._limits = limits or RunLimits()
        self._accepting = asyncio.Lock()
        self._turns = Turns()
        self._targets = ActiveTargets(store, runs)
        self._unmarking: set[asyncio.Task[None]] = set()

    async def draft(self) -> RunDraft:
        """A new run directory that attachments can be streamed into before `submit`."""
        while True:
            run_id = RunId(self._ids.run_id())
            draft = Draft(self._runs / run_id)
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

    async def rehearse(
        self, owner: Owner, request: RunRequest, draft: RunDraft | None = None
    ) -> Rehearsal:
        """Check a request as `submit` does, plan its workflow, and leave nothing of it.

        Raises as `submit` does; also InvalidRequest for a workflow that cannot be planned.
        """
        draft = draft or await self.draft()
        workspace = draft.files.workspace
        try:
            request = await self._planner.collect(request, draft.files)
            plan = await self._planner.plan(owner, request, workspace.attachments)
            self._policy.check(request, plan.workflow)
            shared = await self._targets.shared(owner, plan)
            plan = replace(plan, tags={**plan.tags, **shared})
            graph = await self._planner.rehearse(plan, request, workspace)
            return Rehearsal(plan, graph, await asyncio.to_thread(self._cards))
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
                        run.id, RunState.CANCELED, ended=codec.stamp(self._clock.now())
                    )
                else:
                    run = await self._store.move(run.id, RunState.CANCELING)
                    self._dispatcher.cancel(run.id)
            except TransitionRefused:
                continue
            self._changes.ring(run.id)
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
        away = await asyncio.to_thread(put_away, self.workspace(run))
        await self._store.delete(run.id)
        self._changes.ring(run.id)
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
        request = await self._planner.collect(request, draft.files)
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
