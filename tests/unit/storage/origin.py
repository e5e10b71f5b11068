"""A web server with scripted responses."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from wesemu.util.ssrf import AddressGuard

LOOPBACK = AddressGuard([ip_network("127.0.0.0/8")], setting="inputs.networks")
CONTENT = b"".join(b"@r%d\nACGT\n+\nIIII\n" % number for number in range(200_000))
ETAG = '"v1"'

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Origin:
    """Answers by `script`, one entry a request; then as a good server of `content` does."""

    content: bytes = CONTENT
    etag: str | None = ETAG
    headers: dict[str, str] = field(default_factory=dict)
    script: list[Answer] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        answer = self.script.pop(0) if self.script else self.serve
        return await answer(request)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        headers = dict(self.headers)
        if self.etag is not None:
            headers["ETag"] = self.etag
            if request.headers.get("If-None-Match") == self.etag:
                return web.Response(status=304, headers=headers)
        start = self.start_of(request)
        if start:
            whole = len(self.content)
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
            return web.Response(status=206, headers=headers, body=self.content[start:])
        return web.Response(headers=headers, body=self.content)

    def breaks_after(self, size: int) -> Answer:
        """Announces everything and hangs up after `size` bytes of this answer."""

        async def answer(request: web.Request) -> web.StreamResponse:
            start = self.start_of(request)
            headers = {**self.headers, "ETag": self.etag or 'W/"weak"'}
            if start:
                whole = len(self.content)
                headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
            response = web.StreamResponse(status=206 if start else 200, headers=headers)
            response.content_length = len(self.content) - start
            await response.prepare(request)
            await response.write(self.content[start : start + size])
            assert request.transport is not None
            request.transport.close()
            return response

        return answer

    def stalls_after(self, size: int, forever: asyncio.Event) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"ETag": self.etag or ""})
            response.content_length = len(self.content)
            await response.prepare(request)
            await response.write(self.content[:size])
            await forever.wait()
            await response.write(self.content[size:])
            return response

        return answer

    def start_of(self, request: web.Request) -> int:
        """Where the rest begins that is asked for; 0: all of it."""
        asked = request.headers.get("Range")
        if asked is None or request.headers.get("If-Range") != self.etag:
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))


def says(status: int, **headers: str) -> Answer:
    """An answer without a body."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )

    return answer


async def start(origin: Origin) -> TestServer:
    app = web.Application()
    app.router.add_get("/{name:.*}", origin.handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(shutdown_timeout=0.1)
    origin.url = f"http://127.0.0.1:{server.port}/reads/a_1.fq"
    return server


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """A web server with one file, at any path."""
    origin = Origin()
    server = await start(origin)
    yield origin
    await server.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
