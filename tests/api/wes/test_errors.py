"""Every error is JSON {msg, status_code}; paths with surplus slashes are resolved."""

from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web
from api.wes.fixtures import Client, Submit, absolute, ask, fetch

from wesemu.api.wes.auth import TokenAuthenticator
from wesemu.api.wes.errors import render_error
from wesemu.api.wes.routes import WesDialect
from wesemu.errors import Conflict, EngineFault, InputError, RunActive

BASE = "/ga4gh/wes/v1"


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere", "/runs/x/nowhere", "/runs/x/tasks/y/nowhere", "/", "/service-info/x",
        "/runs/x/stdouts", "/runs/x/outputs",
    ],
)  # fmt: skip
async def test_an_unknown_route_is_404(wes: Client, path: str) -> None:
    for base in (BASE, "/1.1.0/ga4gh/wes/v1", "/9.9.9/ga4gh/wes/v1", "/ga4gh/wes/v2", "/ga4gh"):
        told = await fetch(wes, base + path, 404)
        assert set(told) == {"msg", "status_code"}


@pytest.mark.parametrize(
    "run_id",
    [
        "unknown", "%00", "x" * 300, "x" * 7000, "..%2f..%2fetc%2fpasswd", "%ff", "%f0%9f%92%a3",
        "'%20OR%201=1", "%2e%2e", "*", "00000000-0000-4000-8000-000000000000",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "below"),
    [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/status"), ("GET", "/tasks")],
)
async def test_an_unknown_or_malformed_run_id_is_404(
    wes: Client, run_id: str, method: str, below: str
) -> None:
    answer = await ask(wes, method, f"{BASE}/runs/{run_id}{below}")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"status_code": 404' in answer


async def test_a_wrong_method_is_405_and_names_the_right_ones(wes: Client) -> None:
    async with wes.put(f"{BASE}/runs") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET,HEAD,POST"
        assert (await answer.json())["status_code"] == 405


def told(error: Exception) -> tuple[int, str]:
    answer = render_error(error, "ID-1")
    assert answer.content_type == "application/json"
    assert isinstance(answer.body, bytes)
    return answer.status, answer.body.decode()


def test_statuses_by_kind_of_error() -> None:
    assert told(InputError("bad", file="a.fq"))[0] == 400
    assert told(Conflict("not now"))[0] == 409
    assert told(RunActive("still running"))[0] == 409
    assert told(EngineFault("it vanished"))[0] == 500
    assert told(web.HTTPRequestEntityTooLarge(1, 2))[0] == 413


def test_nothing_of_an_unforeseen_error_leaves() -> None:
    status, body = told(ZeroDivisionError("secret"))
    assert status == 500
    assert "ID-1" in body
    assert "secret" not in body
    assert "ZeroDivisionError" not in body


@pytest.mark.parametrize(
    "path",
    [
        "//ga4gh/wes/v1/service-info", "/ga4gh/wes/v1//service-info", "/ga4gh/wes/v1/service-info/",
        "///ga4gh//wes/v1///service-info//", "//1.1.0/ga4gh/wes/v1/service-info",
    ],
)  # fmt: skip
async def test_slashes_are_merged(wes: Client, path: str) -> None:
    assert (await fetch(wes, path))["type"]["artifact"] == "wes"


async def test_slashes_are_merged_with_query_body_and_method(wes: Client, submit: Submit) -> None:
    ids = [await submit([]) for _ in range(2)]
    assert len((await fetch(wes, f"/{BASE}//runs", page_size="1"))["runs"]) == 1
    for method, path, status in (
        ("POST", f"/{BASE}/runs/", 400),
        ("POST", f"/{BASE}/runs//{ids[0]}/cancel", 200),
        ("PUT", f"/{BASE}/runs", 405),
    ):
        sent = {"workflow_url": "x"} if path.endswith("/runs/") else None
        async with wes.session.request(method, absolute(wes, path), data=sent) as answer:
            assert answer.status == status
            assert answer.content_type == "application/json"
    await fetch(wes, f"/{BASE}//nowhere", 404)


def test_the_dialect_owns_its_paths_and_no_others() -> None:
    dialect = WesDialect(TokenAuthenticator({}))

    def to(path: str) -> web.Request:
        return cast("web.Request", SimpleNamespace(path=path))

    for path in (BASE, "/ga4gh/wes/v2/x", "//ga4gh/wes/v1/runs", "/1.0.1/ga4gh/wes/v1/", "/ga4gh"):
        assert dialect.owns(to(path)), path
    for path in ("/", "/gs/workflow", "/_wesemu/health", "/bucket/ga4gh/x", "/ga4gh2/x"):
        assert not dialect.owns(to(path)), path
