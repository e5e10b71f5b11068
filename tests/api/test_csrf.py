"""Web pages of other sites cannot use an open server through a visitor's browser."""

import pytest
from aiohttp import FormData, encode_basic_auth, web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from wesemu.app import create_app
from wesemu.settings import AuthSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]
RUNS = "/ga4gh/wes/v1/runs"
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example:8070"},
    {"Host": "evil.example:8070", "Origin": "http://evil.example:8070"},
    {"Host": "[::1"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("path", [RUNS, "/gs/workflow", "/oss/genes/a?append&position=0"])
async def test_pages_of_other_sites_and_names_are_refused(
    client: Client, headers: dict[str, str], path: str
) -> None:
    form = FormData(default_to_multipart=True)
    form.add_field("workflow_url", "Snakefile")
    form.add_field("workflow_attachment", b"rule all:", filename="Snakefile")
    async with client.post(path, data=form, headers=headers) as answer:
        assert answer.status == 403
    async with client.get(RUNS) as answer:
        assert (await answer.json())["runs"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:8070"},
        {"Host": "[::1]:8070"},
        {"Host": "localhost", "Origin": "http://localhost"},
        {"Host": "cs.cn-beijing.aliyuncs.com"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_clients_its_own_pages_and_links_are_served(
    client: Client, headers: dict[str, str]
) -> None:
    async with client.get(RUNS, headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("http://demo.localhost:8070", 404)]
)
async def test_a_bucket_s_host_leads_no_page_past_by_the_control_api_s_path(
    client: Client, origin: str, status: int
) -> None:
    """There the request is OSS's, though its path is the control API's: here, of no bucket."""
    path = "/_wesemu/x?append&position=0&OSSAccessKeyId=a"
    headers = {"Host": "demo.localhost:8070", "Origin": origin}
    async with client.post(path, data=b"", headers=headers) as answer:
        assert (answer.status, answer.headers["Server"]) == (status, "AliyunOSS")


async def test_credentials_are_enough_under_any_name(
    aiohttp_client: AiohttpClient, settings: Settings, engine: ScriptedEngine
) -> None:
    guarded = settings.model_copy(update={"auth": AuthSettings(tokens={"secret": "alice"})})
    client = await aiohttp_client(await create_app(guarded, engines=[engine]))
    headers = {"Host": "wes.example.org", "Authorization": "Bearer secret"}
    async with client.get(RUNS, headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://wes.example.org"}, 200),
        ({}, 200),
        ({"Origin": "https://evil.example", "Authorization": "Bearer secret"}, 200),
    ],
    ids=str,
)
async def test_a_password_that_a_browser_sends_again_serves_no_foreign_page(
    aiohttp_client: AiohttpClient,
    settings: Settings,
    engine: ScriptedEngine,
    headers: dict[str, str],
    status: int,
) -> None:
    guarded = settings.model_copy(update={"auth": AuthSettings(tokens={"secret": "alice"})})
    client = await aiohttp_client(await create_app(guarded, engines=[engine]))
    shown = {"Host": "wes.example.org", "Authorization": encode_basic_auth("me", "secret")}
    async with client.get(RUNS, headers=shown | headers) as answer:
        assert answer.status == status


async def test_an_encoded_newline_is_no_way_round_credentials(
    aiohttp_client: AiohttpClient, settings: Settings, engine: ScriptedEngine
) -> None:
    guarded = settings.model_copy(update={"auth": AuthSettings(tokens={"secret": "alice"})})
    client = await aiohttp_client(await create_app(guarded, engines=[engine]))
    async with client.get(f"{RUNS}/x/tasks/x%0a") as answer:
        assert answer.status == 401


FORWARDED = [{"X-Forwarded-For": "10.0.0.1"}, {"Via": "1.1 proxy"}, {"Forwarded": "for=::1"}]


@pytest.mark.parametrize("headers", FORWARDED, ids=str)
async def test_an_open_server_takes_nothing_that_a_proxy_passes_on(
    client: Client, headers: dict[str, str]
) -> None:
    async with client.get(RUNS, headers=headers) as answer:
        assert answer.status == 403
    async with client.get("/_wesemu/ready", headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("change", [{"insecure": True}, {"auth": AuthSettings(tokens={"t": "a"})}])
async def test_with_credentials_or_insecure_a_proxy_may_stand_before_it(
    settings: Settings,
    engine: ScriptedEngine,
    aiohttp_client: AiohttpClient,
    change: dict[str, object],
) -> None:
    app = await create_app(settings.model_copy(update=change), engines=[engine])
    client = await aiohttp_client(app)
    headers = {"X-Forwarded-For": "10.0.0.1", "Authorization": "Bearer t"}
    async with client.get(RUNS, headers=headers) as answer:
        assert answer.status == 200


async def test_switched_off_controls_are_nowhere(
    settings: Settings, engine: ScriptedEngine, aiohttp_client: AiohttpClient
) -> None:
    app = await create_app(settings.model_copy(update={"controls": False}), engines=[engine])
    client = await aiohttp_client(app)
    for method, path, status in (
        ("POST", "reset", 404),
        ("GET", "info", 404),
        ("GET", "health", 200),
    ):
        async with client.request(method, f"/_wesemu/{path}") as answer:
            assert answer.status == status
