"""The control API as the middleware sees it."""

from aiohttp import web

from wesemu.api.callfaults import OrderedAnswer
from wesemu.api.control.access import Access
from wesemu.api.dialect import REQUEST_ID
from wesemu.api.reception import CONTROL
from wesemu.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SystemFault,
    Unauthorized,
    WesemuError,
)
from wesemu.runs.model import LOCAL_OWNER, Owner

PUBLIC = frozenset({f"{CONTROL}health", f"{CONTROL}ready"})
"""What probes of another machine may ask: it tells whether the server serves, and nothing else."""

_STATUS: tuple[tuple[type[WesemuError], int], ...] = (
    (InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (SystemFault, 503),
)


class ControlDialect:
    """Plain JSON errors: `{"error": "…", "status": 404}`, with the `field` that is to blame."""

    handle = None
    operation = None

    def __init__(self, access: Access) -> None:
        self._access = access

    def owns(self, request: web.Request) -> bool:
        return request.path.startswith(CONTROL)

    async def authenticate(self, request: web.Request) -> Owner:
        """Raises Unauthorized or Forbidden. Paths that no API owns are nobody's."""
        if not self.owns(request):
            return Owner("")
        if request.path not in PUBLIC:
            self._access.check(request)
        return LOCAL_OWNER

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        message = f"internal error; the server's log has it under {request[REQUEST_ID]}"
        status, field = 500, None
        if isinstance(error, web.HTTPException):
            status, message = error.status, error.reason
            if isinstance(error, OrderedAnswer):
                message = error.message or message
            elif status == 404:
                message = "nothing lives here; try /ga4gh/wes/v1/service-info or /gs/workflows"
        elif isinstance(error, WesemuError):
            message, field = error.message, error.field
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        told: dict[str, str | int] = {"error": message, "status": status}
        if field is not None:
            told["field"] = field
        headers = {"WWW-Authenticate": 'Bearer realm="wesemu"'} if status == 401 else None
        return web.json_response(told, status=status, headers=headers)

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-request-id": request_id, "Cache-Control": "no-store"}
