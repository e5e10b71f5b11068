"""Waiting for what happens soon, and never for longer than it takes."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 60.0
"""For what takes no time but on a machine that has none."""

_GLANCE = 0.01


def soon() -> asyncio.Timeout:
    """Around what ends by itself if all is well: the test then fails instead of hanging."""
    return asyncio.timeout(PATIENCE_SECONDS)


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Raises TimeoutError if it does not hold within a minute."""
    async with soon():
        while True:
            told = holds()
            if told if isinstance(told, bool) else await told:
                return
            await asyncio.sleep(_GLANCE)
