"""AGS as the middleware sees it."""

from aiohttp import web

from wesemu.api.ags.authenticator import Authenticator
from wesemu.api.ags.errors import render
from wesemu.runs.model import Owner


class AgsDialect:
    """Implements `wesemu.api.dialect.Dialect`: `/gs/…`, signatures, errors in JSON or XML."""

    handle = None
    operation = None

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def owns(self, request: web.Request) -> bool:
        return request.path == "/gs" or request.path.startswith("/gs/")

    async def authenticate(self, request: web.Request) -> Owner:
        """Raises SignatureRefused; TokenRefused, Forbidden or IssuerUnreachable of a token."""
        return await self._authenticator.owner(request)

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        return render(error, request)

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-acs-request-id": request_id}
