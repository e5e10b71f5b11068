"""Scheduler: starts queued runs by service level, then by age.

More runs start than fit on the node. Their tasks wait for leases (docs/leases.md), so the next run
uses the cores that the last tasks of a run leave idle.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial

import structlog

from wesemu.errors import RunNotFound, TransitionRefused
from wesemu.runs import serialization
from wesemu.runs.clock import Clock
from wesemu.runs.disk_full import retry_index
from wesemu.runs.model import Run, RunId, RunState
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore

_RETRY_SECONDS = 1.0

log = structlog.get_logger("wesemu.scheduler")


def free_slots(active: Iterable[Run], slots: int) -> dict[int, int]:
    """Return how many more runs of each service rank can start, without ranks that have none.

    `slots` limits the active runs of the same or a better service level: runs of worse levels take
    no slot from a run.
    """
    ranks = [run.service_level.rank for run in active]  # a lower rank is a better level
    free = {level.rank: slots - sum(rank <= level.rank for rank in ranks) for level in ServiceLevel}
    return {rank: number for rank, number in free.items() if number > 0}


def startable(queued: Iterable[Run], active: Iterable[Run], slots: int) -> list[Run]:
    """Return the runs of `queued` (in queue order) that can start beside `active`. Pure."""
    running = [*active]
    chosen: list[Run] = []
    for run in queued:
        if run.service_level.rank in free_slots([*running, *chosen], slots):
            chosen.append(run)
    return chosen


class Scheduler:
    """Starts queued runs. `slots` limits the active runs of a level and the better ones together.

    `drive` executes one run to its end. It calls its second argument when the tools of the run have
    ended; the run then frees its slot, although it is still publishing or waiting for its SLA time.
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
        self._active: dict[RunId, tuple[Run, asyncio.Task[None]]] = {}
        self._without_slot: set[RunId] = set()
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Resume the runs that an earlier server left active, then start to serve the queue."""
        if (number := await self._store.queue.count_beyond(self._gpus)) > 0:
            log.warning("runs wait for a server with more GPUs", runs=number, gpus=self._gpus)
        # Started runs never wait again, even if there are more of them than slots. CANCELING runs
        # are driven too: the supervisor ends them.
        for run in await self._store.in_states(
            RunState.INITIALIZING, RunState.RUNNING, RunState.CANCELING
        ):
            self._start_task(run)
        self._wake.set()
        self._loop = asyncio.create_task(self._serve(), name="scheduler")

    async def close(self) -> None:
        """Stop. The supervisor decides whether the processes of the runs continue."""
        tasks = [task for _, task in self._active.values()]
        tasks += [self._loop] if self._loop else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Look at the queue again: a run was queued or has ended."""
        self._wake.set()

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until no run is active, at most `seconds`. Return whether that is the case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._active:
                    await asyncio.wait({task for _, task in self._active.values()})
        return not self._active

    async def _serve(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()  # before reading the queue, so a run queued meanwhile is not missed
            try:
                await self._start_runs()
            except Exception:
                log.exception("serving the queue failed; trying again")
                # without a pause, a lasting error would keep the event loop busy
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.wake)

    async def _start_runs(self) -> None:
        running = [run for run, _ in self._active.values() if run.id not in self._without_slot]
        if not (free := free_slots(running, self._slots)):
            return
        queued = await self._store.queue.next(free, self._gpus)
        for run in startable(queued, running, self._slots):
            try:
                initializing = await retry_index(partial(self._initialize, run))
            except (TransitionRefused, RunNotFound):  # canceled or removed since the queue was read
                self.wake()  # its slot is free for another run
                continue
            self._start_task(initializing)

    async def _initialize(self, run: Run) -> Run:
        started = serialization.format_timestamp(self._clock.now())
        return await self._store.move(run.id, RunState.INITIALIZING, started=started)

    def _start_task(self, run: Run) -> None:
        task = asyncio.create_task(self._drive_to_end(run), name=f"run {run.id}")
        self._active[run.id] = (run, task)

    async def _drive_to_end(self, run: Run) -> None:
        try:
            await self._drive(run, lambda: self._free_slot(run.id))
        finally:
            del self._active[run.id]
            self._without_slot.discard(run.id)
            self.wake()

    def _free_slot(self, run_id: RunId) -> None:
        self._without_slot.add(run_id)
        self.wake()
