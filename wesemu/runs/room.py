"""Room on the disk: what is kept for the moment when there is none, and what is said then."""

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

from wesemu.errors import DiskFull, OutOfFiles

_RESERVE = 4 << 20
_AMPLE = 4 * _RESERVE
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_CAUSES = 10
_SCARCE = 1 << 20
_PATIENCE_SECONDS = 5.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = "make room on the disk of the data directory"

_T = TypeVar("_T")

log = structlog.get_logger("wesemu.room")


class Reserve:
    """A file of 4 MiB that is deleted when the disk is full, so that ends can still be written,
    and made again once there is ample room. All methods block, briefly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.held = False

    def take(self) -> None:
        """Hold the room, if there is enough of it."""
        with contextlib.suppress(OSError):
            if not self._path.exists() and shutil.disk_usage(self._path.parent).free < _AMPLE:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _RESERVE)
                self.held = True
            finally:
                os.close(descriptor)

    def give(self) -> bool:
        """Give the room back; False when it was given already."""
        held, self.held = self.held, False
        self._path.unlink(missing_ok=True)
        return held


def disk_full(error: BaseException) -> DiskFull | None:
    """What to say of an error that a full disk is to blame for; None for any other."""
    if isinstance(error, DiskFull):
        return error
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return DiskFull(f"the server's disk is full; {_ADVICE}, then try again")
    return None


def out_of_files(error: BaseException) -> OutOfFiles | None:
    """What to say of an error that a lack of file descriptors is to blame for, directly or as its
    cause; None for any other."""
    seen: BaseException | None = error
    for _ in range(_CAUSES):
        if isinstance(seen, OutOfFiles):
            return seen
        if isinstance(seen, OSError) and seen.errno in _NO_FILES:
            return OutOfFiles(
                "too many files are open in this server; try again, or raise its limit "
                "(ulimit -n, LimitNOFILE=)"
            )
        if seen is None:
            return None
        seen = seen.__cause__ or seen.__context__
    return None


def check_room(folder: Path) -> None:
    """Raises DiskFull where next to nothing is left on the disk of `folder`. Blocks."""
    free = shutil.disk_usage(folder).free
    if free < _SCARCE:
        raise DiskFull(f"the disk is full ({free:,} bytes are free); {_ADVICE}, then submit again")


async def patiently(
    write: Callable[[], Awaitable[_T]], *, hurry: asyncio.Event | None = None
) -> _T:
    """Write to the index; where the disk is full, once somebody has made room. Raises DiskFull
    only in a `hurry`."""
    hurry = hurry or asyncio.Event()
    while True:
        try:
            return await write()
        except DiskFull as error:
            if hurry.is_set():
                raise
            log.error("the index waits for room", error=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await hurry.wait()
