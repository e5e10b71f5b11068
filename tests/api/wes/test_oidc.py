"""Tokens of an issuer: their owners, and the responses to refused tokens."""

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import encode_basic_auth
from api.wes.fixtures import Client
from pydantic import ValidationError
from support.issuer import Issuer, issuing, new_rsa_key

from wesemu.cli.output import CommandRefused
from wesemu.cli.serve import require_credentials
from wesemu.composition import build_verifier
from wesemu.errors import ToolMissing
from wesemu.settings import OidcSettings, Settings

RUNS = "/ga4gh/wes/v1/runs"
READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
BODY = {
    "workflow_url": "mapping",
    "workflow_params": {"reads": [READS], "reference": "oss://genes/reference/tiny"},
}


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as started:
        yield started


@pytest.fixture
def settings(settings: Settings, issuer: Issuer) -> Settings:
    oidc = {"issuer": issuer.url, "audiences": ["wesemu"], "scopes": ["wes"]}
    auth = {"auth": {"tokens": {"secret": "carol"}, "oidc": oidc}}
    return Settings.model_validate(settings.model_dump() | auth)


def token(issuer: Issuer, owner: str, seconds: int = 60, scope: str = "wes", **how: Any) -> str:
    """The server's emulated clock stands still in 2020: tokens are of today."""
    now = int(datetime.now(UTC).timestamp())
    times = {"iat": now - 600, "exp": now + seconds}
    claims = {"iss": issuer.url, "aud": "wesemu", "sub": owner, "scope": scope, **times}
    return issuer.token(claims, **how)


async def ask(
    client: Client,
    status: int,
    shown: str | None,
    method: str = "GET",
    path: str = RUNS,
    **how: Any,
) -> tuple[Any, Any]:
    headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
    async with client.request(method, path, headers=headers, **how) as answer:
        told = await answer.json()
        assert answer.status == status, told
        return told, answer.headers


async def test_a_token_opens_its_bearers_runs_only(client: Client, issuer: Issuer) -> None:
    alice, bob = token(issuer, "alice"), token(issuer, "bob")
    run_id = (await ask(client, 200, alice, "POST", json=BODY))[0]["run_id"]
    assert [run["run_id"] for run in (await ask(client, 200, alice))[0]["runs"]] == [run_id]
    assert (await ask(client, 200, bob))[0]["runs"] == []
    await ask(client, 403, bob, path=f"{RUNS}/{run_id}")
    assert (await ask(client, 200, "secret"))[0]["runs"] == []  # a written token opens, too


async def test_old_clients_show_it_their_way(client: Client, issuer: Issuer) -> None:
    alice = token(issuer, "alice")
    for headers in (
        {"Authorization": alice},
        {"Authorization": encode_basic_auth("anybody", alice)},
        {"x-api-key": alice},
    ):
        async with client.get(RUNS, headers=headers) as answer:
            assert answer.status == 200


async def test_refusals_look_as_rfc_6750_has_them(client: Client, issuer: Issuer) -> None:
    told, headers = await ask(client, 401, None)
    assert "error=" not in headers["WWW-Authenticate"]
    for wrong in (
        token(issuer, "alice", -31),
        token(issuer, "alice", key=new_rsa_key()),
        token(issuer, "alice", kid='"\\\r'),
        "nobody's",
    ):
        told, headers = await ask(client, 401, wrong)
        challenge = headers["WWW-Authenticate"]
        assert challenge.startswith('Bearer realm="wesemu", error="invalid_token", error_desc')
        assert told["msg"].startswith("this token is refused: ")
        assert told["msg"].replace('"', "'") in challenge
    told, headers = await ask(client, 403, token(issuer, "alice", scope="openid"))
    assert "scope wes" in told["msg"]
    assert headers["WWW-Authenticate"] == (
        'Bearer realm="wesemu", error="insufficient_scope", scope="wes"'
    )


async def test_an_issuer_that_is_down_is_503_and_closes_nothing_else(
    client: Client, issuer: Issuer
) -> None:
    issuer.status = 500
    told, headers = await ask(client, 503, token(issuer, "alice"))
    assert "issuer cannot be asked for its keys" in told["msg"]
    assert headers["Retry-After"] == "5"
    await ask(client, 200, "secret")
    await ask(client, 401, None)
    await ask(client, 200, token(issuer, "alice"), path="/ga4gh/wes/v1/service-info")


async def test_an_issuer_closes_the_other_apis_too(client: Client) -> None:
    async with client.get("/gs/workflows") as answer:
        assert (answer.status, (await answer.json())["Code"]) == (400, "IncompleteSignature")
    headers = {"Authorization": "OSS id:signature"}
    async with client.get("/genes/fastq/a_1.fq.gz", headers=headers) as answer:
        assert answer.status == 403


def test_an_issuer_lets_a_server_listen_beyond_loopback(settings: Settings) -> None:
    alone = settings.auth.model_copy(update={"tokens": {}})
    require_credentials(settings.model_copy(update={"host": "0.0.0.0", "auth": alone}))
    without_issuer = alone.model_copy(update={"oidc": OidcSettings()})
    with pytest.raises(CommandRefused, match=r"auth\.oidc\.issuer"):
        require_credentials(settings.model_copy(update={"host": "0.0.0.0", "auth": without_issuer}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "https://login.example"},
        {"issuer": "login.example", "audiences": ["a"]},
        {"issuer": "https://login.example?x", "audiences": ["a"]},
        {"audiences": [""]},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"data": tmp_path, "auth": {"oidc": wrong}})


def test_without_the_extra_the_server_says_what_is_missing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wesemu.auth.oidc", None)
    with pytest.raises(ToolMissing, match=r"pip install 'wesemu\[oidc\]'"):
        build_verifier(settings.auth.oidc)
    assert build_verifier(OidcSettings()) is None


async def test_a_token_of_the_issuer_opens_ags_too(client: Client, issuer: Issuer) -> None:
    """The command line asks both APIs with the one token that it has."""
    alice, jobs = token(issuer, "alice"), "/gs/workflows"
    await ask(client, 200, alice, "POST", json=BODY)
    (job,) = (await ask(client, 200, alice, path=jobs))[0]["jobs"]
    assert job["job_name"].startswith("mapping-")
    assert (await ask(client, 200, token(issuer, "bob"), path=jobs))[0] == {"jobs": []}
    for wrong, status, code in (
        (token(issuer, "alice", -31), 403, "InvalidToken"),
        (token(issuer, "alice", scope="openid"), 403, "ErrorCheckAcl"),
        ("nobody's", 400, "IncompleteSignature"),
    ):
        assert (await ask(client, status, wrong, path=jobs))[0]["Code"] == code


async def test_ags_tells_an_issuer_that_is_down(client: Client, issuer: Issuer) -> None:
    issuer.status = 500
    told, _ = await ask(client, 503, token(issuer, "alice"), path="/gs/workflows")
    assert told["Code"] == "ServiceUnavailable"
    assert "try again in 5 s" in told["Message"]
