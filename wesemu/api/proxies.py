"""Requests that a trusted proxy passes on are seen as their clients sent them.

A proxy that the settings trust tells the client's address, and the scheme and host that the client
used, by `X-Forwarded-*` or by `Forwarded` (RFC 7239). What others tell is not believed. A request
through a proxy never counts as this machine's own, whatever address is told.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

UNIX = "unix"
"""In place of a network: whoever connects to the unix socket."""

Network = IPv4Network | IPv6Network | str
Address = IPv4Address | IPv6Address

BASE_URL: web.RequestKey[str] = web.RequestKey("base_url", str)
PROXIED: web.RequestKey[bool] = web.RequestKey("proxied", bool)

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:\d{1,5})?")
_PAIR = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*')
_MOST_PROXIES = 20


class Proxies:
    """`trusted` are the networks of proxies. `public_url` is the address by which clients reach
    the server, with a path where a proxy strips one; it stands in the URLs that answers tell."""

    def __init__(self, trusted: Sequence[Network] = (), public_url: str = "") -> None:
        self._trusted = trusted
        self._public_url = public_url.rstrip("/")

    def seen(self, request: web.Request) -> web.Request:
        """The request as its client sent it."""
        if self._trusted and self._is_trusted(request.remote or ""):
            request = self._as_sent(request)
            request[PROXIED] = True
        if self._public_url:
            request[BASE_URL] = self._public_url
        return request

    def _as_sent(self, request: web.Request) -> web.Request:
        hops = _hops(request.headers)
        remote, passed = request.remote or "", 0
        for address in reversed([hop.get("for", "") for hop in hops][-_MOST_PROXIES:]):
            if not self._is_trusted(remote):
                break
            passed += 1
            remote = address
        told = hops[len(hops) - max(passed, 1)] if hops else {}
        scheme = told.get("proto", "").lower()
        host = told.get("host", "")
        headers: CIMultiDict[str] = CIMultiDict(request.headers)
        if _HOST.fullmatch(host):
            headers["Host"] = host
        return request.clone(
            headers=CIMultiDictProxy(headers),
            scheme=scheme if scheme in ("http", "https") else request.scheme,
            host=headers.get("Host", request.host),
            remote=remote,
        )

    def _is_trusted(self, text: str) -> bool:
        address = _address(text)
        if address is None:
            return UNIX in self._trusted and not text
        return any(
            not isinstance(network, str)
            and address.version == network.version
            and address in network
            for network in self._trusted
        )


def base_url(request: web.Request) -> str:
    """The address that the caller used, without a slash at its end: `server.public_url`, or the
    scheme and Host of the request; without a Host the one that it is connected to."""
    told: str | None = request.get(BASE_URL)
    if told is not None:
        return told
    host = request.headers.get("Host")
    if host is None and request.transport is not None:
        name = request.transport.get_extra_info("sockname")
        host = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "localhost"
    return f"{request.scheme}://{host}"


def check_public_url(text: str) -> str:
    """A URL without a query, or "". Raises ValueError."""
    if not text:
        return ""
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise ValueError("write https://host or https://host/path, without a query")
    if url.user is not None or url.password is not None:
        raise ValueError("a public URL has no password in it")
    return text.rstrip("/")


def _hops(headers: Mapping[str, str]) -> list[dict[str, str]]:
    """What each proxy has told, the nearest one last: `for`, `proto` and `host`."""
    if "Forwarded" in headers and "X-Forwarded-For" not in headers:
        return [_element(text) for text in _split(_joined(headers, "Forwarded"))]
    hops = [{"for": text} for text in _listed(headers, "X-Forwarded-For")]
    hops = hops or [{"for": headers.get("X-Real-IP", "")}]
    for name, key in (("X-Forwarded-Proto", "proto"), ("X-Forwarded-Host", "host")):
        values = _listed(headers, name)
        for place, hop in enumerate(reversed(hops)):
            if values:  # one that is told once holds for all
                hop[key] = values[max(len(values) - 1 - place, 0)]
    return hops


def _element(text: str) -> dict[str, str]:
    pairs = {name.lower(): value.strip('"') for name, value in _PAIR.findall(text)}
    return {name: pairs[name] for name in ("for", "proto", "host") if name in pairs}


def _joined(headers: Mapping[str, str], name: str) -> str:
    every = headers.getall(name, []) if isinstance(headers, CIMultiDictProxy) else [headers[name]]
    return ",".join(every)


def _listed(headers: Mapping[str, str], name: str) -> list[str]:
    return [text.strip() for text in _joined(headers, name).split(",")] if name in headers else []


def _split(text: str) -> list[str]:
    """At the commas that are in no quoted string."""
    return [part for part in re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', text) if part.strip()]


def _address(text: str) -> Address | None:
    """An address as proxies write it: `192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    bare = text.strip().strip('"')
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
