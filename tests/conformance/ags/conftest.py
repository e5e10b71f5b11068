"""A server on a free loopback port for the real SDKs, with one access key."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from wesemu.api.ags import auth
from wesemu.api.ags.auth import AgsSignature, read_authorization
from wesemu.runs.model import Owner
from wesemu.runs.service import RunService
from wesemu.settings import Settings

KEY_ID = "LTAIexample"
SECRET = "a secret for tests"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    keys = {"ags_keys": {KEY_ID: SECRET}}
    return Settings.model_validate(settings.model_dump() | {"auth": keys})


@pytest.fixture
async def endpoint(aiohttp_server: AiohttpServer, app: web.Application) -> str:
    """Return "127.0.0.1:PORT" of the server."""
    server = await aiohttp_server(app, host="127.0.0.1")
    return f"{server.host}:{server.port}"


@pytest.fixture
def end(runs: RunService) -> Callable[[str], Awaitable[None]]:
    """Return a function that waits until a job ends."""

    async def end(name: str) -> None:
        run = await runs.by_handle(Owner(KEY_ID), name.rpartition("-")[2])
        async for changed in runs.follow(Owner(KEY_ID), run.id):
            assert not changed.failure

    return end


@pytest.fixture
def schemes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the set of signature schemes that the server has received."""
    received: set[str] = set()

    def read(header: str) -> AgsSignature | None:
        signature = read_authorization(header)
        received.add(signature.scheme if signature else "none")
        return signature

    monkeypatch.setattr(auth, "read_authorization", read)
    return received
