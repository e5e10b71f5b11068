"""Where a URL that a caller names may lead: to public addresses, and to networks that the settings
allow. Against server-side request forgery."""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): the last 32 bits are an IPv4 address."""

_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)
"""No top-level domain: resolvers take such a name for an IPv4 address (WHATWG URL, 3.5)."""

_LONGEST = 2048


class AddressRefused(OSError):
    """A URL that leads to where this server does not go."""


class AddressGuard:
    """`networks` are open beside the public addresses; `setting` is where they are set."""

    def __init__(
        self,
        networks: Sequence[IPv4Network | IPv6Network] = (),
        *,
        setting: str = "callbacks.networks",
    ) -> None:
        self._networks = networks
        self._setting = setting

    def check(self, url: str) -> None:
        """What can be told of a URL without asking the DNS. Raises AddressRefused."""
        try:
            parsed = URL(url)
            host = parsed.host
            port = parsed.port
        except ValueError as error:
            raise AddressRefused(f"it is not a URL: {error}") from error
        if parsed.scheme not in ("http", "https") or not host or not port:
            raise AddressRefused("it is not an http or https URL with a host")
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
        """Raises AddressRefused."""
        meant = _carried(address)
        if any(meant.version == net.version and meant in net for net in self._networks):
            return
        if not meant.is_global or meant.is_multicast or meant.is_reserved:
            raise AddressRefused(
                f"it leads to {address}, which is no public address; the setting "
                f"{self._setting} can allow it"
            )


class GuardedResolver(AbstractResolver):
    """Resolves a name once, and only if all that it stands for is allowed: the connection is made
    to those very addresses, so that a name cannot come to mean another one in between."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises AddressRefused, OSError."""
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            self._guard.check_address(ip_address(result["host"]))
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _carried(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 one that stands for it."""
    if isinstance(address, IPv4Address):
        return address
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)
