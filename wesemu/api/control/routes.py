"""`/_wesemu/…`: health, readiness and what this server is."""

from collections.abc import Sequence

from aiohttp import web

from wesemu import __version__
from wesemu.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SystemFault,
    Unauthorized,
    WesemuError,
)
from wesemu.runs.model import LOCAL_OWNER, JsonObject, Owner
from wesemu.runs.ports import Engine

_STATUS: tuple[tuple[type[WesemuError], int], ...] = (
    (InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (SystemFault, 503),
)


class ControlDialect:
    """Plain JSON errors: `{"error": "…", "status": 404}`."""

    def owns(self, path: str) -> bool:
        return path.startswith("/_wesemu/")

    async def authenticate(self, request: web.Request) -> Owner:
        return LOCAL_OWNER

    def render_error(self, error: Exception, request_id: str) -> web.Response:
        message = f"internal error; the server's log has it under {request_id}"
        status = 500
        if isinstance(error, web.HTTPException):
            status, message = error.status, error.reason
            if status == 404:
                message = "nothing lives here; try /ga4gh/wes/v1/service-info or /gs/workflows"
        elif isinstance(error, WesemuError):
            message = error.message
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        return web.json_response({"error": message, "status": status}, status=status)

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-request-id": request_id}


class ControlHandlers:
    """Answers for a server with these engines."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/_wesemu/health", self.health), web.get("/_wesemu/info", self.info)]

    async def health(self, request: web.Request) -> web.Response:
        """200 as soon as requests are answered."""
        return web.json_response({"status": "ok"})

    async def info(self, request: web.Request) -> web.Response:
        engines: JsonObject = {engine.name: engine.version for engine in self._engines}
        return web.json_response({"version": __version__, "engines": engines})
