"""Calls that block, on threads that nobody has to wait for.

A call of a vendor's SDK cannot be broken off. Who is cancelled leaves it behind; the thread ends
by itself, at the latest when the SDK's timeouts have passed, and never keeps the server from
stopping.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


async def detached(work: Callable[[], _T], name: str) -> _T:
    """What `work` returns or raises, on a thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():  # who waited was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
