"""The OSS API alone: a server without runs, over a folder of buckets."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from wesemu.api.ags.auth import AgsAuthenticator
from wesemu.api.ags.routes import AgsDialect
from wesemu.api.csrf import RequestGuard
from wesemu.api.middleware import api_middleware
from wesemu.api.oss.auth import OssAuthenticator
from wesemu.api.oss.routes import OssDialect, OssHandlers
from wesemu.runs.clock import Clock, WallClock
from wesemu.runs.data_directory import IdSource
from wesemu.storage.bucket_admin import BucketAdmin, ObjectServices
from wesemu.storage.multipart import MultipartUploads
from wesemu.storage.objects import ObjectStore

Client = TestClient[web.Request, web.Application]

KEY_ID = "LTAIexample"
SECRET = "a secret for tests"


def oss_application(
    root: Path,
    *,
    keys: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    limit: int | None = None,
) -> web.Application:
    """Return a server with only the buckets below `root`. `limit` is the size limit of requests."""
    ids = IdSource(seed=1)
    objects = ObjectServices.open(root, ids)
    if limit is not None:
        store = ObjectStore(root, None, limit=limit)
        objects = ObjectServices(store, BucketAdmin(root, store), MultipartUploads(store, ids))
    oss = OssDialect(
        OssAuthenticator(keys or {}, clock or WallClock()),
        objects.buckets,
        [],
        OssHandlers(objects),
    )
    elsewhere = AgsDialect(AgsAuthenticator({}, WallClock()))
    middleware = api_middleware([oss, elsewhere], ids, guard=RequestGuard(is_open=True))
    app = web.Application(middlewares=[middleware])
    app.router.add_get("/{anything:.*}", _elsewhere)
    return app


async def start_oss_server(root: Path, *, unpacking: bool = False, **options: Any) -> TestServer:
    """Start a server of `oss_application` with the options of `wesemu serve`."""
    app = await asyncio.to_thread(oss_application, root, **options)
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
