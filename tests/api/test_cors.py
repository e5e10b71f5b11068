"""Only web pages of the origins in `server.cors_origins` may call the APIs."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from wesemu.app import create_app
from wesemu.runs.clock import ManualClock
from wesemu.settings import AuthSettings, ServerSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]
Serve = Callable[[], Awaitable[Client]]

PORTAL = "https://portal.example.org"
RUNS = "/ga4gh/wes/v1/runs"
READS = "/oss/genes/fastq/a_1.fq.gz"


@pytest.fixture
def serve(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> Serve:
    settings.server = ServerSettings(cors_origins=[PORTAL])

    async def start() -> Client:
        return await aiohttp_client(await create_app(settings, clock=clock, engines=[engine]))

    return start


def asking(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,range",
    }


@pytest.mark.parametrize("path", [RUNS, "/gs/workflow", READS, "/1.1.0/ga4gh/wes/v1/runs/x"])
async def test_a_preflight_is_answered_without_credentials(
    serve: Serve, settings: Settings, path: str
) -> None:
    settings.auth = AuthSettings(tokens={"secret": "alice"}, ags_keys={"id": "secret"})
    client = await serve()
    answer = await client.options(path, headers=asking(PORTAL))
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == PORTAL
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type,range"
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.org",
        "http://portal.example.org",
        "https://portal.example.org:8443",
        "https://portal.example.org.evil.org",
        "https://PORTAL.example.org",
        "null",
        "*",
    ],
)
async def test_other_origins_are_refused(serve: Serve, origin: str) -> None:
    client = await serve()
    for answer in (
        await client.options(RUNS, headers=asking(origin)),
        await client.get(RUNS, headers={"Origin": origin}),
        await client.get(RUNS, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"}),
    ):
        assert answer.status in (403, 405)
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_page_may_read_answers_parts_and_errors(serve: Serve) -> None:
    client = await serve()
    page = {"Origin": PORTAL, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    for path, more, status in (
        (RUNS, {}, 200),
        (READS, {"Range": "bytes=0-1"}, 206),
        (f"{RUNS}/none", {}, 404),
        ("/gs/workflow/none", {}, 404),
        ("/oss/genes/none", {}, 404),
    ):
        answer = await client.get(path, headers=page | more)
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == PORTAL
        exposed = answer.headers["Access-Control-Expose-Headers"]
        assert {"Content-Range", "ETag", "X-Request-Id"} <= set(exposed.split(", "))


async def test_the_controls_stay_closed_to_pages(serve: Serve) -> None:
    client = await serve()
    assert (await client.post("/_wesemu/reset", headers={"Origin": PORTAL})).status == 403


async def test_without_origins_nothing_is_added(client: Client) -> None:
    answer = await client.get(RUNS)
    assert "Vary" not in answer.headers
    assert not any(name.startswith("Access-Control") for name in answer.headers)
