"""A WES server over the real core and the scripted engine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient, TestServer
from pytest_aiohttp import AiohttpClient
from support.scripted import START
from yarl import URL

from wesemu.api.middleware import api_middleware
from wesemu.api.wes.auth import TokenAuthenticator
from wesemu.api.wes.models import PREFIX, VersionName
from wesemu.api.wes.responses import EngineParameter, Limits, ServiceFacts
from wesemu.api.wes.routes import WesDialect, routes
from wesemu.app import RUNS
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import LOCAL_OWNER, Owner, Run

Client = TestClient[web.Request, web.Application]
Serve = Callable[..., Awaitable[Client]]
Submit = Callable[..., Awaitable[str]]
Ended = Callable[..., Awaitable[Run]]

FACTS = ServiceFacts(
    version="0.1.0",
    created=START,
    workflow_types={"SMK": ("9.27.1",)},
    engines={"snakemake": "9.27.1"},
    bundled={"mapping": "SMK", "wgs": "SMK"},
    parameters=(EngineParameter("cores", "integer", "2"),),
    contact="mailto:lab@example.org",
)
LIMITS = Limits(field=10_000, body=20_000, upload=1_000_000, parts=50)


def absolute(wes: Client, path: str) -> URL:
    """Of a path as it is written, doubled slashes and all; an absolute URL stays as it is."""
    return URL(path if path.startswith("http") else f"http://{wes.host}:{wes.port}{path}")


async def fetch(wes: Client, path: str, status: int = 200, **query: str) -> Any:
    """GET below the server's root, or an absolute URL; the JSON of the answer."""
    async with wes.session.get(absolute(wes, path), params=query) as answer:
        body = await answer.json()
        assert answer.status == status, body
        return body


async def fetch_text(wes: Client, url: str) -> str:
    """As `fetch`, for text."""
    async with wes.session.get(absolute(wes, url)) as answer:
        assert answer.status == 200
        return await answer.text()


async def ask(wes: Client, method: str, target: str) -> bytes:
    """The raw answer to a target that no client would send as it is."""
    reader, writer = await asyncio.open_connection(wes.host, wes.port)
    line = f"{method} {target} HTTP/1.1"
    writer.write(f"{line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.fixture
async def core(app: web.Application) -> AsyncIterator[web.Application]:
    """The core of the whole server, its queue served."""
    runner = web.AppRunner(app)
    await runner.setup()
    yield app
    await runner.cleanup()


@pytest.fixture
def serve(aiohttp_client: AiohttpClient, core: web.Application) -> Serve:
    """A client of a server that has these tokens and answers as this version."""

    async def start(
        version: VersionName = "0.3.0", tokens: Mapping[str, str] | None = None
    ) -> Client:
        dialect = WesDialect(TokenAuthenticator(tokens or {}))
        app = web.Application(middlewares=[api_middleware([dialect], IdSource(seed=2))])
        app.add_routes(routes(core[RUNS], FACTS, page_key=b"key", version=version, limits=LIMITS))
        server = TestServer(app)
        await server.start_server(auto_decompress=False)  # as `wesemu serve`
        return await aiohttp_client(server)

    return start


@pytest.fixture
async def wes(serve: Serve) -> Client:
    return await serve()


@pytest.fixture
def submit(wes: Client) -> Submit:
    """Send a Snakefile that plays `script`; the run's id."""

    async def send(script: Sequence[Mapping[str, Any]] = (), **fields: Any) -> str:
        body = {"workflow_url": "wgs", "workflow_type": "SMK"} | fields
        form = FormData()
        if "workflow_params" not in fields:
            body |= {"workflow_url": "Snakefile", "workflow_params": {"script": list(script)}}
            form.add_field("workflow_attachment", b"rule all:\n", filename="Snakefile")
        for name, value in body.items():
            form.add_field(name, value if isinstance(value, str) else json.dumps(value))
        async with wes.post(f"{PREFIX}/runs", data=form) as answer:
            told = await answer.json()
            assert answer.status == 200, told
        return str(told["run_id"])

    return send


@pytest.fixture
def ended(core: web.Application) -> Ended:
    """Wait for the end of a run."""

    async def wait(run_id: str, owner: Owner = LOCAL_OWNER) -> Run:
        async for run in core[RUNS].follow(owner, run_id):
            last = run
        return last

    return wait
