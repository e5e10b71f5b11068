"""Waiting for conditions, with a timeout."""

import asyncio
from collections.abc import Awaitable, Callable

TIMEOUT_SECONDS = 60.0
"""A generous limit, which only a busy machine needs."""

_POLL_SECONDS = 0.01


def soon() -> asyncio.Timeout:
    """Return a timeout for a block, so the test fails instead of hanging."""
    return asyncio.timeout(TIMEOUT_SECONDS)


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until `holds` is true. Raise TimeoutError after a minute."""
    async with soon():
        while True:
            result = holds()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(_POLL_SECONDS)
