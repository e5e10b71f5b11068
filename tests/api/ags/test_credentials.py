"""AGS with access keys requires a signature; without keys everybody is `local`."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import ClientResponse
from api.ags.conftest import WGS, Client
from pytest_aiohttp import AiohttpClient
from unit.ags.signer import KEY_ID, SECRET, sign_roa

from wesemu.app import create_app
from wesemu.runs.model import LOCAL_OWNER, Owner, RunRequest
from wesemu.runs.service import RunService
from wesemu.settings import AuthSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine


@pytest.fixture
def settings(settings: Settings, bucket: Path) -> Settings:
    keys = {"ags_keys": {KEY_ID: SECRET, "LTAIother": "another"}}
    return Settings.model_validate(settings.model_dump() | {"auth": keys})


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "data" / "buckets" / "genes"


async def call(
    client: Client,
    path: str,
    *,
    secret: str = SECRET,
    headers: Mapping[str, str] | None = None,
    late: timedelta = timedelta(),
) -> ClientResponse:
    """A signed GET, the wall clock's time unless it is `late`."""
    date = f"{datetime.now(UTC) - late:%a, %d %b %Y %H:%M:%S GMT}"
    sent = {"Accept": "application/json", "Date": date, **(headers or {})}
    signed = sign_roa("GET", path, list(sent.items()), secret)
    return await client.get(path, headers={"Authorization": signed, **sent})


async def test_the_access_key_is_the_owner(client: Client, runs: RunService) -> None:
    lane = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    request = {"reads": [lane], "reference": "oss://genes/reference/tiny"}
    mine = await runs.submit(Owner(KEY_ID), RunRequest("mapping", params=request))
    await runs.submit(LOCAL_OWNER, RunRequest("mapping", params=request))
    response = await call(client, "/gs/workflows")
    assert response.status == 200
    jobs = (await response.json())["jobs"]
    assert [job["job_name"] for job in jobs] == [f"mapping-gpu-{mine.handle}"]


async def test_an_unsigned_request_is_refused(client: Client) -> None:
    for response in (
        await client.get("/gs/workflows"),
        await client.post("/gs/workflow", json=WGS),
        await client.get("/gs/nothing"),
    ):
        assert response.status == 400
        assert (await response.json())["Code"] == "IncompleteSignature"


async def test_a_wrong_secret_is_refused(client: Client) -> None:
    response = await call(client, "/gs/workflows", secret="guessed")
    assert response.status == 400
    answer = await response.json()
    assert answer["Code"] == "SignatureDoesNotMatch"
    assert "server string to sign is:GET\n" in answer["Message"]


async def test_an_old_request_is_refused(client: Client) -> None:
    response = await call(client, "/gs/workflows", late=timedelta(minutes=16))
    assert (await response.json())["Code"] == "InvalidTimeStamp.Expired"


async def test_a_nonce_counts_once(client: Client) -> None:
    nonce = {"x-acs-signature-nonce": "n"}
    assert (await call(client, "/gs/workflows", headers=nonce)).status == 200
    response = await call(client, "/gs/workflows", headers=nonce)
    assert (await response.json())["Code"] == "SignatureNonceUsed"


async def test_with_tokens_but_no_keys_nobody_comes_in_by_ags(
    aiohttp_client: AiohttpClient, settings: Settings, engine: ScriptedEngine
) -> None:
    guarded = settings.model_copy(update={"auth": AuthSettings(tokens={"secret": "alice"})})
    client = await aiohttp_client(await create_app(guarded, engines=[engine]))
    for headers in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": "Bearer"}):
        answer = await client.get("/gs/workflows", headers=headers)
        assert (answer.status, (await answer.json())["Code"]) == (400, "IncompleteSignature")


async def test_a_bearer_token_opens_ags_too(
    aiohttp_client: AiohttpClient, settings: Settings, engine: ScriptedEngine
) -> None:
    auth = AuthSettings(ags_keys={KEY_ID: SECRET}, tokens={"secret": KEY_ID, "other": "alice"})
    app = await create_app(settings.model_copy(update={"auth": auth}), engines=[engine])
    client = await aiohttp_client(app)
    mine, other = ({"Authorization": f"Bearer {token}"} for token in ("secret", "other"))
    answer = await client.post("/gs/workflow", json=WGS, headers=mine)
    name = (await answer.json())["JobName"]
    signed = await (await call(client, "/gs/workflows")).json()
    assert [job["job_name"] for job in signed["jobs"]] == [name]
    assert await (await client.get("/gs/workflows", headers=other)).json() == {"jobs": []}
