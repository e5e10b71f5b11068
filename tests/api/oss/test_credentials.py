"""OSS with access keys requires a signature; without keys only foreign web pages are refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from api.oss.fixtures import KEY_ID, SECRET, Client, read, start_oss_server
from pytest_aiohttp import AiohttpClient
from unit.oss.signer import sign_v1

from wesemu.app import create_app
from wesemu.runs.clock import ManualClock
from wesemu.settings import AuthSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DATE = {"date": "Sun, 01 Mar 2026 12:00:00 GMT"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def guarded(aiohttp_client: AiohttpClient, root: Path, clock: ManualClock) -> Client:
    return await aiohttp_client(await start_oss_server(root, keys={KEY_ID: SECRET}, clock=clock))


def signed(method: str, resource: str, secret: str = SECRET, **headers: str) -> dict[str, str]:
    sent = DATE | headers
    return {**sent, "Authorization": sign_v1(method, resource, sent, secret)}


async def test_a_signed_request_comes_in_by_every_address(guarded: Client) -> None:
    put = signed("PUT", "/genes/a b", **{"content-type": "text/plain"})
    assert (await guarded.put("/oss/genes/a%20b", data=b"abc", headers=put)).status == 200
    get = signed("GET", "/genes/a b")
    for path, host in (
        ("/oss/genes/a%20b", "x"),
        ("/genes/a%20b", "x"),
        ("/a%20b", "genes.localhost"),
    ):
        got = await read(await guarded.get(path, headers={**get, "Host": host}))
        assert (got.status, got.body) == (200, b"abc")
    listed = await read(await guarded.get("/oss/genes", headers=signed("GET", "/genes/")))
    assert listed.xml.findtext("Contents/Owner/ID") == KEY_ID


async def test_others_stay_outside(guarded: Client, bucket: Path, clock: ManualClock) -> None:
    (bucket / "a").write_bytes(b"abc")
    wrong = signed("GET", "/genes/a", "another secret")
    for headers, code in (
        ({}, "AccessDenied"),
        ({"Authorization": "Bearer x"}, "AccessDenied"),
        (wrong, "SignatureDoesNotMatch"),
        (
            {**wrong, "Authorization": wrong["Authorization"].replace(KEY_ID, "who")},
            "InvalidAccessKeyId",
        ),
    ):
        got = await read(await guarded.get("/oss/genes/a", headers=headers))
        assert (got.status, got.code) == (403, code)
    mismatch = await read(await guarded.get("/oss/genes/a", headers=wrong))
    assert mismatch.xml.findtext("StringToSign") == f"GET\n\n\n{DATE['date']}\n/genes/a"
    clock.advance(timedelta(minutes=16))
    late = await read(await guarded.get("/oss/genes/a", headers=signed("GET", "/genes/a")))
    assert (late.status, late.code) == (403, "RequestTimeTooSkewed")


async def test_nothing_is_written_for_who_may_not_come_in(guarded: Client, root: Path) -> None:
    assert (await guarded.put("/oss/genes/a", data=b"abc")).status == 403
    assert (await guarded.put("/oss/new-one")).status == 403
    assert [path.name for path in root.rglob("*")] == ["genes"]


async def test_without_keys_any_signature_will_do(client: Client, bucket: Path) -> None:
    (bucket / "a").write_bytes(b"abc")
    headers = {"Authorization": "OSS who:ever"}
    assert (await client.get("/genes/a", headers=headers)).status == 200


async def test_a_foreign_web_page_may_not_use_an_open_server(client: Client, bucket: Path) -> None:
    """A browser sends such a POST without asking, whatever the page."""
    for origin, status in (
        ("https://evil.example", 403),
        ("null", 403),
        (f"http://{client.host}:{client.port}", 200),
    ):
        got = await client.post(
            "/oss/genes/log?append&position=0", data=b"", headers={"Origin": origin}
        )
        assert got.status == status


@pytest.fixture
async def with_tokens(
    aiohttp_client: AiohttpClient, settings: Settings, engine: ScriptedEngine
) -> Client:
    auth = AuthSettings(tokens={"secret": "alice"})
    app = await create_app(settings.model_copy(update={"auth": auth}), engines=[engine])
    return await aiohttp_client(app)


async def test_a_bearer_token_opens_the_buckets(with_tokens: Client) -> None:
    token = {"Authorization": "Bearer secret"}
    assert (await with_tokens.put("/oss/new-one/", headers=token)).status == 200
    assert (await with_tokens.put("/oss/new-one/a", data=b"abc", headers=token)).status == 200
    got = await read(await with_tokens.get("/oss/new-one/a", headers=token))
    assert (got.status, got.body) == (200, b"abc")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer guessed"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "secret"},
        {"Authorization": sign_v1("PUT", "/genes/a", DATE, SECRET), **DATE},
    ],
)
async def test_an_unknown_token_opens_nothing(
    with_tokens: Client, headers: dict[str, str], settings: Settings
) -> None:
    got = await read(await with_tokens.put("/oss/genes/a", data=b"abc", headers=headers))
    assert got.status == 403
    assert got.code in ("AccessDenied", "InvalidAccessKeyId")
    assert not (settings.data / "buckets" / "genes" / "a").exists()
