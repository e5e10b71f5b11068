"""run.lock: held by flock for as long as a run's process lives; its text says who holds it."""

import fcntl
import json
import os
import time
from pathlib import Path

from wesemu.engines.processes import Known, identify
from wesemu.runs.workspace import read_json

_PATIENCE_SECONDS = 0.5
_STEP_SECONDS = 0.01
_LIMIT = 10_000


class RunLock:
    """The lock of one run directory, held by this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "RunLock | None":
        """None where another process holds it; one that only looks is waited for."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(_STEP_SECONDS)
        lock = cls(descriptor)
        lock.sign()
        return lock

    def sign(self) -> None:
        """Write who holds the lock."""
        text = json.dumps({"pid": os.getpid(), "identity": identify(os.getpid())}) + "\n"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def drop(self) -> None:
        """In a forked child: forget the lock; the parent goes on holding it."""
        os.close(self._descriptor)


def is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def holder(path: Path) -> Known | None:
    """Who wrote the lock's text last, alive or not."""
    try:
        record = read_json(path, _LIMIT)
        return Known(pid=int(record["pid"]), identity=str(record["identity"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
