"""Against web pages that use a server without credentials in the name of who looks at them.

A page can send a form to any address (cross-site request forgery), and have its own name come to
mean this machine (DNS rebinding). Where callers must show credentials, neither helps it: except
that a browser sends a password (`Authorization: Basic`) again unasked, for whatever page.
"""

import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase

from aiohttp import web
from yarl import URL

from wesemu.api.cors import CrossOrigins
from wesemu.api.proxies import PROXIED, base_url
from wesemu.errors import Forbidden

_FORWARDED = frozenset(
    {
        *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-remote-addr"),
        *("x-original-host", "x-original-forwarded-for", "x-envoy-external-address"),
        *("cf-connecting-ip", "true-client-ip", "fastly-client-ip", "fly-client-ip"),
    }
)
"""What proxies add to the requests that they pass on, besides X-Forwarded-*."""

_NAMES = frozenset({"localhost", "ip6-localhost", "127.0.0.1", "::1"})
_FOREIGN = frozenset({"cross-site", "same-site"})


class Visitors:
    """`is_open` says that nobody shows credentials. `hosts` are the names besides loopback's that
    such a server answers to, with `*` for any letters; None where it listens beyond loopback and
    cannot know its own names. Such a server on loopback takes no requests that a proxy passes on,
    unless `insecure`: they may come from any machine."""

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
        """Raises Forbidden."""
        headers = request.headers
        if not self._is_open and not _sent_unasked(headers.get("Authorization", "")):
            return
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
        looks_on = request.method in ("GET", "HEAD") and headers.get("Sec-Fetch-Mode") == "navigate"
        foreign = (origin is not None and not same_origin(origin, request)) or (
            site in _FOREIGN and not looks_on
        )
        if foreign and not (self._is_open and self._origins.allows(request)):
            raise Forbidden(
                "a web page of another origin may not act on a server without keys"
                if self._is_open
                else "a web page of another origin may not act by a password; show a bearer token"
            )
        if not self._is_open:
            return
        if self._hosts is not None and not self._insecure and is_forwarded(request):
            raise Forbidden(
                "a proxy has passed this request on, and a server without credentials serves its "
                "own machine only; set credentials, or start it with --insecure"
            )
        host = host_of(request)
        if self._hosts is not None and not names_loopback(host) and not self._knows(host):
            raise Forbidden(
                f"this server does not go by the name {host[:80]!r}; use http://127.0.0.1, or add "
                "the name to the setting hosts"
            )

    def _knows(self, host: str) -> bool:
        return any(fnmatchcase(host.casefold(), pattern) for pattern in self._hosts or ())


def _sent_unasked(authorization: str) -> bool:
    return authorization.lstrip()[:6].casefold() == "basic "


def is_forwarded(request: web.Request) -> bool:
    """Whether a proxy has passed the request on, which then may come from any machine."""
    if request.get(PROXIED, False):
        return True
    names = {name.lower().replace("_", "-") for name in request.headers}
    return not names.isdisjoint(_FORWARDED) or any(name.startswith("x-forwarded") for name in names)


def host_of(request: web.Request) -> str:
    """The name in the Host header, without the port; "" for one that is malformed."""
    try:
        return URL(f"http://{request.host}").host or ""
    except ValueError:
        return ""


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
    """Whether a page of this origin comes from the server itself, by whatever name."""
    host = request.host
    own = {f"http://{host}", f"https://{host}", _origin(base_url(request))}
    return origin.casefold() in {name.casefold() for name in own}


def _origin(url: str) -> str:
    try:
        return str(URL(url).origin())
    except ValueError:
        return url
