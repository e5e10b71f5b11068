"""The control API behind a real nginx: the proxy's requests never count as this machine's."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pytest_aiohttp import AiohttpServer
from support.nginx import NGINX, TEMPORARY
from support.ports import reserve_port
from support.waiting import soon

from wesemu.app import create_app
from wesemu.settings import AuthSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (nginx-light)")

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  $TEMPORARY
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      {more}
    }}
  }}
}}
""".replace("$TEMPORARY", TEMPORARY)
PLAIN = ""
FORWARDING = """proxy_http_version 1.1;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"""
REAL_IP = "proxy_http_version 1.1;\n      proxy_set_header X-Real-IP $remote_addr;"

Proxy = Callable[[TestServer, str], str]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """Starts nginx before a server; answers its URL, at which it listens already."""
    started: list[subprocess.Popen[bytes]] = []
    ports = ExitStack()

    def start(server: TestServer, more: str) -> str:
        assert NGINX is not None
        port = ports.enter_context(reserve_port())
        path = tmp_path / "nginx.conf"
        path.write_text(
            CONFIGURATION.format(folder=tmp_path, port=port, upstream=server.port, more=more)
        )
        started.append(subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(path)]))
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()
    ports.close()


async def until_answered(url: str) -> None:
    async with soon(), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/_wesemu/health"):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


async def status(method: str, url: str, **headers: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers) as answer,
    ):
        return answer.status


async def served(
    settings: Settings, engine: ScriptedEngine, aiohttp_server: AiohttpServer
) -> TestServer:
    app: web.Application = await create_app(settings, engines=[engine])
    return await aiohttp_server(app)


@pytest.mark.parametrize("more", [PLAIN, FORWARDING, REAL_IP])
@pytest.mark.parametrize("admin_token", ["", "secret"])
async def test_the_controls_are_closed_behind_nginx(
    settings: Settings,
    engine: ScriptedEngine,
    aiohttp_server: AiohttpServer,
    proxy: Proxy,
    more: str,
    admin_token: str,
) -> None:
    auth = AuthSettings(tokens={"t": "alice"}, admin_token=admin_token)
    server = await served(settings.model_copy(update={"auth": auth}), engine, aiohttp_server)
    url = await asyncio.to_thread(proxy, server, more)
    await until_answered(url)
    for shown in ({}, {"Authorization": "Bearer t"}):
        assert await status("POST", f"{url}/_wesemu/reset", **shown) == 401
    assert await status("GET", f"{url}/ga4gh/wes/v1/runs", Authorization="Bearer t") == 200
    with_token = await status("POST", f"{url}/_wesemu/reset", Authorization="Bearer secret")
    assert with_token == (200 if admin_token else 401)


async def test_an_open_server_serves_nobody_through_a_forwarding_proxy(
    settings: Settings, engine: ScriptedEngine, aiohttp_server: AiohttpServer, proxy: Proxy
) -> None:
    server = await served(settings, engine, aiohttp_server)
    url = await asyncio.to_thread(proxy, server, FORWARDING)
    await until_answered(url)
    for path in ("/ga4gh/wes/v1/runs", "/gs/workflows", "/oss/genes/"):
        assert await status("GET", f"{url}{path}") == 403
    assert await status("GET", f"{server.make_url('/ga4gh/wes/v1/runs')}") == 200
