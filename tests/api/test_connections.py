"""Limits on connections, stalled requests, and requests that cannot be parsed."""

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from support.waiting import eventually, soon

from wesemu.api.admin.routes import AdminAccess, AdminDialect
from wesemu.api.connections import (
    Connections,
    ConnectionSite,
    connection_limit,
    quiet_when_out_of_files,
)
from wesemu.api.middleware import UnreadableRequests, api_middleware
from wesemu.app import UNREADABLE
from wesemu.runs.data_directory import IdSource

Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
IDLE = b"GET /gs/workflows HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
METRICS = b"GET /_wesemu/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PUT = b"PUT /oss/genes/a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"


@asynccontextmanager
async def served(
    app: web.Application, connections: Connections | None = None, **limits: Any
) -> AsyncIterator[Open]:
    if connections is None:
        connections = Connections(unreadable=app[UNREADABLE], **{"limit": 100, **limits})
    runner = web.AppRunner(app, access_log=None, auto_decompress=False)
    await runner.setup()
    opened: list[asyncio.StreamWriter] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        await ConnectionSite(runner, listener, connections).start()

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(writer)
            return reader, writer

        try:
            yield connect
        finally:
            for writer in opened:
                writer.close()
            await runner.cleanup()
    assert not connections.open


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, headers and body."""
    async with soon():
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head.split()[1]), head, await reader.readexactly(length)


async def ask(connect: Open, request: bytes) -> tuple[int, bytes, bytes]:
    reader, writer = await connect()
    writer.write(request)
    return await answer(reader)


async def test_idle_connections_make_way_for_new_ones(app: web.Application) -> None:
    async with served(app, limit=3) as connect:
        idle = []
        for _ in range(3):
            reader, writer = await connect()
            writer.write(IDLE)
            assert (await answer(reader))[0] == 200
            idle.append(reader)
        assert (await ask(connect, IDLE))[0] == 200
        async with soon():
            assert await idle[0].read() == b""


async def test_where_none_is_idle_a_new_connection_is_refused(app: web.Application) -> None:
    connections = Connections(limit=2)
    async with served(app, connections) as connect:
        for _ in range(2):
            _, writer = await connect()
            writer.write(IDLE[:-10])
        await eventually(lambda: [bool(each._head) for each in connections.open] == [True, True])
        status, head, body = await ask(connect, IDLE)
        assert status == 503
        assert b"Retry-After: 1\r\n" in head
        assert json.loads(body)["error"] == "too many connections; try again"


@pytest.mark.parametrize(
    ("sent", "limits"),
    [
        (b"", {"idle": 0.05}),
        (IDLE, {"idle": 0.05}),
        (IDLE[:-10], {"headers": 0.05}),
        (
            b"PUT /oss/genes/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",
            {"stalled": 0.05},
        ),
    ],
    ids=["nothing is sent", "no further request", "headers stop", "a body stops"],
)
async def test_a_connection_on_which_nothing_moves_is_closed(
    app: web.Application, sent: bytes, limits: dict[str, float]
) -> None:
    async with served(app, **limits) as connect, soon():
        reader, writer = await connect()
        writer.write(sent)
        with suppress(ConnectionResetError):
            await reader.read()


async def test_a_client_that_takes_its_time_is_served(
    app: web.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that come slowly are not a stall: each comes before the limit, all of them after it."""
    loop, late = asyncio.get_running_loop(), 0.0
    monkeypatch.setattr(loop, "time", lambda: type(loop).time(loop) + late)
    connections = Connections(limit=1, stalled=60.0, headers=1000.0)
    async with served(app, connections) as connect:
        reader, writer = await connect()
        writer.write(PUT)
        await eventually(lambda: bool(connections.open))
        (connection,) = connections.open
        for byte in b"four and5":
            before, watching = connection._last_activity, connection._watching
            writer.write(bytes([byte]))
            await eventually(lambda: connection._last_activity > before)  # noqa: B023
            late += 40.0
            await eventually(lambda: connection._watching is not watching)  # noqa: B023
        assert (await answer(reader))[0] == 200


LONG = b"x" * 9000
TWICE = b"more than once; send it once"


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "told"),
    [
        (b"GET /oss/genes/" + LONG, b"", 414, b"<Code>RequestURITooLong</Code>"),
        (b"GET /oss/genes/a", b"x-oss-meta-a: " + LONG, 431, b"<Code>RequestHeaderSectionTooLarge"),
        (b"GET /oss/genes/a", b"no colon", 400, b"<Code>InvalidArgument</Code>"),
        (b"GET /gs/workflow/" + LONG, b"", 414, b'"Code":"InvalidRequest"'),
        (b"GET /ga4gh/wes/v1/runs?tag=" + LONG, b"", 414, b'"status_code": 414'),
        (b"GET /_wesemu/info?" + LONG, b"", 414, b'"status": 414'),
        (b"GET /ga4gh/wes/v1/runs", b"bad header", 400, b'"status_code": 400'),
        (b"POST /ga4gh/wes/v1/runs", b"content-type: a/b\r\ncontent-type: a/b; c=d", 400, TWICE),
        (b"\x16\x03\x01", b"", 400, b'"status": 400'),
    ],
)
async def test_what_cannot_be_read_is_answered_by_its_api(
    app: web.Application, request_line: bytes, headers: bytes, status: int, told: bytes
) -> None:
    async with served(app) as connect:
        request = request_line + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n\r\n"
        reader, writer = await connect()
        writer.write(request)
        found, _, body = await answer(reader)
        assert (found, told in body) == (status, True), body
        async with soon():
            assert await reader.read() == b""
        assert (await ask(connect, IDLE))[0] == 200


def test_connections_leave_descriptors_for_the_rest() -> None:
    assert [connection_limit(files) for files in (64, 256, 1024, 65_536)] == [16, 42, 256, 4096]


async def test_a_lack_of_descriptors_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.get_running_loop()
    quiet_when_out_of_files(loop)
    try:
        for _ in range(5):
            error = OSError(24, "Too many open files")
            loop.call_exception_handler({"message": "accept", "exception": error})
    finally:
        loop.set_exception_handler(None)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("too many files are open") == 1
    assert "Traceback" not in printed.out + printed.err


CHUNKED = b"""POST %b HTTP/1.1\r
Host: 127.0.0.1\r
Content-Type: %b\r
Transfer-Encoding: chunked\r
Expect: 100-continue\r
\r
"""
FORM = b"multipart/form-data; boundary=x"
UPLOADS = [
    (b"/gs/workflow", b"application/json", b'{"a":'),
    (b"/ga4gh/wes/v1/runs", b"application/json", b'{"a":'),
    (b"/ga4gh/wes/v1/runs", FORM, b"--x\r\nContent-Disposition: form-data"),
    (b"/_wesemu/faults", b"application/json", b'{"a":'),
    (b"/ui/new", b"application/x-www-form-urlencoded", b"a=b"),
    (b"/ui/new", FORM, b"--x\r\nContent-Disposition: form-data"),
]


async def begin(
    connect: Open, path: bytes, kind: bytes, start: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send one chunk of a body that does not end."""
    reader, writer = await connect()
    writer.write(CHUNKED % (path, kind))
    async with soon():
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")  # the handler waits for the body
    writer.write(b"%x\r\n%b\r\n" % (len(start), start))
    return reader, writer


@pytest.mark.parametrize(("path", "kind", "start"), UPLOADS)
async def test_a_chunk_that_cannot_be_parsed_ends_its_request(
    app: web.Application, path: bytes, kind: bytes, start: bytes
) -> None:
    async with served(app) as connect:
        reader, writer = await begin(connect, path, kind, start)
        writer.write(b"no size\r\n")
        status, _, body = await answer(reader)
        assert (status, b"cut off" in body) == (400, True), body


@pytest.mark.parametrize(("path", "kind", "start"), UPLOADS)
async def test_a_client_that_leaves_is_no_fault_of_the_server(
    app: web.Application, path: bytes, kind: bytes, start: bytes
) -> None:
    async with served(app) as connect, soon():
        _, writer = await begin(connect, path, kind, start)
        writer.close()
        counted = b'method="POST",route="%b",status="' % path
        while counted not in (metrics := (await ask(connect, METRICS))[2]):
            await asyncio.sleep(0.01)
        assert counted + b'400"' in metrics


async def test_an_error_within_a_response_ends_the_connection() -> None:
    """A second response in the first one's body would look like its content."""

    async def fail(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"content")
        raise OSError(errno.EIO, "the disk fails")

    ids = IdSource(seed=1)
    app = web.Application(middlewares=[api_middleware([AdminDialect(AdminAccess(""))], ids)])
    app[UNREADABLE] = UnreadableRequests([], ids)
    app.router.add_get("/_wesemu/half", fail)
    async with served(app) as connect, soon():
        reader, writer = await connect()
        writer.write(b"GET /_wesemu/half HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        got = b""
        with suppress(ConnectionError):
            while chunk := await reader.read(1000):
                got += chunk
    assert b" 500 " not in got
