"""Protection against web pages that use the server in a user's name: CORS, cross-site request
forgery (CSRF) and DNS rebinding.

Any page can send a form to any address, and can make its own host name resolve to this machine. A
server without credentials cannot tell such a request from a user's own. With credentials, only
passwords are at risk: a browser resends `Authorization: Basic` for every page.
"""

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from aiohttp import web
from yarl import URL

from wesemu.api.connections import PROXIED, base_url
from wesemu.errors import Forbidden

# Cross-origin resource sharing (Fetch standard, CORS protocol): setting `server.cors_origins`

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
"""Response headers that pages may read, in addition to the safelisted ones."""


class CrossOrigins:
    """The origins whose pages may call the server. They are compared exactly; there is no `*`.

    Pages send a token in `Authorization`. Requests with credentials (cookies, passwords) are not
    allowed.
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._origins = frozenset(origins)

    def allows(self, request: web.Request) -> bool:
        """Return whether an allowed origin sent the request."""
        return request.headers.get("Origin", "") in self._origins

    def preflight(self, request: web.Request) -> web.Response | None:
        """Return the response to a CORS preflight request, or None for any other request."""
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

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the page read the response. For `web.Application.on_response_prepare`."""
        if not self._origins:
            return
        response.headers.add("Vary", "Origin")
        if self.allows(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED


def check_origin(text: str) -> str:
    """Return an origin in the form that browsers send. Raises ValueError."""
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or text != str(url.origin()):
        raise ValueError(
            f"{text[:80]!r} is not an origin; write https://host or https://host:port, "
            "without a path"
        )
    return text


_FORWARDED = frozenset(
    {
        *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-remote-addr"),
        *("x-original-host", "x-original-forwarded-for", "x-envoy-external-address"),
        *("cf-connecting-ip", "true-client-ip", "fastly-client-ip", "fly-client-ip"),
    }
)
"""Headers that proxies add to forwarded requests, in addition to X-Forwarded-*."""

_NAMES = frozenset({"localhost", "ip6-localhost", "127.0.0.1", "::1"})
_FOREIGN = frozenset({"cross-site", "same-site"})


class RequestGuard:
    """Refuses requests of foreign web pages, unknown host names and unexpected proxies.

    `is_open`: the server accepts requests without credentials.
    `hosts`: names that an open server accepts in addition to loopback, with `*` as wildcard; None
    if it listens beyond loopback and cannot know its names.
    `insecure`: an open server on loopback also accepts requests from proxies, which may forward for
    any machine.
    """

    def __init__(
        self,
        *,
        is_open: bool,
        hosts: Sequence[str] | None = None,
        insecure: bool = False,
        origins: CrossOrigins | None = None,
    ) -> None:
        self._origins = origins or CrossOrigins()
        self._is_open = is_open
        self._insecure = insecure
        self._hosts = None if hosts is None else [host.casefold() for host in hosts]

    def check(self, request: web.Request) -> None:
        """Raise Forbidden if the request is not allowed."""
        headers = request.headers
        if not self._is_open and not _is_basic(headers.get("Authorization", "")):
            return
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
        # following a link to the server is harmless: the other page cannot read the response
        is_navigation = (
            request.method in ("GET", "HEAD") and headers.get("Sec-Fetch-Mode") == "navigate"
        )
        foreign = (origin is not None and not same_origin(origin, request)) or (
            site in _FOREIGN and not is_navigation
        )
        if foreign and not (self._is_open and self._origins.allows(request)):
            raise Forbidden(
                "web pages of other origins must not use a server without credentials"
                if self._is_open
                else "web pages of other origins must not use a password; send a bearer token"
            )
        if not self._is_open:
            return
        if self._hosts is not None and not self._insecure and is_forwarded(request):
            raise Forbidden(
                "a proxy has forwarded this request, but a server without credentials serves its "
                "own machine only; set credentials, or start it with --insecure"
            )
        host = host_of(request)
        if self._hosts is not None and not names_loopback(host) and not self._knows(host):
            raise Forbidden(
                f"the host name {host[:80]!r} is not allowed; use http://127.0.0.1, or add the "
                "name to the setting hosts"
            )

    def _knows(self, host: str) -> bool:
        return any(fnmatchcase(host.casefold(), pattern) for pattern in self._hosts or ())


def _is_basic(authorization: str) -> bool:
    """Return whether the browser may have added the credentials itself (RFC 7617)."""
    return authorization.lstrip()[:6].casefold() == "basic "


def is_forwarded(request: web.Request) -> bool:
    """Return whether a proxy forwarded the request, so it may come from any machine."""
    if request.get(PROXIED, False):
        return True
    return any(map(_is_of_proxy, request.headers))


@lru_cache(maxsize=256)
def _is_of_proxy(header: str) -> bool:
    name = header.lower().replace("_", "-")
    return name in _FORWARDED or name.startswith("x-forwarded")


def host_of(request: web.Request) -> str:
    """Return the name in the Host header without the port, or "" if it is malformed."""
    try:
        return URL(f"http://{request.host}").host or ""
    except ValueError:
        return ""


@lru_cache(maxsize=64)
def names_loopback(host: str) -> bool:
    if host in _NAMES or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def same_origin(origin: str, request: web.Request) -> bool:
    """Return whether the origin is the server itself, under any of its names."""
    host = request.host
    own = {f"http://{host}", f"https://{host}", _origin(base_url(request))}
    return origin.casefold() in {name.casefold() for name in own}


def _origin(url: str) -> str:
    try:
        return str(URL(url).origin())
    except ValueError:
        return url
