"""Protection against server-side request forgery (SSRF).

URLs of callers may lead only to public addresses and to networks that the settings allow.
"""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from wesemu.util.text import is_host

_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
"""IANA's IPv4 special-purpose registry, and multicast. The anycast addresses of protocols
(192.0.0.9, 192.0.0.10) and of the deprecated 6to4 relays (192.88.99.0/24) count, too: they end in
networks near this machine."""

_PUBLIC_V6 = IPv6Network("2000::/3")
"""Global unicast; everything else is reserved, local or multicast."""

_NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")
)
"""IANA's IPv6 special-purpose registry within `_PUBLIC_V6`. Teredo and 6to4 are among them; the
IPv4 addresses that they contain decide."""

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): the last 32 bits are an IPv4 address."""

_COMPATIBLE = IPv6Network("::/96")
"""IPv4-compatible addresses (RFC 4291, 2.5.5.1, deprecated)."""

_ISATAP = (0x00005EFE, 0x02005EFE)
"""Upper half of an interface identifier whose lower half is an IPv4 address (RFC 5214)."""

_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)
"""A last label that makes resolvers parse the host as an IPv4 address (WHATWG URL, 3.5)."""

_LONGEST = 2048


class AddressRefused(OSError):
    """The URL leads to an address that is not allowed."""


class AddressGuard:
    """Allows public addresses and `networks`, which come from the setting `setting`."""

    def __init__(
        self,
        networks: Sequence[IPv4Network | IPv6Network] = (),
        *,
        setting: str = "callbacks.networks",
    ) -> None:
        self._networks = networks
        self._setting = setting

    def check(self, url: str) -> None:
        """Check a URL without DNS. Raises AddressRefused."""
        try:
            parsed = URL(url)
            host = parsed.host
            port = parsed.port
        except ValueError as error:
            raise AddressRefused(f"it is not a URL: {error}") from error
        if parsed.scheme not in ("http", "https") or not host or not port:
            raise AddressRefused("it is not an http or https URL with a host")
        if not is_host(host):
            raise AddressRefused("its host is not a name")
        if parsed.user is not None or parsed.password is not None:
            raise AddressRefused("it has credentials in it")
        if len(url) > _LONGEST or not url.isprintable() or " " in url:
            raise AddressRefused(f"it has blanks or more than {_LONGEST} letters")
        try:
            address = ip_address(host)
        except ValueError as error:
            if _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
                raise AddressRefused("its host is an address in an odd spelling") from error
            return
        self.check_address(address)

    def check_address(self, address: IPv4Address | IPv6Address) -> None:
        """Raise AddressRefused for an address that is neither public nor allowed."""
        targets = _embedded_addresses(address) or [address]
        if all(self._allows(each) or _is_public(each) for each in targets):
            return
        raise AddressRefused(
            f"it leads to {address}, which is not a public address; the setting "
            f"{self._setting} can allow it"
        )

    def _allows(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address.version == net.version and address in net for net in self._networks)


REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
"""Fetchers follow redirects themselves, because each address has to be allowed."""


class GuardedResolver(AbstractResolver):
    """Resolves names and checks all their addresses.

    The connection uses the checked addresses, so a later DNS answer cannot replace them (DNS
    rebinding).
    """

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises AddressRefused if one is forbidden, OSError."""
        if not is_host(host):  # that of a redirect
            raise AddressRefused("its host is not a name")
        results = await self._resolver.resolve(host, port, family)
        for result in results:
            self._guard.check_address(ip_address(result["host"]))
        return results

    async def close(self) -> None:
        await self._resolver.close()


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _embedded_addresses(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return the addresses that packets to an IPv6 address with embedded ones reach.

    Empty for an address without embedded ones.
    """
    if isinstance(address, IPv4Address):
        return []
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _TRANSLATED or (address in _COMPATIBLE and int(address) > 1):
        return [last]
    if address.teredo is not None:
        return [*address.teredo]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        return [address, last]
    return []
