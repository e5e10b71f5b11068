"""The controls are for this machine and for whoever shows the admin token."""

import pytest
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Request

from wesemu.api.control.access import Access
from wesemu.errors import Forbidden, Unauthorized


def asked(remote: str, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = make_mocked_request("GET", "/_wesemu/info", {"Host": "127.0.0.1:8070"} | named)
    return request.clone(remote=remote)


@pytest.mark.parametrize("remote", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", ""])
def test_this_machine_needs_no_token(remote: str) -> None:
    Access("").check(asked(remote))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "a.localhost:1", "[::1]:8070"])
def test_this_machine_has_several_names(host: str) -> None:
    Access("").check(asked("127.0.0.1", Host=host))


@pytest.mark.parametrize("token", ["", "secret"])
@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer wrong", "Basic secret"])
def test_another_machine_is_refused_without_the_token(token: str, shown: str) -> None:
    with pytest.raises(Unauthorized, match=r"auth\.admin_token"):
        Access(token).check(asked("192.168.0.7", Authorization=shown))


def test_the_token_opens_from_anywhere() -> None:
    shown = {"Authorization": "bearer secret", "Host": "wesemu.example.org"}
    Access("secret").check(asked("192.168.0.7", **shown))


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.example.org", "10.0.0.1"])
def test_a_rebound_name_is_not_this_machine(host: str) -> None:
    with pytest.raises(Forbidden, match="another site"):
        Access("secret").check(asked("127.0.0.1", Host=host))


@pytest.mark.parametrize("origin", ["http://evil.example.org", "null", "http://127.0.0.1:9999"])
def test_a_web_page_of_another_origin_is_refused(origin: str) -> None:
    with pytest.raises(Forbidden):
        Access("").check(asked("127.0.0.1", Origin=origin))


def test_our_own_pages_may() -> None:
    Access("").check(asked("127.0.0.1", Origin="http://127.0.0.1:8070"))
