"""The queue: by service level, then age.

Runs begin beyond what the node has room for: their tasks take turns there (docs/leases.md), so
that the narrow end of one run overlaps with the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

import structlog

from wesemu.errors import TransitionRefused
from wesemu.runs import serialization
from wesemu.runs.clock import Clock
from wesemu.runs.database import retry_on_full_disk
from wesemu.runs.model import Run, RunId, RunState
from wesemu.runs.store import RunStore

log = structlog.get_logger("wesemu.scheduler")


def startable(queued: Sequence[Run], active: Iterable[Run], slots: int, gpus: int = 0) -> list[Run]:
    """Which of `queued` (in order of service) begin now beside `active`. Pure.

    At most `slots` runs are active at a time, but a run waits for none of a lower service level,
    nor for one that needs more than the node's `gpus`.
    """
    ranks = [run.service_level.rank for run in active]
    chosen: list[Run] = []
    for run in queued:
        if run.resources.least_gpus > gpus:
            continue
        if sum(rank <= run.service_level.rank for rank in ranks) < slots:
            ranks.append(run.service_level.rank)
            chosen.append(run)
    return chosen


class Scheduler:
    """Begins queued runs, so many at a time.

    `drive` carries one run through to its end; it calls what it is given once the run needs no
    room any more, though it has not ended.
    """

    def __init__(
        self,
        store: RunStore,
        drive: Callable[[Run, Callable[[], None]], Awaitable[None]],
        slots: int,
        clock: Clock,
        *,
        gpus: int = 0,
    ) -> None:
        self._store = store
        self._drive = drive
        self._slots = slots
        self._gpus = gpus
        self._clock = clock
        self._driven: dict[RunId, tuple[Run, asyncio.Task[None]]] = {}
        self._roomless: set[RunId] = set()
        self._bell = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over what an earlier server left under way, then begin to serve the queue."""
        for run in await self._store.in_states(RunState.QUEUED):
            if run.resources.least_gpus > self._gpus:
                log.warning(
                    "a run waits for a server with more GPUs",
                    run_id=run.id,
                    needs=run.resources.least_gpus,
                    gpus=self._gpus,
                )
        for run in await self._store.in_states(
            RunState.INITIALIZING, RunState.RUNNING, RunState.CANCELING
        ):
            self._begin(run)
        self._bell.set()
        self._loop = asyncio.create_task(self._serve(), name="scheduler")

    async def close(self) -> None:
        """Stop following; what the runs' own processes do is the supervisor's affair."""
        tasks = [task for _, task in self._driven.values()]
        tasks += [self._loop] if self._loop else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """A run was queued or has ended."""
        self._bell.set()

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until no run is under way, but no longer; whether that is so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._driven:
                    await asyncio.wait({task for _, task in self._driven.values()})
        return not self._driven

    async def _serve(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            try:
                await self._start_runs()
            except Exception:
                log.exception("the queue could not be served")

    async def _start_runs(self) -> None:
        queued = await self._store.in_states(RunState.QUEUED)
        running = [run for run, _ in self._driven.values() if run.id not in self._roomless]
        for run in startable(queued, running, self._slots, self._gpus):
            try:
                begun = await retry_on_full_disk(partial(self._take_up, run))
            except TransitionRefused:
                continue
            self._begin(begun)

    async def _take_up(self, run: Run) -> Run:
        started = serialization.format_timestamp(self._clock.now())
        return await self._store.move(run.id, RunState.INITIALIZING, started=started)

    def _begin(self, run: Run) -> None:
        task = asyncio.create_task(self._carry(run), name=f"run {run.id}")
        self._driven[run.id] = (run, task)

    async def _carry(self, run: Run) -> None:
        try:
            await self._drive(run, lambda: self._leave_room(run.id))
        finally:
            del self._driven[run.id]
            self._roomless.discard(run.id)
            self.wake()

    def _leave_room(self, run_id: RunId) -> None:
        self._roomless.add(run_id)
        self.wake()
