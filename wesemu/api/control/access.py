"""Who may use the controls: whoever shows the admin token; where there is none, this machine."""

import hmac
import re

from aiohttp import HttpVersion11, web

from wesemu.api.visitors import host_of, is_forwarded, names_loopback, same_origin
from wesemu.errors import Forbidden, NotFound, Unauthorized

_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class Access:
    """`admin_token` is the bearer token that the controls need, from everywhere. With "" they need
    none and are for this machine alone. Without `enabled` they are for nobody.

    A web page that somebody looks at on this machine is not this machine: requests must name it
    as their host (no rebound DNS name), and come from no other origin. Nor is what a proxy passes
    on.
    """

    def __init__(self, admin_token: str, *, enabled: bool = True) -> None:
        self._token = admin_token.encode()
        self._enabled = enabled

    def check(self, request: web.Request) -> None:
        """Raises NotFound, Unauthorized without the token or from another machine, and Forbidden
        for a web page."""
        if not self._enabled:
            raise NotFound("the controls are switched off (the setting controls)")
        if self._token:
            if not self._shows_token(request):
                raise Unauthorized(
                    "the emulator's own controls need the admin token here; send "
                    "'Authorization: Bearer …' with the setting auth.admin_token"
                )
            return
        if not _is_local(request):
            raise Unauthorized(
                "the emulator's own controls are for the machine that it runs on; for another "
                "one or through a proxy, set auth.admin_token and send it as "
                "'Authorization: Bearer …'"
            )
        origin = request.headers.get("Origin")
        foreign = origin is not None and not same_origin(origin, request)
        if foreign or not names_loopback(host_of(request)):
            raise Forbidden(
                "this request comes from a web page of another site or by another name than this "
                "machine's own; use http://127.0.0.1, or the admin token"
            )

    def _shows_token(self, request: web.Request) -> bool:
        shown = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        if shown is None:
            return False
        return hmac.compare_digest(shown[1].encode(errors="surrogateescape"), self._token)


def _is_local(request: web.Request) -> bool:
    """A peer on loopback, or on a Unix socket, which has no address; but no proxy: those that add
    no header speak HTTP/1.0."""
    if is_forwarded(request) or request.version < HttpVersion11:
        return False
    return not request.remote or names_loopback(request.remote)
