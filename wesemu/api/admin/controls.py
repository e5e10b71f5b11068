"""Handlers that change the server: `/_wesemu/prune`, `clock`, `faults`, `reset` and `seed`; and
the log of requests, `/_wesemu/requests`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Protocol

from aiohttp import web

from wesemu.api.admin import models
from wesemu.api.admin.routes import answer, read, read_nothing
from wesemu.api.base import RequestLog
from wesemu.api.fault_injection import MaintenanceGate, RequestFault, RequestFaults, operation_name
from wesemu.errors import InvalidRequest
from wesemu.runs.admin_service import AdminService
from wesemu.runs.clock import Clock, ClockRate, EmulatedClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import InjectedFault
from wesemu.runs.retention import Retention
from wesemu.runs.service import ServicePolicy

# `/_wesemu/prune`


class PruneHandlers:
    """Prunes old runs on request. `retention` also prunes on a schedule."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/_wesemu/prune", self.prune)]

    async def prune(self, request: web.Request) -> web.Response:
        """Report the number of runs and the bytes that were freed. A dry run only counts them."""
        body = await read(request, models.Prune)
        try:
            age = timedelta(days=body.older_than_days)
        except OverflowError:
            raise InvalidRequest("it is more than a date can be", field="older_than_days") from None
        pruned = await self._retention.prune(
            age, keep_outputs=body.keep_outputs, dry_run=body.dry_run
        )
        return answer(models.PruneReport(runs=pruned.runs, freed_bytes=pruned.freed_bytes))


# `/_wesemu/clock`


class ClockControl(Protocol):
    """Changes the emulated clock; see `wesemu.runs.clock.PersistentClock`."""

    clock: EmulatedClock

    async def adjust(self, *, speed: float | None = None, step: timedelta = ...) -> ClockRate: ...


class ClockHandlers:
    """Shows and changes the emulated clock. `pace` is the setting `sla.pace`."""

    def __init__(self, control: ClockControl, wall: Clock, pace: str) -> None:
        self._control = control
        self._wall = wall
        self._pace = pace

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/clock", self.show),
            web.put("/_wesemu/clock", self.set_speed),
            web.patch("/_wesemu/clock", self.set_speed),
            web.post("/_wesemu/clock/advance", self.advance),
        ]

    async def set_speed(self, request: web.Request) -> web.Response:
        body = await read(request, models.Speed)
        await self._control.adjust(speed=body.speed)
        return await self.show(request)

    async def advance(self, request: web.Request) -> web.Response:
        body = await read(request, models.Advance)
        await self._control.adjust(step=body.step)
        return await self.show(request)

    async def show(self, request: web.Request) -> web.Response:
        clock = self._control.clock
        return answer(
            models.ClockResponse(
                now=clock.now(), wall=self._wall.now(), speed=clock.rate.speed, pace=self._pace
            )
        )


# `/_wesemu/faults`


class FaultHandlers:
    """Queues faults: `calls` for requests, `policy` for runs."""

    def __init__(self, calls: RequestFaults, policy: ServicePolicy) -> None:
        self.calls = calls
        self.policy = policy

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/faults", self.show),
            web.post("/_wesemu/faults", self.inject),
            web.delete("/_wesemu/faults", self.clear),
        ]

    async def inject(self, request: web.Request) -> web.Response:
        self.add(await read(request, models.FaultBody))
        return await self.show(request)

    def add(self, body: models.FaultBody) -> None:
        """Queue a fault. Raises InvalidRequest for an unknown operation."""
        if body.next_run is not None:
            self.policy.inject(_to_run_fault(body.next_run), body.times)
        elif body.operation is not None:
            fault = RequestFault(
                body.operation,
                body.status,
                body.delay,
                body.drop,
                body.code,
                body.message,
                body.after,
            )
            self.calls.inject(fault, body.times)

    async def clear(self, request: web.Request) -> web.Response:
        await read_nothing(request)
        self.clear_all()
        return await self.show(request)

    def clear_all(self) -> None:
        self.calls.clear()
        self.policy.clear()

    async def show(self, request: web.Request) -> web.Response:
        calls = [
            models.FaultBody(**asdict(fault), times=times) for fault, times in self.calls.pending
        ]
        runs = [
            models.FaultBody(next_run=_from_run_fault(fault), times=times)
            for fault, times in self.policy.pending
        ]
        return answer(models.FaultList(faults=[*calls, *runs]))


def _to_run_fault(body: models.NextRun) -> InjectedFault:
    return InjectedFault(
        late_minutes=(body.late_minutes or 1) if body.misses_sla else 0,
        fails_at_task=body.fails_at_task,
        out_of_disk=body.runs_out_of_disk,
    )


def _from_run_fault(fault: InjectedFault) -> models.NextRun:
    return models.NextRun(
        misses_sla=fault.late_minutes > 0,
        late_minutes=fault.late_minutes or None,
        fails_at_task=fault.fails_at_task,
        runs_out_of_disk=fault.out_of_disk,
    )


# `/_wesemu/requests`


class RequestLogHandlers:
    """Shows and clears the log of the last requests."""

    def __init__(self, requests: RequestLog) -> None:
        self._requests = requests

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/requests", self.show),
            web.delete("/_wesemu/requests", self.clear),
        ]

    async def clear(self, request: web.Request) -> web.Response:
        await read_nothing(request)
        self._requests.clear()
        return await self.show(request)

    async def show(self, request: web.Request) -> web.Response:
        return answer(
            models.RequestList(
                requests=[
                    models.LoggedRequest(
                        **each._asdict()
                        | {"operation": each.operation or operation_name(each.method, each.path)}
                    )
                    for each in self._requests
                ]
            )
        )


# `/_wesemu/reset` and `/_wesemu/seed`
_REQUEST_SECONDS = 5.0
"""How long a reset waits for active requests before it cancels them."""

_RUN_SECONDS = 60.0
"""How long a reset waits for cancelled requests, and for cancelled runs, to end."""


class ResetHandlers:
    """Resets the server to the state after its first start.

    `restore` resets the clock and the faults. `empty_buckets` removes all objects; it blocks.
    `to_seed` fills the empty buckets of a server with a seed, which are then emptied by each reset.
    `close` cancels running resets when the server shuts down.
    """

    def __init__(
        self,
        service: AdminService,
        gate: MaintenanceGate,
        ids: IdSource,
        *,
        restore: Callable[[], Awaitable[None]],
        empty_buckets: Callable[[], None],
        to_seed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._service = service
        self._gate = gate
        self._ids = ids
        self._restore = restore
        self._empty_buckets = empty_buckets
        self._to_seed = to_seed
        self._resetting: set[asyncio.Task[int]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_wesemu/reset", self.reset),
            web.post("/_wesemu/seed", self.seed),
            web.put("/_wesemu/seed", self.seed),
        ]

    async def reset(self, request: web.Request) -> web.Response:
        """Reset while other requests wait. The reset continues if the client disconnects."""
        body = await read(request, models.Reset)
        return answer(await self.start_over(buckets=body.buckets))

    async def start_over(self, *, buckets: bool) -> models.ResetReport:
        """Reset. `buckets` also removes all objects, as a server with a seed always does."""
        buckets = buckets or self._to_seed is not None
        removed = await self.run(self._to_seed or _nothing, buckets=buckets)
        return models.ResetReport(runs=removed, buckets=buckets)

    async def run(self, work: Callable[[], Awaitable[None]], *, buckets: bool) -> int:
        """Reset, then do `work` while requests still wait. Return the number of removed runs.

        Both continue if the caller is cancelled.
        """
        resetting = asyncio.create_task(self._reset(work, buckets), name="reset")
        self._resetting.add(resetting)
        resetting.add_done_callback(self._resetting.discard)
        return await asyncio.shield(resetting)

    async def close(self, _: web.Application) -> None:
        for resetting in self._resetting:
            resetting.cancel()
        await asyncio.gather(*self._resetting, return_exceptions=True)

    async def seed(self, request: web.Request) -> web.Response:
        body = await read(request, models.SeedRequest)
        self._ids.seed(body.seed)
        return answer(body)

    async def _reset(self, work: Callable[[], Awaitable[None]], buckets: bool) -> int:
        async with self._gate.closed():
            # requests first: they may still submit runs, which end_all() then cancels
            await self._gate.emptied(_REQUEST_SECONDS, _RUN_SECONDS)
            await self._service.end_all(_RUN_SECONDS)
            runs = await self._service.wipe()
            await self._restore()
            if buckets:
                await asyncio.to_thread(self._empty_buckets)
            await work()
        return runs


async def _nothing() -> None:
    pass
