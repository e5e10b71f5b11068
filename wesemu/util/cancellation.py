"""Work that goes on when its caller is cancelled: the caller waits for its end."""

import asyncio
import io
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def finish_despite_cancel(work: Coroutine[Any, Any, _T], name: str) -> _T:
    """Return the result of `work`. A cancelled caller waits until `work` has ended."""
    task = asyncio.create_task(work, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # the caller gets CancelledError instead
        raise


async def result_despite_cancel(work: Coroutine[Any, Any, _T], name: str, seconds: float) -> _T:
    """Return the result of `work`. A cancel has no effect if `work` succeeds within `seconds` of
    it; otherwise `work` is cancelled, too.
    """
    task = asyncio.create_task(work, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=seconds)
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()
        task.cancel()
        raise


async def finish_in_thread(
    function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs
) -> _T:
    """Call `function` in a thread. A cancelled caller waits until it has returned.

    Use it for changes: after a cancelled `asyncio.to_thread`, the thread still makes its change.
    """
    return await finish_despite_cancel(
        asyncio.to_thread(function, *arguments, **named), f"finish {function.__name__}"
    )


async def open_in_thread(
    release: Callable[[_T], object],
    function: Callable[_P, _T],
    *arguments: _P.args,
    **named: _P.kwargs,
) -> _T:
    """Return what `function` opens or creates in a thread.

    If the caller is cancelled, it waits until `function` has returned, and passes the result to
    `release` in a thread. A cancelled `asyncio.to_thread` would lose it.
    """
    name = f"open by {function.__name__}"
    task = asyncio.create_task(asyncio.to_thread(function, *arguments, **named), name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            await asyncio.to_thread(release, task.result())
        raise


def close(file: io.IOBase | None) -> None:
    """Close a file, if there is one: a `release` for `open_in_thread`."""
    if file is not None:
        file.close()
