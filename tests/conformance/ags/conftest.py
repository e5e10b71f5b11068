"""A server on a free port of the loopback address, for the real SDKs; one access key."""

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from wesemu.settings import Settings

KEY_ID = "LTAIexample"
SECRET = "a secret for tests"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    keys = {"ags_keys": {KEY_ID: SECRET}}
    return Settings.model_validate(settings.model_dump() | {"auth": keys})


@pytest.fixture
async def endpoint(aiohttp_server: AiohttpServer, app: web.Application) -> str:
    """The server's "127.0.0.1:PORT"."""
    server = await aiohttp_server(app, host="127.0.0.1")
    return f"{server.host}:{server.port}"
