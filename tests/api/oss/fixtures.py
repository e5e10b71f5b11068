"""The bucket door by itself: a server without runs, over a folder of buckets."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from wesemu.api.ags.authenticator import Authenticator
from wesemu.api.ags.dialect import AgsDialect
from wesemu.api.middleware import around
from wesemu.api.oss.authenticator import OssAuthenticator
from wesemu.api.oss.dialect import OssDialect
from wesemu.api.oss.routes import OssHandlers
from wesemu.api.visitors import Visitors
from wesemu.clock import Clock, WallClock
from wesemu.ids import IdSource
from wesemu.objects.services import ObjectServices
from wesemu.objects.shelves import Shelves
from wesemu.objects.store import ObjectStore
from wesemu.objects.uploads import Uploads

Client = TestClient[web.Request, web.Application]

KEY_ID = "LTAIexample"
SECRET = "a secret for tests"


def door_application(
    root: Path,
    *,
    keys: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    limit: int | None = None,
) -> web.Application:
    """A server that has nothing but the buckets below `root`; `limit` is that of one request."""
    ids = IdSource(seed=1)
    objects = ObjectServices.open(root, ids)
    if limit is not None:
        store = ObjectStore(root, None, limit=limit)
        objects = ObjectServices(store, Shelves(root, store), Uploads(store, ids))
    oss = OssDialect(
        OssAuthenticator(keys or {}, clock or WallClock()),
        objects.shelves,
        [],
        OssHandlers(objects),
    )
    elsewhere = AgsDialect(Authenticator({}, WallClock()))
    middleware = around([oss, elsewhere], ids, visitors=Visitors(is_open=True))
    app = web.Application(middlewares=[middleware])
    app.router.add_get("/{anything:.*}", _elsewhere)
    return app


async def start_door(root: Path, *, unpacking: bool = False, **options: Any) -> TestServer:
    """A started server of `door_application`, set up as `wesemu serve` does it."""
    app = await asyncio.to_thread(door_application, root, **options)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(auto_decompress=unpacking)
    return server


async def _elsewhere(request: web.Request) -> web.Response:
    return web.Response(text="another API")


@dataclass(frozen=True)
class Answer:
    """A response that has been read."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def xml(self) -> ET.Element:
        return ET.fromstring(self.body)

    @property
    def code(self) -> str | None:
        return self.xml.findtext("Code")


async def read(response: ClientResponse) -> Answer:
    return Answer(response.status, response.headers, await response.read())
