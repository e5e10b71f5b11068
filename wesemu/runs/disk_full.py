"""Full disks, missing file descriptors and permissions: find them in errors; keep a reserve.

Also the retry of calls of the index, which wait for free space and for locks of other programs.
"""

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog

from wesemu.errors import AccessRefused, DiskFull, IndexLocked, OutOfFiles, SystemFault
from wesemu.util.text import FULL_DISK_ERRORS, NO_FILES_ERRORS, os_reason

log = structlog.get_logger("wesemu.room")

_RESERVE = 4 << 20
_AMPLE = 4 * _RESERVE
LITTLE_DISK = 100 << 20
"""Bytes. With less free space in the data directory, the server is not ready."""

_CAUSES = 10
_SCARCE = 1 << 20
_RETRY_SECONDS = 5.0
_REFUSED_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL_DISK_ADVICE = "make room on the disk of the data directory"

INDEX_WAITS = (DiskFull, IndexLocked)
"""Errors of the index after which the same call can succeed later."""

_T = TypeVar("_T")


class DiskReserve:
    """A file of 4 MiB that is deleted on a full disk, so the ends of runs can still be written.

    It is created again when there is enough free space. All methods block briefly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.held = False

    def allocate(self) -> None:
        """Create the file if there is enough free space."""
        with contextlib.suppress(OSError):
            if not self._path.exists() and shutil.disk_usage(self._path.parent).free < _AMPLE:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _RESERVE)
                self.held = True
            finally:
                os.close(descriptor)

    def release(self) -> bool:
        """Delete the file. Return False if it was already deleted."""
        held, self.held = self.held, False
        self._path.unlink(missing_ok=True)
        return held


def disk_full(error: BaseException) -> DiskFull | None:
    """Return a DiskFull for an error that a full disk caused; None for any other error."""
    if isinstance(error, DiskFull):
        return error
    if isinstance(error, OSError) and error.errno in FULL_DISK_ERRORS:
        return DiskFull(f"the server's disk is full; {FULL_DISK_ADVICE}, then try again")
    return None


@contextlib.contextmanager
def disk_named(folder: Path) -> Iterator[None]:
    """Raise DiskFull, which names `folder`, for an OSError that a full disk caused."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK_ERRORS:
            raise
        reason = os_reason(error)
        raise DiskFull(f"cannot write to {folder}: {reason}; make room, then try again") from error


def out_of_files(error: BaseException) -> OutOfFiles | None:
    """Return an OutOfFiles for an error that missing file descriptors or threads caused, directly
    or through its causes; None for any other error."""
    seen: BaseException | None = error
    for _ in range(_CAUSES):
        if isinstance(seen, OutOfFiles):
            return seen
        if isinstance(seen, OSError) and seen.errno in NO_FILES_ERRORS:
            return OutOfFiles(
                "too many files are open in this server; try again, or raise its limit "
                "(ulimit -n, LimitNOFILE=)"
            )
        if isinstance(seen, RuntimeError) and "start new thread" in str(seen):
            return OutOfFiles(
                "no thread can be started in this server; try again, or raise its limit of "
                "processes (ulimit -u, TasksMax=) or its memory"
            )
        if seen is None:
            return None
        seen = seen.__cause__ or seen.__context__
    return None


def access_refused(error: BaseException) -> AccessRefused | None:
    """Return an AccessRefused for an error of permissions or of a read-only file system; None for
    any other error."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED_ERRORS:
        return None
    name = repr(Path(os.fsdecode(error.filename)).name) if error.filename else "a file"
    return AccessRefused(
        f"the server may not read or write {name} in its data directory: {os_reason(error)}; "
        "correct the owner and the mode of the file and its folder, or mount the disk for writing"
    )


def machine_fault(error: BaseException) -> SystemFault | None:
    """Return the error for a full disk, missing file descriptors or missing permissions."""
    return disk_full(error) or out_of_files(error) or access_refused(error)


def check_room(folder: Path) -> None:
    """Raise DiskFull if the disk of `folder` has less than 1 MiB of free space. Blocks."""
    free = shutil.disk_usage(folder).free
    if free < _SCARCE:
        raise DiskFull(
            f"the disk is full ({free:,} bytes are free); {FULL_DISK_ADVICE}, then submit again"
        )


def room_for_files(folder: Path) -> int:
    """Return the bytes that large files may take on the disk of `folder`. Blocks.

    100 MiB stay free, below which a server is not ready.
    """
    return max(0, shutil.disk_usage(folder).free - LITTLE_DISK)


def too_little_room(room: int, size: int) -> DiskFull:
    return DiskFull(
        f"the disk has room for {room:,} bytes besides the {LITTLE_DISK >> 20} MiB that stay free; "
        f"this needs {size:,}; {FULL_DISK_ADVICE}, then try again"
    )


async def retry_index(
    call: Callable[[], Awaitable[_T]], *, give_up: asyncio.Event | None = None
) -> _T:
    """Call `call` and return its result; on a full disk or a locked index, retry every 5 s.

    Raises DiskFull and IndexLocked only after `give_up` is set.
    """
    give_up = give_up or asyncio.Event()
    while True:
        try:
            return await call()
        except INDEX_WAITS as error:
            if give_up.is_set():
                raise
            log.error("index waits", error=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS):
                    await give_up.wait()
