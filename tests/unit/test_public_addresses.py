"""Which URLs a server may be sent to by its callers."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.public_addresses import AddressGuard, AddressRefused, GuardedResolver


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
    with pytest.raises(AddressRefused, match="no public address"):
        AddressGuard().check(url)


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
