"""Several undertakings at once, all or nothing."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")


async def together(works: Iterable[Coroutine[Any, Any, _T]], name: str) -> list[_T]:
    """What all of them return, in order. The first failure ends the others and is raised."""
    tasks = [asyncio.create_task(work, name=name) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
