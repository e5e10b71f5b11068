"""Credentials in the forms that known clients send, and the owners that they give."""

import base64

import pytest
from aiohttp import encode_basic_auth
from aiohttp.test_utils import make_mocked_request
from api.wes.fixtures import Client, Ended, Serve, fetch

from wesemu.api.wes.auth import TokenAuthenticator
from wesemu.errors import Unauthorized
from wesemu.runs.model import Owner

TOKENS = {"secret-a": "alice", "secret-b": "bob", "sécret": "carol"}
ALICE = {"Authorization": "Bearer secret-a"}
BOB = {"Authorization": "Bearer secret-b"}
BASE = "/ga4gh/wes/v1"


@pytest.fixture
async def guarded(serve: Serve) -> Client:
    return await serve(tokens=TOKENS)


async def submit(guarded: Client, headers: dict[str, str]) -> str:
    reads = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    params = {"reads": [reads], "reference": "oss://genes/reference/tiny", "sample": "wait-x"}
    body = {"workflow_url": "mapping", "workflow_params": params}
    async with guarded.post(f"{BASE}/runs", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["run_id"])


@pytest.mark.parametrize(
    "headers",
    [
        ALICE,
        {"Authorization": "bearer  secret-a "},
        {"Authorization": "secret-a"},
        {"Authorization": encode_basic_auth("anybody", "secret-a")},
        {"Authorization": encode_basic_auth("secret-a")},
        {"x-api-key": "secret-a"},
        {"Authorization": "Bearer wrong", "X-API-KEY": "secret-a"},
        {"Authorization": "Basic " + base64.b64encode("x:sécret".encode()).decode()},
    ],
)
async def test_every_known_way_to_show_a_token(guarded: Client, headers: dict[str, str]) -> None:
    async with guarded.get(f"{BASE}/runs", headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer secret-a x"},
        {"Authorization": "Digest secret-a"},
        {"Authorization": "Basic !!!"},
        {"Authorization": encode_basic_auth("secret-a", "wrong")},
        {"x-api-key": ""},
        {"x-api-key": "alice"},
    ],
)
@pytest.mark.parametrize("path", ["/runs", "/runs/x", "/runs/x/stderr", "/nowhere"])
async def test_anything_else_is_401_with_a_challenge(
    guarded: Client, headers: dict[str, str], path: str
) -> None:
    async with guarded.get(BASE + path, headers=headers) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert (await answer.json())["status_code"] == 401


async def test_service_info_is_public_and_counts_nobodys_runs(guarded: Client) -> None:
    await submit(guarded, ALICE)
    async with guarded.get(f"{BASE}/service-info", headers=ALICE) as answer:
        assert sum((await answer.json())["system_state_counts"].values()) == 1
    for headers in ({}, {"Authorization": "Bearer wrong"}, BOB):
        async with guarded.get(f"{BASE}/service-info", headers=headers) as answer:
            assert answer.status == 200
            assert sum((await answer.json())["system_state_counts"].values()) == 0


@pytest.mark.parametrize(
    ("method", "below"),
    [
        ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/status"), ("GET", "/tasks"),
        ("GET", "/tasks/1-1"), ("GET", "/stdout"), ("GET", "/stderr"), ("GET", "/outputs/a"),
        ("GET", "/tasks/1-1/stdout"),
    ],
)  # fmt: skip
async def test_a_foreign_run_is_403(guarded: Client, method: str, below: str) -> None:
    run_id = await submit(guarded, ALICE)
    async with guarded.request(method, f"{BASE}/runs/{run_id}{below}", headers=BOB) as answer:
        assert (answer.status, (await answer.json())["status_code"]) == (403, 403)
    async with guarded.get(f"{BASE}/runs/{run_id}", headers=ALICE) as answer:
        assert (await answer.json())["state"] not in ("CANCELED", "CANCELING")


async def test_owners_list_their_own_runs(guarded: Client) -> None:
    run_id = await submit(guarded, ALICE)
    for headers, expected in ((ALICE, [run_id]), (BOB, [])):
        async with guarded.get(f"{BASE}/runs", headers=headers) as answer:
            assert [run["run_id"] for run in (await answer.json())["runs"]] == expected


async def test_a_page_token_is_of_no_use_to_another_owner(guarded: Client) -> None:
    for _ in range(2):
        await submit(guarded, ALICE)
    query = {"page_size": "1"}
    async with guarded.get(f"{BASE}/runs", params=query, headers=ALICE) as answer:
        query["page_token"] = (await answer.json())["next_page_token"]
    async with guarded.get(f"{BASE}/runs", params=query, headers=BOB) as answer:
        assert answer.status == 400


async def test_without_tokens_everybody_is_the_local_owner(wes: Client, ended: Ended) -> None:
    run_id = await submit(wes, {"Authorization": "Bearer whatever"})
    assert (await fetch(wes, f"{BASE}/runs/{run_id}/status"))["run_id"] == run_id
    async with wes.delete(f"{BASE}/runs/{run_id}") as answer:
        assert answer.status == 200
    assert (await ended(run_id)).owner == Owner("local")


async def test_keys_of_another_kind_close_wes_too() -> None:
    closed = TokenAuthenticator({}, guarded=True)
    with pytest.raises(Unauthorized):
        await closed(make_mocked_request("GET", f"{BASE}/runs"))
    with pytest.raises(Unauthorized):
        await closed(make_mocked_request("GET", f"{BASE}/runs", {"Authorization": "Bearer x"}))
