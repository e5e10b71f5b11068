"""Retries of remote operations, with growing delays between the attempts."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from wesemu.errors import RemoteFault, TransientError

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds of delay after each failed attempt."""

_T = TypeVar("_T")


class Retry:
    """Counts the failed attempts of one operation; `name` appears in messages."""

    def __init__(self, name: str, delays: Sequence[float] = DELAYS) -> None:
        self._name = name
        self._delays = delays
        self._failed = 0

    def reset(self) -> None:
        """Forget earlier failures, because there was progress."""
        self._failed = 0

    async def wait_or_raise(self, failure: TransientError) -> None:
        """Wait for the next attempt. Raise RemoteFault if no attempt is left."""
        if self._failed >= len(self._delays):
            raise RemoteFault(
                f"{self._name} {failure.reason}; {self._failed + 1} attempts failed. "
                "Try again later, or check that the remote server is running",
                file=self._name,
            ) from failure
        # `after` is the server's Retry-After.
        delay = max(self._delays[self._failed], failure.after)
        self._failed += 1
        await asyncio.sleep(delay)


async def with_retry(
    name: str, work: Callable[[], Awaitable[_T]], delays: Sequence[float] = DELAYS
) -> _T:
    """Call `work` again after each TransientError. Raise RemoteFault after the last attempt."""
    retry = Retry(name, delays)
    while True:
        try:
            return await work()
        except TransientError as failure:
            await retry.wait_or_raise(failure)
