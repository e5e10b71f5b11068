"""Access to every page and every action, as the application's routes list them."""

import html
import re
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from aiohttp import web
from api.dashboard.conftest import Client, Submit

from wesemu.runs.model import Owner
from wesemu.settings import Settings

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}
PUBLIC = ("/ui/login", "/ui/static/")
ADDRESS = re.compile(r'(?:href|src|action|data-live)="([^"#][^"]*)"')
VALUES = {"bucket": "genes", "name": "stderr", "path": "a.txt", "key": "fastq/a_1.fq.gz"}


def routes(app: web.Application, method: str, run_id: str = "none") -> Iterator[str]:
    """Yield the paths of the dashboard that need a login, with values in place of variables."""
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if route.method == method and path.startswith("/ui/") and not path.startswith(PUBLIC):
            yield path.format(run_id=run_id, **VALUES)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    settings.auth.tokens = {"alice-token": "alice", "bob-token": "bob"}
    settings.workflows.owners = ["*"]
    return settings


async def test_no_page_and_no_action_works_without_a_login(
    client: Client, app: web.Application
) -> None:
    pages, actions = [*routes(app, "GET")], [*routes(app, "POST")]
    assert len(pages) > 30
    assert len(actions) > 8
    for path in pages:
        async with client.get(path, allow_redirects=False) as response:
            to_login = "/ui/login?" in urljoin(path, response.headers.get("Location", ""))
            assert (response.status, to_login) in ((401, False), (303, True)), path
            assert (response.status == 401) == path.endswith(".json"), path
    for path in actions:
        async with client.post(path) as response:
            assert response.status == 401, path


async def test_no_action_takes_the_form_of_another_site(
    client: Client, app: web.Application, submit: Submit
) -> None:
    run = await submit(headers=ALICE, owner=Owner("alice"))
    for origin in ("http://evil.example", "null"):
        for path in routes(app, "POST", run.id):
            async with client.post(path, headers=ALICE | {"Origin": origin}) as response:
                assert response.status == 403, path


async def test_every_page_has_the_policy_that_allows_no_foreign_content(
    client: Client, app: web.Application, submit: Submit
) -> None:
    run = await submit(headers=ALICE, owner=Owner("alice"))
    for path in [*routes(app, "GET", run.id), "/ui/login", "/ui/nothing"]:
        if path == "/ui/events":  # a stream, no page
            continue
        async with client.get(path, headers=ALICE, allow_redirects=False) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src" in policy, path
            assert "unsafe-inline" not in policy or "sandbox" in policy, path
            assert response.headers["X-Content-Type-Options"] == "nosniff", path


async def test_addresses_of_every_page_hold_below_a_path_that_a_proxy_strips(
    client: Client, app: web.Application, submit: Submit
) -> None:
    run = await submit(headers=ALICE, owner=Owner("alice"))
    found = 0
    for path in [*routes(app, "GET", run.id), "/ui/login", "/ui/nothing/here"]:
        if path == "/ui/events":  # a stream, no page
            continue
        async with client.get(path, headers=ALICE, allow_redirects=False) as response:
            text, moved = await response.text(), response.headers.get("Location", "")
        addresses = (
            [html.unescape(each) for each in ADDRESS.findall(text)] if "<html" in text else []
        )
        for address in [*addresses, *filter(None, [moved])]:
            assert urljoin(f"/lab{path}", address).startswith("/lab/"), (path, address)
            found += 1
    assert found > 300


async def test_every_page_and_action_of_a_run_is_refused_to_another_owner(
    client: Client, app: web.Application, submit: Submit
) -> None:
    run = await submit([{"write": "a.txt", "text": "secret"}], headers=ALICE, owner=Owner("alice"))
    pages = [path for path in routes(app, "GET", run.id) if run.id in path]
    actions = [path for path in routes(app, "POST", run.id) if run.id in path]
    assert len(pages) > 15
    assert len(actions) >= 2
    for path in pages:
        async with client.get(path, headers=BOB) as response:
            assert response.status == 403, path
    for path in actions:
        async with client.post(path, headers=BOB) as response:
            assert response.status == 403, path
    # the page is a form, too, so it says what is wrong with an id
    for path in ("/ui/compare", "/ui/compare.json"):
        async with client.get(path, headers=BOB, params={"a": run.id, "b": run.id}) as response:
            assert run.handle not in await response.text()
