"""What a thread opens for a cancelled caller is released, and not left to the garbage collector."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.waiting import soon

from wesemu.api.admin.data import receive
from wesemu.util.cancellation import close, open_in_thread

Opened = io.IOBase | None


class Opening:
    """Opens something in a thread, but not before its caller is cancelled."""

    def __init__(self, function: Callable[..., Opened]) -> None:
        self._function = function
        self._begun, self._go_on = threading.Event(), threading.Event()
        self.opened: list[Opened] = []

    def open(self, *arguments: Any) -> Opened:
        self._begun.set()
        self._go_on.wait()
        self.opened.append(self._function(*arguments))
        return self.opened[0]

    async def cancel(self, caller: "asyncio.Task[Any]") -> None:
        async with soon():
            await asyncio.to_thread(self._begun.wait)
            caller.cancel()
            await asyncio.sleep(0)  # the caller has received the cancel
            self._go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await caller


async def test_what_was_opened_is_returned() -> None:
    assert (await open_in_thread(close, io.BytesIO, b"content")).read() == b"content"


async def test_an_error_is_raised() -> None:
    with pytest.raises(FileNotFoundError):
        await open_in_thread(close, Path("/nonexistent/file").open, "rb")


@pytest.mark.parametrize("function", [io.BytesIO, lambda: None], ids=["a file", "nothing"])
async def test_what_is_opened_for_a_cancelled_caller_is_closed(
    function: Callable[[], Opened],
) -> None:
    opening = Opening(function)
    await opening.cancel(asyncio.create_task(open_in_thread(close, opening.open)))
    assert [file is None or file.closed for file in opening.opened] == [True]


async def test_an_error_for_a_cancelled_caller_is_dropped() -> None:
    opening = Opening(Path("/nonexistent/file").open)
    await opening.cancel(asyncio.create_task(open_in_thread(close, opening.open)))
    assert opening.opened == []


async def test_an_upload_that_breaks_off_leaves_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"

    opening = Opening(Path.open)
    monkeypatch.setattr(Path, "open", lambda path, mode: opening.open(path, mode))
    await opening.cancel(asyncio.create_task(receive(chunks(), tmp_path / "file")))
    assert [file is not None and file.closed for file in opening.opened] == [True]
