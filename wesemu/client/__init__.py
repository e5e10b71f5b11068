"""A small typed client of the HTTP APIs: AGS, WES, the control API, downloads.

Every failure raises `ClientError` with the server's message.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from wesemu.client.ags import AgsOperations, ClockReading, ControlOperations, JobDetail, JobLine
from wesemu.client.transport import QUICK, ClientError, Transport, server_url, socket_path
from wesemu.client.wes import Log, Output, RunDetail, RunLine, WesOperations

__all__ = [
    "Client",
    "ClientError",
    "ClockReading",
    "JobDetail",
    "JobLine",
    "Log",
    "Output",
    "RunDetail",
    "RunLine",
    "connect",
]


class Client:
    """The APIs of one server. `connect` creates it."""

    def __init__(self, transport: Transport) -> None:
        self.ags = AgsOperations(transport)
        self.wes = WesOperations(transport)
        self.control = ControlOperations(transport)


@asynccontextmanager
async def connect(server: str, *, token: str | None = None) -> AsyncIterator[Client]:
    """Yield a client of `server`, which sends `token` as a bearer token.

    No connection is opened before the first request. `server` is an http URL, HOST:PORT or
    unix:PATH. Raise ClientError for anything else.
    """
    url = server_url(server)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    path = socket_path(server)
    connector = aiohttp.UnixConnector(path) if path is not None else None
    async with aiohttp.ClientSession(
        headers=headers, timeout=QUICK, connector=connector
    ) as session:
        yield Client(Transport(session, url))
