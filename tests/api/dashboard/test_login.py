"""Login by token, owners, and requests of other sites."""

import pytest
from api.dashboard.conftest import Client, Read, Submit

from wesemu.runs.model import Owner
from wesemu.settings import Settings

ALICE = {"Authorization": "Bearer alice-token"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    settings.auth.tokens = {"alice-token": "alice", "bob-token": "bob"}
    settings.workflows.owners = ["*"]
    return settings


async def log_in(client: Client, token: str, target: str = "/ui/") -> str:
    async with client.post("/ui/login", data={"token": token, "next": target}) as response:
        assert response.status == 200, await response.text()
        return str(response.url.relative())


async def test_without_a_login_a_page_leads_to_the_form_and_back(client: Client) -> None:
    async with client.get("/ui/node?a=b") as response:
        assert response.url.path == "/ui/login"
        target = response.url.query["next"]
    assert await log_in(client, "alice-token", target) == "/ui/node?a=b"


async def test_without_a_login_json_is_a_401(client: Client) -> None:
    async with client.get("/ui/index.json") as response:
        assert response.status == 401


async def test_a_wrong_token_is_refused(client: Client) -> None:
    async with client.post("/ui/login", data={"token": "wrong"}) as response:
        assert response.status == 401
        assert "does not know this token" in await response.text()
        assert not response.cookies


async def test_the_cookie_is_kept_from_scripts_and_other_sites(client: Client) -> None:
    async with client.post(
        "/ui/login", data={"token": "alice-token"}, allow_redirects=False
    ) as response:
        cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=" not in cookie  # so it is the folder of the request, with a proxy's path


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/ui/",
        "/ui//evil.example",
        "/gs/workflow",
        "/ui/\r\nX: y",
    ],
)
async def test_a_login_leads_nowhere_else(client: Client, target: str) -> None:
    assert await log_in(client, "alice-token", target) == "/ui/"


async def test_owners_see_their_own_runs_only(client: Client, read: Read, submit: Submit) -> None:
    run = await submit(headers=ALICE, owner=Owner("alice"))
    await log_in(client, "bob-token")
    assert run.handle not in await read("/ui/")
    parts = ("", ".json", "/timeline", "/graph", "/logs", "/request", "/results", "/rerun")
    files = ("/log/stderr", "/outputs/a", "/reports/a.html", "/attachments/Snakefile")
    for part in (*parts, *files):
        await read(f"/ui/runs/{run.id}{part}", 403)
    assert "You have no run" in await read("/ui/compare", a=run.id, b=run.handle)
    async with client.post(f"/ui/runs/{run.id}/rerun", data={"params": ""}) as response:
        assert response.status == 403
    async with client.post(f"/ui/runs/{run.id}/remove") as response:
        assert response.status == 403
    await log_in(client, "alice-token")
    assert run.handle in await read("/ui/")


async def test_a_logout_forgets_the_token(client: Client, read: Read) -> None:
    await log_in(client, "alice-token")
    assert "alice" in await read("/ui/")
    async with client.post("/ui/logout") as response:
        assert response.url.path == "/ui/login"
    async with client.get("/ui/") as response:
        assert response.url.path == "/ui/login"


async def test_a_form_of_another_site_is_refused(client: Client, submit: Submit) -> None:
    run = await submit(headers=ALICE, owner=Owner("alice"))
    await log_in(client, "alice-token")
    headers = {"Origin": "http://evil.example"}
    async with client.post(f"/ui/runs/{run.id}/remove", headers=headers) as response:
        assert response.status == 403
    headers = {"Origin": f"http://{client.host}:{client.port}"}
    async with client.post(f"/ui/runs/{run.id}/remove", headers=headers) as response:
        assert response.url.path == "/ui/"


async def test_the_cookie_opens_the_dashboard_only(client: Client) -> None:
    await log_in(client, "alice-token")
    cookie = {"Cookie": "wesemu_token=alice-token"}
    async with client.get("/ga4gh/wes/v1/runs", headers=cookie) as response:
        assert response.status == 401
