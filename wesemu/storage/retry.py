"""How often something is tried again, and how long is waited in between."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from wesemu.errors import RemoteFault, TransientError

# How fast a server has to send, so that nobody's trickle keeps others waiting.


# A file on its way in, which can be gone on with: `<name>.part`, and what it is a part of.


# The attempts to fetch one file: what each asks for, and whether its answer can be believed.


DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds from each failed attempt to the next."""

_T = TypeVar("_T")


class Retry:
    """The attempts of one undertaking; `name` is what it is about."""

    def __init__(self, name: str, delays: Sequence[float] = DELAYS) -> None:
        self._name = name
        self._delays = delays
        self._failed = 0

    def renew(self) -> None:
        """There was progress: failures so far do not count."""
        self._failed = 0

    async def bear(self, failure: TransientError) -> None:
        """Wait before the next attempt. Raises RemoteFault where there is none."""
        if self._failed >= len(self._delays):
            raise RemoteFault(
                f"{self._name} {failure.reason}; {self._failed + 1} attempts failed. "
                "Try again later, or look whether the other side is up",
                file=self._name,
            ) from failure
        delay = max(self._delays[self._failed], failure.after)
        self._failed += 1
        await asyncio.sleep(delay)


async def with_retry(
    name: str, work: Callable[[], Awaitable[_T]], delays: Sequence[float] = DELAYS
) -> _T:
    """Do `work` until it raises no Passing. Raises RemoteFault in the end."""
    patience = Retry(name, delays)
    while True:
        try:
            return await work()
        except TransientError as failure:
            await patience.bear(failure)
