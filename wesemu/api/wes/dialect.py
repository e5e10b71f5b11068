"""WES as the middleware sees it."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from wesemu.api.dialect import REQUEST_ID
from wesemu.api.wes.errors import render_error
from wesemu.api.wes.slashes import merge_slashes
from wesemu.errors import Forbidden, IssuerUnreachable, Unauthorized
from wesemu.runs.model import Owner

Authenticator = Callable[[web.Request], Awaitable[Owner]]

GUEST = Owner("")
"""Who asks for something public without credentials: somebody without runs."""

_PUBLIC = ("/wes/v1/service-info", "/wes/v1/openapi.yaml", "/wes/v1/reference")
_PATHS = re.compile(r"(/\d+\.\d+\.\d+)?/ga4gh(/.*)?", re.DOTALL)


class WesDialect:
    """Implements `wesemu.api.dialect.Dialect` for every version of WES."""

    handle = None
    operation = None

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def owns(self, request: web.Request) -> bool:
        return _PATHS.fullmatch(merge_slashes(request.path)) is not None

    async def authenticate(self, request: web.Request) -> Owner:
        """service-info is public, for clients read there how to get credentials; so is what
        describes the API."""
        if not merge_slashes(request.path).endswith(_PUBLIC):
            return await self._authenticator(request)
        try:
            return await self._authenticator(request)
        except (Unauthorized, Forbidden, IssuerUnreachable):
            return GUEST

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        return render_error(error, request[REQUEST_ID])

    def headers(self, request_id: str) -> dict[str, str]:
        return {"X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"}
