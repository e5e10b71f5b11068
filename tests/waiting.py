"""Waiting for what happens soon, and never for longer than it takes."""

import asyncio
from collections.abc import Awaitable, Callable

_SECONDS = 10.0
_GLANCE = 0.01


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Raises TimeoutError if it does not hold in ten seconds."""
    async with asyncio.timeout(_SECONDS):
        while True:
            told = holds()
            if told if isinstance(told, bool) else await told:
                return
            await asyncio.sleep(_GLANCE)
