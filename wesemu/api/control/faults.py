"""`/_wesemu/faults`: what is to go wrong with the next calls and the next runs."""

from aiohttp import web

from wesemu.api.callfaults import CallFault, CallFaults
from wesemu.api.control import models
from wesemu.api.control.bodies import answer, read, read_nothing
from wesemu.runs.policy import ServicePolicy
from wesemu.runs.terms import Fault


class FaultHandlers:
    """`calls` and `policy` keep the faults until something comes that they strike."""

    def __init__(self, calls: CallFaults, policy: ServicePolicy) -> None:
        self._calls = calls
        self._policy = policy

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/faults", self.show),
            web.post("/_wesemu/faults", self.order),
            web.delete("/_wesemu/faults", self.forget),
        ]

    async def show(self, request: web.Request) -> web.Response:
        return self._answer()

    async def order(self, request: web.Request) -> web.Response:
        body = await read(request, models.Fault)
        if body.next_run is not None:
            for _ in range(body.times):
                self._policy.order(_to_run_fault(body.next_run))
        elif body.operation is not None:
            fault = CallFault(
                body.operation,
                body.status,
                body.delay,
                body.drop,
                body.code,
                body.message,
                body.after,
            )
            self._calls.order(fault, body.times)
        return self._answer()

    async def forget(self, request: web.Request) -> web.Response:
        await read_nothing(request)
        self.forget_all()
        return self._answer()

    def forget_all(self) -> None:
        self._calls.forget()
        self._policy.forget_orders()

    def _answer(self) -> web.Response:
        calls = [
            models.Fault(
                operation=fault.operation,
                times=times,
                status=fault.status,
                delay=fault.delay,
                drop=fault.drop,
                code=fault.code,
                message=fault.message,
                after=fault.after,
            )
            for fault, times in self._calls.ordered
        ]
        runs = [models.Fault(next_run=_from_run_fault(fault)) for fault in self._policy.ordered]
        return answer(models.Orders(faults=[*calls, *runs]))


def _to_run_fault(asked: models.NextRun) -> Fault:
    return Fault(
        late_minutes=(asked.late_minutes or 1) if asked.misses_sla else 0,
        fails_at_task=asked.fails_at_task,
        out_of_disk=asked.runs_out_of_disk,
    )


def _from_run_fault(fault: Fault) -> models.NextRun:
    return models.NextRun(
        misses_sla=fault.late_minutes > 0,
        late_minutes=fault.late_minutes or None,
        fails_at_task=fault.fails_at_task,
        runs_out_of_disk=fault.out_of_disk,
    )
