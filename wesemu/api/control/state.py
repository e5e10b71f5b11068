"""`/_wesemu/health`, `ready` and `info`: how the server is and what it found."""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web

from wesemu import __version__
from wesemu.api.control import models
from wesemu.api.control.bodies import answer
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.runs.ports import Engine


class StateHandlers:
    """`hindrances` tells why the server cannot serve yet, `tools` (slow) what runs would use;
    `facts` stand in `info` as they are."""

    def __init__(
        self,
        engines: Sequence[Engine],
        hindrances: Callable[[], Awaitable[list[str]]],
        tools: Callable[[], list[JsonValue]],
        facts: Mapping[str, JsonValue],
    ) -> None:
        self._engines = engines
        self._hindrances = hindrances
        self._tools = tools
        self._facts = facts

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_wesemu/health", self.health),
            web.get("/_wesemu/ready", self.ready),
            web.get("/_wesemu/info", self.info),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """200 as soon as requests are answered."""
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """200 once runs can be carried out, 503 with the reasons until then."""
        reasons = await self._hindrances()
        told = models.Readiness(ready=not reasons, reasons=reasons)
        return answer(told, 503 if reasons else 200)

    async def info(self, request: web.Request) -> web.Response:
        engines: JsonObject = {engine.name: engine.version for engine in self._engines}
        told: JsonObject = {
            "version": __version__,
            "python": platform.python_version(),
            "engines": engines,
            "tools": await asyncio.to_thread(self._tools),
            **self._facts,
        }
        return web.json_response(told)
