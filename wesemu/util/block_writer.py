"""Write a stream to a file: receiving, writing, hashing and syncing run at the same time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

BLOCK_SIZE = 1 << 20
"""Bytes."""

MOST_BEHIND = 4
"""Blocks that a step may be behind. Then no more are received."""

_FEW_BEHIND = 2
_SYNC_SIZE = 32 << 20
_MOST_PARTS = 1024

Step = Callable[[bytes], object]


async def write_blocks(
    chunks: AsyncIterator[bytes], steps: Sequence[Step], sync: Callable[[], object]
) -> None:
    """Join the chunks to blocks and pass each block to all steps, in order.

    Steps and `sync` run in threads, beside each other and beside receiving. A step waits for
    another one only if that is `MOST_BEHIND` blocks behind. `sync` runs every 32 MiB, so that the
    disk does not idle until the end. The caller syncs the rest.

    Raises the first error of `chunks`, a step or `sync`. When this returns or raises, no thread
    works on the stream any more, also after a cancellation.
    """
    queues = [_StepQueue(step) for step in steps]
    syncs = _StepQueue(lambda block: sync())
    try:
        unsynced = 0
        async for block in _blocks(chunks):
            for queue in queues:
                await queue.put(block)
            unsynced += len(block)
            if unsynced >= _SYNC_SIZE and syncs.is_empty:
                await syncs.put(b"")
                unsynced = 0
        for queue in (*queues, syncs):
            await queue.finish()
    finally:
        for queue in (*queues, syncs):
            queue.stop()
        for queue in (*queues, syncs):
            await queue.wait()


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join chunks to blocks of at least `BLOCK_SIZE`; only the last one may be smaller."""
    parts, size = list[bytes](), 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= BLOCK_SIZE:
            block, parts, size = b"".join(parts), [], 0
            yield block
        elif len(parts) == _MOST_PARTS:
            # Many small objects need far more memory than their bytes.
            parts = [b"".join(parts)]
    if size:
        yield b"".join(parts)


class _StepQueue:
    """Passes blocks to a step, one after another.

    A thread does this while there are blocks: to start one for each block would take longer than
    some steps. The event loop adds blocks at the end, the thread removes the first one when the
    step has processed it.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._blocks = deque[bytes]()
        self._loop = asyncio.get_running_loop()
        self._few = asyncio.Event()
        """Set when few blocks are left, or the thread has ended."""
        self._idle = asyncio.Event()
        """Set while there is no thread."""
        self._idle.set()
        self._error: BaseException | None = None
        self._stopped = False

    @property
    def is_empty(self) -> bool:
        return not self._blocks

    async def put(self, block: bytes) -> None:
        """Add a block; wait while the step is too far behind. Raises an error of the step."""
        self._blocks.append(block)
        if self._idle.is_set() and self._error is None:
            self._start()
        if len(self._blocks) > MOST_BEHIND:
            # Wait for some room, not for one block: that is a switch of threads each time.
            while len(self._blocks) > _FEW_BEHIND and not self._idle.is_set():
                self._few.clear()
                await self._few.wait()
        if self._error is not None:
            raise self._error

    async def finish(self) -> None:
        """Wait until the step has processed all blocks. Raises its error."""
        await self._idle.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Process no more blocks than the present one."""
        self._stopped = True

    async def wait(self) -> None:
        """Wait until no thread processes blocks. Ignores errors."""
        await self._idle.wait()

    def _start(self) -> None:
        self._idle.clear()
        self._loop.run_in_executor(None, self._work).add_done_callback(self._ended)

    def _work(self) -> None:
        while self._blocks and not self._stopped:
            self._step(self._blocks[0])
            self._blocks.popleft()
            if len(self._blocks) == _FEW_BEHIND:
                self._loop.call_soon_threadsafe(self._few.set)

    def _ended(self, job: asyncio.Future[None]) -> None:
        self._error = job.exception()
        if self._blocks and self._error is None and not self._stopped:
            self._start()  # a block was added when the thread was about to end
            return
        self._idle.set()
        self._few.set()
