"""Cross-origin resource sharing: web pages of the origins in `server.cors_origins` may call."""

import re
from collections.abc import Sequence

from aiohttp import web
from yarl import URL

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_TOKENS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2000}")
_MAX_AGE_SECONDS = "600"
_EXPOSED = ", ".join(
    (
        *("Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "Date"),
        *("ETag", "Last-Modified", "Location", "Repr-Digest", "Retry-After", "WWW-Authenticate"),
        *("X-Request-Id", "x-acs-request-id", "x-oss-request-id", "x-oss-hash-crc64ecma"),
        *("x-oss-next-append-position", "x-oss-object-type"),
    )
)
"""What pages may read of an answer, besides what they always may."""


class CrossOrigins:
    """`origins` are compared to the letter; there is no `*`. Pages show a token in
    `Authorization`: cookies and passwords that browsers send by themselves are not asked for."""

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._origins = frozenset(origins)

    def allows(self, request: web.Request) -> bool:
        """Whether a page of an origin that is let in has sent the request."""
        return request.headers.get("Origin", "") in self._origins

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks before it sends what a page wants; None for any
        other request."""
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or not self.allows(request):
            return None
        headers = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Max-Age": _MAX_AGE_SECONDS,
        }
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        if _TOKENS.fullmatch(wanted):
            headers["Access-Control-Allow-Headers"] = wanted
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

    async def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the page read the answer; for `on_response_prepare`."""
        if not self._origins:
            return
        response.headers.add("Vary", "Origin")
        if self.allows(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED


def check_origin(text: str) -> str:
    """An origin as browsers write it. Raises ValueError."""
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or text != str(url.origin()):
        raise ValueError(
            f"{text[:80]!r} is no origin; write https://host or https://host:port, without a path"
        )
    return text
