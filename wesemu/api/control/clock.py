"""`/_wesemu/clock`: emulated time, seen and steered."""

from datetime import timedelta
from typing import Protocol

from aiohttp import web

from wesemu.api.control import models
from wesemu.api.control.bodies import answer, read
from wesemu.clock import Clock, Course, EmulatedClock


class Steersman(Protocol):
    """Who steers the emulated clock: `wesemu.timekeeper.TimeKeeper`."""

    clock: EmulatedClock

    async def steer(self, *, speed: float | None = None, step: timedelta = ...) -> Course: ...


class ClockHandlers:
    """`pace` is told beside the time; it is a setting."""

    def __init__(self, keeper: Steersman, wall: Clock, pace: str) -> None:
        self._keeper = keeper
        self._wall = wall
        self._pace = pace

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/clock", self.show),
            web.put("/_wesemu/clock", self.set_speed),
            web.patch("/_wesemu/clock", self.set_speed),
            web.post("/_wesemu/clock/advance", self.advance),
        ]

    async def show(self, request: web.Request) -> web.Response:
        return self._answer()

    async def set_speed(self, request: web.Request) -> web.Response:
        body = await read(request, models.Speed)
        await self._keeper.steer(speed=body.speed)
        return self._answer()

    async def advance(self, request: web.Request) -> web.Response:
        body = await read(request, models.Advance)
        await self._keeper.steer(step=body.step)
        return self._answer()

    def _answer(self) -> web.Response:
        clock = self._keeper.clock
        return answer(
            models.Clock(
                now=clock.now(),
                wall=self._wall.now(),
                speed=clock.course.speed,
                pace=self._pace,
            )
        )
