"""The queue: by service level, then age; packs runs on this machine's node.

A smaller run may pass one that does not fit, but only into room that the waiting run would
leave free even after everything before it has ended; so passing delays nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from wesemu.clock import Clock
from wesemu.errors import TransitionRefused
from wesemu.runs import codec
from wesemu.runs.model import Resources, Run, RunId, RunState
from wesemu.runs.store import RunStore

log = structlog.get_logger("wesemu.scheduler")


def startable(queued: Sequence[Run], running: Iterable[Run], capacity: Resources) -> list[Run]:
    """Which of `queued` (in order of service) fit now beside `running`. Pure.

    Memory and GPUs are capped by `capacity` as cores are; a capacity of 0 MiB counts no memory.
    """
    active = list(running)
    chosen: list[Run] = []
    waiting: Run | None = None
    for run in queued:
        if not _fits(run.resources, _sum(active), capacity):
            waiting = waiting or run
            continue
        if waiting is not None:
            passed = [other for other in active if _rank(other) > _rank(waiting)]
            if not _fits(waiting.resources, _sum([*passed, run]), capacity):
                continue
        active.append(run)
        chosen.append(run)
    return chosen


def _rank(run: Run) -> tuple[int, int]:
    return (run.service_level.rank, run.sequence)


def _sum(runs: Iterable[Run]) -> Resources:
    asked = [run.resources for run in runs]
    return Resources(
        cores=sum(r.cores for r in asked),
        memory_mb=sum(r.memory_mb for r in asked),
        gpus=sum(r.gpus for r in asked),
    )


def _fits(wanted: Resources, used: Resources, capacity: Resources) -> bool:
    return (
        used.cores + wanted.cores <= capacity.cores
        and used.gpus + wanted.gpus <= capacity.gpus
        and (not capacity.memory_mb or used.memory_mb + wanted.memory_mb <= capacity.memory_mb)
    )


class Scheduler:
    """Starts queued runs as room allows. `drive` carries one run through to its end."""

    def __init__(
        self,
        store: RunStore,
        drive: Callable[[Run], Awaitable[None]],
        capacity: Resources,
        clock: Clock,
    ) -> None:
        self._store = store
        self._drive = drive
        self._capacity = capacity
        self._clock = clock
        self._driven: dict[RunId, tuple[Run, asyncio.Task[None]]] = {}
        self._bell = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over what an earlier server left under way, then begin to serve the queue."""
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
        running = [run for run, _ in self._driven.values()]
        for run in startable(queued, running, self._capacity):
            try:
                begun = await self._store.move(
                    run.id, RunState.INITIALIZING, started=codec.stamp(self._clock.now())
                )
            except TransitionRefused:
                continue
            self._begin(begun)

    def _begin(self, run: Run) -> None:
        task = asyncio.create_task(self._carry(run), name=f"run {run.id}")
        self._driven[run.id] = (run, task)

    async def _carry(self, run: Run) -> None:
        try:
            await self._drive(run)
        finally:
            del self._driven[run.id]
            self.wake()
