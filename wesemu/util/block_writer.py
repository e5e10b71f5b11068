"""Write a stream to a file: receiving, writing, hashing and syncing run at the same time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

BLOCK_SIZE = 1 << 20
"""Bytes. At most two blocks are in memory: one that is processed, and the next one."""

_SYNC_SIZE = 32 << 20

Step = Callable[[bytes], object]


async def write_blocks(
    chunks: AsyncIterator[bytes], steps: Sequence[Step], sync: Callable[[], object]
) -> None:
    """Join the chunks to blocks and pass each block to all steps, in order.

    Steps and `sync` run in threads: the steps of one block beside each other, and beside receiving
    the next block. `sync` runs every 32 MiB, beside the steps, so that the disk does not idle until
    the end. The caller syncs the rest.

    Raises the first error of `chunks`, a step or `sync`. When this returns or raises, no thread
    works on the stream any more, also after a cancellation.
    """
    threads = _Threads()
    try:
        block, unsynced = bytearray(), 0
        async for chunk in chunks:
            block += chunk
            if len(block) < BLOCK_SIZE:
                continue
            unsynced += len(block)
            await threads.process(bytes(block), steps)
            block.clear()
            if unsynced >= _SYNC_SIZE and await threads.sync_if_idle(sync):
                unsynced = 0
        if block:
            await threads.process(bytes(block), steps)
        await threads.finish()
    finally:
        await threads.end()


class _Threads:
    """What is being done in threads for one stream."""

    def __init__(self) -> None:
        self._steps: list[asyncio.Future[object]] = []
        self._sync: list[asyncio.Future[object]] = []

    async def process(self, block: bytes, steps: Sequence[Step]) -> None:
        """Wait for the block before, then start the steps of this one."""
        await _results(self._steps)
        self._steps = [_start(partial(step, block)) for step in steps]

    async def sync_if_idle(self, sync: Callable[[], object]) -> bool:
        """Start `sync` unless one is running. Raise the error of the one before."""
        if any(not future.done() for future in self._sync):
            return False
        await _results(self._sync)
        self._sync = [_start(sync)]
        return True

    async def finish(self) -> None:
        await _results([*self._steps, *self._sync])

    async def end(self) -> None:
        """Wait for the threads, which cannot be cancelled. Ignore their errors."""
        futures = [*self._steps, *self._sync]
        if futures:
            await asyncio.wait(futures)
        for future in futures:
            future.exception()


def _start(call: Callable[[], object]) -> asyncio.Future[object]:
    return asyncio.get_running_loop().run_in_executor(None, call)


async def _results(futures: Sequence[asyncio.Future[object]]) -> None:
    """Wait for all. A cancellation does not cancel them. Raise the first error."""
    for future in futures:
        await asyncio.shield(future)
