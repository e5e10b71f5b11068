"""Forwarded requests of trusted proxies look as their clients sent them; no others do."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web
from aiohttp.test_utils import TestClient
from multidict import CIMultiDict
from pydantic import ValidationError
from pytest_aiohttp import AiohttpClient
from unit.ags.signer import KEY_ID, SECRET, sign_acs3

from wesemu.api.connections import Proxies, base_url
from wesemu.api.csrf import is_forwarded
from wesemu.app import create_app
from wesemu.runs.clock import ManualClock
from wesemu.settings import AuthSettings, ServerSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]


async def seen(
    aiohttp_client: AiohttpClient, headers: Mapping[str, str], **settings: Any
) -> dict[str, Any]:
    """How a request from 127.0.0.1 with these headers is seen."""
    wanted = ServerSettings.model_validate(settings)
    proxies = Proxies(wanted.trusted_proxies, wanted.public_url)

    async def answer(request: web.Request) -> web.Response:
        request = proxies.original_request(request)
        return web.json_response(
            {
                "remote": request.remote,
                "base": base_url(request),
                "local": not is_forwarded(request),
                "host": request.headers["Host"],
                "body": await request.text(),
            }
        )

    app = web.Application()
    app.router.add_post("/", answer)
    client: Client = await aiohttp_client(app)
    told: dict[str, Any] = await (await client.post("/", headers=headers, data="body")).json()
    assert told.pop("body") == "body"
    return told


ME = {"trusted_proxies": ["127.0.0.0/8"]}
CHAIN = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]}


@pytest.mark.parametrize(
    ("settings", "headers", "remote", "base"),
    [
        (ME, {"X-Forwarded-For": "192.0.2.7"}, "192.0.2.7", "http://x"),
        (ME, {"X-Forwarded-For": "127.0.0.1, 192.0.2.7"}, "192.0.2.7", "http://x"),
        (CHAIN, {"X-Forwarded-For": "6.6.6.6, 192.0.2.7, 10.1.1.1"}, "192.0.2.7", "http://x"),
        (CHAIN, {"X-Forwarded-For": "192.0.2.7, fd00::1"}, "192.0.2.7", "http://x"),
        (ME, {"X-Forwarded-For": "[2001:db8::7]:4711"}, "[2001:db8::7]:4711", "http://x"),
        (ME, {"X-Real-IP": "192.0.2.7", "X-Forwarded-Proto": "https"}, "192.0.2.7", "https://x"),
        (
            ME,
            {
                "X-Forwarded-For": "192.0.2.7",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "wes.example.org",
            },
            "192.0.2.7",
            "https://wes.example.org",
        ),
        (
            ME,
            {"Forwarded": 'for="[2001:db8::7]:47";proto=https;host="wes.example.org:8443"'},
            "[2001:db8::7]:47",
            "https://wes.example.org:8443",
        ),
        (
            CHAIN,
            {
                "Forwarded": "for=6.6.6.6;host=evil, for=192.0.2.7;host=good;proto=https, "
                "for=10.0.0.1"
            },
            "192.0.2.7",
            "https://good",
        ),
        (ME, {"Forwarded": 'for="6.6.6.6, for=192.0.2.7;proto=https'}, "192.0.2.7", "https://x"),
        (
            ME,
            {"Forwarded": 'for="_a,b;c" ; host="good" ;by="x, y";Proto=https'},
            "_a,b;c",
            "https://good",
        ),
        (ME, {"X-Forwarded-Host": "two.example/path"}, "", "http://x"),
        (ME, {"X-Forwarded-Proto": "javascript"}, "", "http://x"),
    ],
)
async def test_a_trusted_proxy_is_believed(
    aiohttp_client: AiohttpClient,
    settings: dict[str, Any],
    headers: dict[str, str],
    remote: str,
    base: str,
) -> None:
    told = await seen(aiohttp_client, {"Host": "x", **headers}, **settings)
    assert (told["remote"], told["base"]) == (remote, base)
    assert not told["local"]


@pytest.mark.parametrize("sent", ['"a,"', ",", "a", ";", '"'])
async def test_a_client_cannot_send_forwarded_headers_that_take_hours(
    aiohttp_client: AiohttpClient, sent: str
) -> None:
    """The work does not grow with the square of the length."""
    headers = CIMultiDict({"Host": "x"})
    for _ in range(100):
        headers.add("Forwarded", sent * (8000 // len(sent)))
    headers.add("Forwarded", "for=192.0.2.7")
    assert (await seen(aiohttp_client, headers, **ME))["remote"] == "192.0.2.7"


@pytest.mark.parametrize("trusted", [[], ["192.0.2.0/24"], ["unix"], ["::/0"]])
async def test_nobody_else_is(aiohttp_client: AiohttpClient, trusted: list[str]) -> None:
    headers = {
        "Host": "x",
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Host": "evil",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=192.0.2.7;host=evil",
    }
    told = await seen(aiohttp_client, headers, trusted_proxies=trusted)
    assert told == {"remote": "127.0.0.1", "base": "http://x", "local": False, "host": "x"}


async def test_what_comes_through_a_trusted_proxy_is_never_this_machine(
    aiohttp_client: AiohttpClient,
) -> None:
    """Also where the proxy adds no header, or tells a loopback address."""
    for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=[::1]"}):
        told = await seen(aiohttp_client, headers, **ME)
        assert not told["local"]


async def test_the_public_url_stands_in_answers(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    settings.server = ServerSettings(public_url="https://wes.example.org/emulator/")
    client: Client = await aiohttp_client(await create_app(settings, clock=clock, engines=[engine]))
    reads = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    sent = {"reads": [reads], "reference": "oss://genes/reference/tiny"}
    body = {"workflow_url": "mapping", "workflow_params": sent}
    answer = await client.post("/ga4gh/wes/v1/runs", json=body)
    run_id = (await answer.json())["run_id"]
    log = await (await client.get(f"/ga4gh/wes/v1/runs/{run_id}")).json()
    home = "https://wes.example.org/emulator/ga4gh/wes/v1/runs"
    assert log["run_log"]["stderr"] == f"{home}/{run_id}/stderr"
    headers = {"Host": "wes.example.org", "Origin": "https://wes.example.org"}
    assert (await client.get("/ga4gh/wes/v1/runs", headers=headers)).status == 200


@pytest.mark.parametrize(("trusted", "status"), [(["127.0.0.0/8"], 200), ([], 400)])
async def test_a_signature_covers_the_host_that_the_client_named(
    aiohttp_client: AiohttpClient,
    settings: Settings,
    clock: ManualClock,
    engine: ScriptedEngine,
    trusted: list[str],
    status: int,
) -> None:
    """A proxy that puts another Host in front of the server tells the client's."""
    settings.server = ServerSettings.model_validate({"trusted_proxies": trusted})
    settings.auth = AuthSettings(ags_keys={KEY_ID: SECRET})
    client: Client = await aiohttp_client(await create_app(settings, clock=clock, engines=[engine]))
    signed = [
        ("host", "ags.example.org"),
        ("x-acs-date", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"),
        ("x-acs-signature-nonce", "dacb644d"),
        ("x-acs-content-sha256", hashlib.sha256(b"").hexdigest()),
    ]
    authorization = sign_acs3("GET", "/gs/workflows", "", signed)
    headers = {**dict(signed[1:]), "Authorization": authorization}
    headers |= {"X-Forwarded-Host": "ags.example.org", "X-Forwarded-For": "192.0.2.7"}
    answer = await client.get("/gs/workflows", headers=headers)
    assert answer.status == status, await answer.text()


async def test_a_proxy_may_come_by_the_unix_socket(tmp_path: Path) -> None:
    proxies = Proxies(["unix"])

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=proxies.original_request(request).remote)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(tmp_path / "s")
    await web.UnixSite(runner, path).start()
    headers = {"X-Forwarded-For": "192.0.2.7"}
    async with (
        ClientSession(connector=UnixConnector(path)) as session,
        session.get("http://x/", headers=headers) as told,
    ):
        assert await told.text() == "192.0.2.7"
    await runner.cleanup()


@pytest.mark.parametrize(
    "wrong",
    [
        {"public_url": "wes.example.org"},
        {"public_url": "ftp://wes.example.org"},
        {"public_url": "https://user:pass@wes.example.org"},
        {"public_url": "https://wes.example.org/?a"},
        {"trusted_proxies": ["localhost"]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"cors_origins": ["*"]},
        {"cors_origins": ["null"]},
        {"cors_origins": ["https://portal.example.org/"]},
        {"cors_origins": ["https://Portal.example.org"]},
        {"cors_origins": ["https://portal.example.org:443"]},
        {"cors_origins": ["portal.example.org"]},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServerSettings.model_validate(wrong)
