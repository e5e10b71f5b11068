"""A stream is received, written, hashed and synced at the same time."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from wesemu.util.block_writer import BLOCK_SIZE, MOST_BEHIND, write_blocks

BLOCK = bytes(BLOCK_SIZE)
WAIT_SECONDS = 60


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def nothing() -> None:
    """Sync nothing."""


async def test_every_step_gets_all_bytes_in_order():
    first, second = list[bytes](), list[bytes]()
    chunks = [bytes([number]) * (number * 70_001) for number in range(20)]
    await write_blocks(stream(*chunks), [first.append, second.append], nothing)
    assert b"".join(first) == b"".join(chunks)
    assert first == second
    assert max(map(len, first)) < BLOCK_SIZE + max(map(len, chunks))


async def test_an_empty_stream_is_not_a_block():
    blocks = list[bytes]()
    await write_blocks(stream(), [blocks.append], nothing)
    assert blocks == []


async def test_the_next_block_is_received_while_one_is_written():
    received = threading.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield BLOCK
        received.set()
        yield b"end"

    waits = list[bool]()
    step = lambda block: waits.append(received.wait(WAIT_SECONDS))  # noqa: E731
    await write_blocks(chunks(), [step], nothing)
    assert waits == [True, True]


async def test_steps_run_beside_each_other():
    both = threading.Barrier(2)
    step = lambda block: both.wait(WAIT_SECONDS)  # noqa: E731
    await write_blocks(stream(BLOCK, BLOCK), [step, step], nothing)
    assert not both.broken


async def test_a_step_does_not_wait_for_a_slower_one():
    others_done = threading.Event()
    fast = list[bytes]()

    def slow(block: bytes) -> None:
        assert others_done.wait(WAIT_SECONDS)

    def step(block: bytes) -> None:
        fast.append(block)
        if len(fast) == MOST_BEHIND:
            others_done.set()

    await write_blocks(stream(*[BLOCK] * MOST_BEHIND), [slow, step], nothing)
    assert len(fast) == MOST_BEHIND


async def test_no_more_is_received_than_a_step_can_take():
    received, may_go_on = list[bytes](), threading.Event()
    loop = asyncio.get_running_loop()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4 * MOST_BEHIND):
            received.append(BLOCK)
            if len(received) == MOST_BEHIND + 1:
                loop.call_later(0, may_go_on.set)
            yield BLOCK

    in_memory = list[int]()

    def step(block: bytes) -> None:
        assert may_go_on.wait(WAIT_SECONDS)
        done = len(in_memory)
        in_memory.append(len(received) - done)

    await write_blocks(chunks(), [step], nothing)
    assert len(in_memory) == 4 * MOST_BEHIND
    assert max(in_memory) <= MOST_BEHIND + 2


async def test_small_chunks_are_joined():
    blocks = list[bytes]()
    await write_blocks(stream(*[b"x"] * 3000), [blocks.append], nothing)
    assert blocks == [b"x" * 3000]


async def test_a_long_stream_is_synced_while_it_is_written():
    begun, written = threading.Event(), threading.Event()
    blocks, syncs = list[bytes](), list[bool]()

    def sync() -> None:
        begun.set()
        syncs.append(written.wait(WAIT_SECONDS))

    def step(block: bytes) -> None:
        blocks.append(block)
        if len(blocks) == 50:
            assert begun.wait(WAIT_SECONDS)
            written.set()

    await write_blocks(stream(*[BLOCK] * 100), [step], sync)
    assert syncs
    assert all(syncs)


@pytest.mark.parametrize("blocks", [1, 40])
async def test_an_error_of_a_step_is_raised(blocks):
    def fail(block: bytes) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await write_blocks(stream(*[BLOCK] * blocks), [len, fail], nothing)


async def test_an_error_of_the_sync_is_raised():
    def fail() -> None:
        raise OSError("broken disk")

    with pytest.raises(OSError, match="broken disk"):
        await write_blocks(stream(*[BLOCK] * 40), [len], fail)


async def test_after_a_cancellation_no_thread_writes_any_more():
    begun, may_end = asyncio.Event(), threading.Event()
    ended = list[bool]()
    loop = asyncio.get_running_loop()

    def step(block: bytes) -> None:
        loop.call_soon_threadsafe(begun.set)
        ended.append(may_end.wait(WAIT_SECONDS))

    task = asyncio.create_task(write_blocks(stream(BLOCK, BLOCK), [step], nothing))
    await begun.wait()
    task.cancel()
    loop.call_soon(may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
