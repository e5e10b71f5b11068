"""`/_wesemu/reset` and `/_wesemu/seed`: a server as if it had just been started."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from wesemu.api.control import models
from wesemu.api.control.bodies import answer, read
from wesemu.api.gate import Gate
from wesemu.ids import IdSource
from wesemu.runs.overseer import Overseer

_REQUEST_SECONDS = 5.0
"""How long requests that are under way may take before they are broken off."""

_RUN_SECONDS = 60.0
"""How long runs may take to end once they are cancelled."""


class ResetHandlers:
    """`restore` puts back whatever else the controls have changed; `empty_buckets` removes all
    objects, which is slow. `close` breaks off resets, for the server's shut-down."""

    def __init__(
        self,
        overseer: Overseer,
        gate: Gate,
        ids: IdSource,
        *,
        restore: Callable[[], Awaitable[None]],
        empty_buckets: Callable[[], None],
    ) -> None:
        self._overseer = overseer
        self._gate = gate
        self._ids = ids
        self._restore = restore
        self._empty_buckets = empty_buckets
        self._resetting: set[asyncio.Task[web.Response]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_wesemu/reset", self.reset),
            web.post("/_wesemu/seed", self.seed),
            web.put("/_wesemu/seed", self.seed),
        ]

    async def reset(self, request: web.Request) -> web.Response:
        """Other requests wait meanwhile. A client that goes away does not break it off."""
        body = await read(request, models.Reset)
        resetting = asyncio.create_task(self._reset(body), name="reset")
        self._resetting.add(resetting)
        resetting.add_done_callback(self._resetting.discard)
        return await asyncio.shield(resetting)

    async def close(self, _: web.Application) -> None:
        for resetting in self._resetting:
            resetting.cancel()
        await asyncio.gather(*self._resetting, return_exceptions=True)

    async def seed(self, request: web.Request) -> web.Response:
        body = await read(request, models.Seed)
        self._ids.seed(body.seed)
        return answer(body)

    async def _reset(self, wanted: models.Reset) -> web.Response:
        async with self._gate.closed():
            # first the requests, since they may submit, then what they and others have submitted
            await self._gate.emptied(_REQUEST_SECONDS)
            await self._overseer.end_all(_RUN_SECONDS)
            runs = await self._overseer.wipe()
            await self._restore()
            if wanted.buckets:
                await asyncio.to_thread(self._empty_buckets)
        return answer(models.Wiped(runs=runs, buckets=wanted.buckets))
