"""Work that goes on when its caller is cancelled: the caller waits for its end."""

import asyncio
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
