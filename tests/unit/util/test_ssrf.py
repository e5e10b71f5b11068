"""The guard of addresses: URLs that callers may make the server fetch."""

from ipaddress import IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.util.ssrf import AddressGuard, AddressRefused, GuardedResolver


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://127.8.9.1:8080/x", "http://[::1]/", "http://0.0.0.0/",
        "http://10.0.0.1/", "http://172.16.1.1/", "http://192.168.1.1/", "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://[fd00:ec2::254]/",
        "http://[::ffff:127.0.0.1]/", "http://[::ffff:a9fe:a9fe]/", "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/", "http://224.0.0.1/", "http://255.255.255.255/",
        "http://[ff02::1]/", "http://[::]/",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused, match="not a public address"):
        AddressGuard().check(url)


async def test_a_host_that_is_no_name_is_refused() -> None:
    """getaddrinfo raises UnicodeError for it, which is no error of the network."""
    long = f"{'x' * 64}.example"
    with pytest.raises(AddressRefused, match="its host is not a name"):
        AddressGuard().check(f"http://{long}/")
    with pytest.raises(AddressRefused, match="its host is not a name"):
        await GuardedResolver(AddressGuard()).resolve(long)


SPECIAL = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
    "::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001:1::/32",
    "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28",
    "2001:30::/28", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7",
    "fe80::/10", "fec0::/10", "ff00::/8", "4000::/2", "8000::/1", "1000::/4",
]  # fmt: skip
"""IANA's special-purpose registries, multicast, and what is not allocated."""


@pytest.mark.parametrize("network", SPECIAL)
def test_no_special_network_is_public(network: str) -> None:
    known = ip_network(network)
    for address in (known[0], known[-1], known[known.num_addresses // 2]):
        with pytest.raises(AddressRefused):
            AddressGuard().check_address(address)
        if address.version == 4:
            for spelled in inside(int(address)):
                with pytest.raises(AddressRefused):
                    AddressGuard().check_address(spelled)


def inside(address: int) -> list[IPv6Address]:
    """The IPv6 addresses that carry an IPv4 one."""
    teredo = 0x20010000 << 96
    server, client = 0x08080808 << 64, 0xFFFFFFFF ^ 0x08080808
    return [
        IPv6Address(0xFFFF << 32 | address),  # mapped
        IPv6Address(address),  # compatible
        IPv6Address(0x0064FF9B << 96 | address),  # NAT64
        IPv6Address(0x2002 << 112 | address << 80 | 1),  # 6to4
        IPv6Address(teredo | server | address ^ 0xFFFFFFFF),  # Teredo's client
        IPv6Address(teredo | address << 64 | client),  # and its server
        IPv6Address(0x26064700 << 96 | 0x00005EFE << 32 | address),  # ISATAP
        IPv6Address(0x26064700 << 96 | 0x02005EFE << 32 | address),
    ]


def test_public_addresses_inside_others_are_public() -> None:
    for address in inside(0x08080808):
        AddressGuard().check_address(address)


def test_a_network_opens_no_address_that_only_looks_like_it() -> None:
    guard = AddressGuard([ip_network("::/0")])
    guard.check("http://[fd00::1]/")
    for address in inside(0x0A000001)[:6]:
        with pytest.raises(AddressRefused):
            guard.check_address(address)


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "ftp://example.org/", "file:///etc/passwd", "http:///x", "//example.org/",
        "http://user:password@example.org/", "http://user@example.org/", "http://[::1/",
        "http://example.org:99999/", "http://example.org/a b", "http://example.org/\n",
        "http://example.org/" + "x" * 2048, "gopher://example.org/",
    ],
)  # fmt: skip
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        AddressGuard().check(url)


@pytest.mark.parametrize(
    "url", ["https://example.org/hook?run=1", "http://8.8.8.8:8080/", "http://[2606:4700::1]/"]
)
def test_what_is_public_may_be_called(url: str) -> None:
    AddressGuard().check(url)


def test_a_network_can_be_opened() -> None:
    guard = AddressGuard([ip_network("127.0.0.0/8"), ip_network("fd00::/8")])
    guard.check("http://127.0.0.1:9/")
    guard.check("http://[::ffff:127.0.0.1]:9/")
    guard.check("http://[fd00::1]/")
    with pytest.raises(AddressRefused):
        guard.check("http://10.0.0.1/")


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f.1"])
async def test_a_name_is_judged_by_what_it_stands_for(name: str) -> None:
    resolver = GuardedResolver(AddressGuard())
    with pytest.raises(AddressRefused):
        await resolver.resolve(name, 80)
    await resolver.close()


async def test_one_bad_address_spoils_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = GuardedResolver(AddressGuard())

    async def two(*_: object) -> Any:
        return [{"host": "8.8.8.8"}, {"host": "10.0.0.1"}]

    monkeypatch.setattr(resolver._resolver, "resolve", two)
    with pytest.raises(AddressRefused):
        await resolver.resolve("example.org", 80)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_alike(address: Any) -> None:
    def refused(url: str) -> bool:
        try:
            AddressGuard().check(url)
        except AddressRefused:
            return True
        return False

    assert refused(f"http://{address}/") == refused(f"http://[::ffff:{address}]/")
