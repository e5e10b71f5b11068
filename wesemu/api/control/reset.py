"""`/_wesemu/reset` and `/_wesemu/seed`: a server as if it had just been started."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from wesemu.api.control import models
from wesemu.api.control.bodies import answer, read
from wesemu.api.gate import Gate
from wesemu.ids import IdSource
from wesemu.runs.overseer import Overseer

_PATIENCE_SECONDS = 5.0
"""How long requests that are under way may take before they are not waited for any longer."""


class ResetHandlers:
    """`restore` puts back whatever else the controls have changed; `empty_buckets` removes all
    objects, which is slow."""

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

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_wesemu/reset", self.reset),
            web.post("/_wesemu/seed", self.seed),
            web.put("/_wesemu/seed", self.seed),
        ]

    async def reset(self, request: web.Request) -> web.Response:
        """Other requests wait meanwhile."""
        body = await read(request, models.Reset)
        return await asyncio.shield(asyncio.create_task(self._reset(body), name="reset"))

    async def seed(self, request: web.Request) -> web.Response:
        body = await read(request, models.Seed)
        self._ids.seed(body.seed)
        return answer(body)

    async def _reset(self, wanted: models.Reset) -> web.Response:
        async with self._gate.closed():
            await self._overseer.cancel_all()
            await self._gate.emptied(_PATIENCE_SECONDS)
            await self._overseer.cancel_all()
            runs = await self._overseer.wipe()
            if wanted.buckets:
                await asyncio.to_thread(self._empty_buckets)
            await self._restore()
        return answer(models.Wiped(runs=runs, buckets=wanted.buckets))
