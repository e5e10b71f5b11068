"""Access to the control API: from this machine, or with the admin token."""

import pytest
from aiohttp import HttpVersion10
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Request

from wesemu.api.admin.routes import AdminAccess
from wesemu.errors import Forbidden, NotFound, Unauthorized


def asked(remote: str, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = make_mocked_request("GET", "/_wesemu/info", {"Host": "127.0.0.1:8070"} | named)
    return request.clone(remote=remote)


@pytest.mark.parametrize("remote", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", ""])
def test_this_machine_needs_no_token(remote: str) -> None:
    AdminAccess("").check(asked(remote))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "a.localhost:1", "[::1]:8070"])
def test_this_machine_has_several_names(host: str) -> None:
    AdminAccess("").check(asked("127.0.0.1", Host=host))


@pytest.mark.parametrize("token", ["", "secret"])
@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer wrong", "Basic secret"])
def test_another_machine_is_refused_without_the_token(token: str, shown: str) -> None:
    with pytest.raises(Unauthorized, match=r"auth\.admin_token"):
        AdminAccess(token).check(asked("192.168.0.7", Authorization=shown))


@pytest.mark.parametrize("remote", ["127.0.0.1", "::1", "", "192.168.0.7"])
@pytest.mark.parametrize("shown", ["", "Bearer wrong", "Basic secret", "secret"])
def test_where_there_is_a_token_it_is_needed_from_everywhere(remote: str, shown: str) -> None:
    with pytest.raises(Unauthorized, match=r"auth\.admin_token"):
        AdminAccess("secret").check(asked(remote, Authorization=shown))


@pytest.mark.parametrize("remote", ["127.0.0.1", "::1", ""])
@pytest.mark.parametrize(
    "header",
    [
        *("Forwarded", "X-Forwarded-For", "x-forwarded-proto", "X-FORWARDED-HOST", "Via"),
        *("X-Forwarded-Anything", "X-Real-IP", "X_Real_IP", "X-Client-IP", "CF-Connecting-IP"),
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "", "for=127.0.0.1"])
def test_what_a_proxy_passes_on_is_not_this_machine(remote: str, header: str, value: str) -> None:
    request = make_mocked_request("GET", "/_wesemu/info", {"Host": "127.0.0.1", header: value})
    with pytest.raises(Unauthorized):
        AdminAccess("").check(request.clone(remote=remote))


def test_an_old_proxy_that_adds_no_header_is_not_this_machine() -> None:
    request = make_mocked_request(
        "GET", "/_wesemu/info", {"Host": "127.0.0.1"}, version=HttpVersion10
    )
    with pytest.raises(Unauthorized):
        AdminAccess("").check(request.clone(remote="127.0.0.1"))


def test_the_controls_can_be_switched_off() -> None:
    with pytest.raises(NotFound, match="switched off"):
        AdminAccess("secret", enabled=False).check(
            asked("127.0.0.1", Authorization="Bearer secret")
        )


def test_the_token_opens_from_anywhere() -> None:
    shown = {"Authorization": "bearer secret", "Host": "wesemu.example.org"}
    AdminAccess("secret").check(asked("192.168.0.7", **shown))


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.example.org", "10.0.0.1"])
def test_a_rebound_name_is_not_this_machine(host: str) -> None:
    with pytest.raises(Forbidden, match="another site"):
        AdminAccess("").check(asked("127.0.0.1", Host=host))


@pytest.mark.parametrize("origin", ["http://evil.example.org", "null", "http://127.0.0.1:9999"])
def test_a_web_page_of_another_origin_is_refused(origin: str) -> None:
    with pytest.raises(Forbidden):
        AdminAccess("").check(asked("127.0.0.1", Origin=origin))


def test_our_own_pages_may() -> None:
    AdminAccess("").check(asked("127.0.0.1", Origin="http://127.0.0.1:8070"))
