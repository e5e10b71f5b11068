"""A web server with one file, and a fetcher for loopback without delays."""

from collections.abc import AsyncIterator

import pytest
from unit.storage.origin import LOOPBACK, origin

from wesemu.storage.download import HttpFetcher

__all__ = ["fetcher", "origin"]

IMPATIENT = (0.0,) * 3


@pytest.fixture
async def fetcher() -> AsyncIterator[HttpFetcher]:
    fetcher = HttpFetcher(LOOPBACK, delays=IMPATIENT)
    yield fetcher
    await fetcher.close()
