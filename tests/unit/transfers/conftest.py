"""A web server with one file, and a fetcher that may go to this machine and never waits."""

from collections.abc import AsyncIterator

import pytest
from unit.transfers.origin import LOOPBACK, Origin, start

from wesemu.transfers.http import HttpFetcher

IMPATIENT = (0.0,) * 3


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    origin = Origin()
    server = await start(origin)
    yield origin
    await server.close()


@pytest.fixture
async def fetcher() -> AsyncIterator[HttpFetcher]:
    fetcher = HttpFetcher(LOOPBACK, delays=IMPATIENT)
    yield fetcher
    await fetcher.close()
