"""Who may use the controls: this machine, or whoever shows the admin token."""

import hmac
import re

from aiohttp import web

from wesemu.api.visitors import host_of, names_loopback, same_origin
from wesemu.errors import Forbidden, Unauthorized

_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class Access:
    """`admin_token` is the bearer token that opens the controls from anywhere; "" opens nothing.

    A web page that somebody looks at on this machine is not this machine: requests must name it
    as their host (no rebound DNS name), and come from no other origin.
    """

    def __init__(self, admin_token: str) -> None:
        self._token = admin_token.encode()

    def check(self, request: web.Request) -> None:
        """Raises Unauthorized for another machine without the token, Forbidden for a web page."""
        if self._shows_token(request):
            return
        if not _is_local(request):
            raise Unauthorized(
                "the emulator's own controls are for the machine that it runs on; from another "
                "one, send 'Authorization: Bearer …' with the setting auth.admin_token"
            )
        origin = request.headers.get("Origin")
        foreign = origin is not None and not same_origin(origin, request.host)
        if foreign or not names_loopback(host_of(request)):
            raise Forbidden(
                "this request comes from a web page of another site or by another name than this "
                "machine's own; use http://127.0.0.1, or the admin token"
            )

    def _shows_token(self, request: web.Request) -> bool:
        shown = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        if shown is None or not self._token:
            return False
        return hmac.compare_digest(shown[1].encode(errors="surrogateescape"), self._token)


def _is_local(request: web.Request) -> bool:
    """A peer on loopback, or on a Unix socket, which has no address."""
    return not request.remote or names_loopback(request.remote)
