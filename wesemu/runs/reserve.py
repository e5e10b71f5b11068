"""Room on the disk that is kept for the moment when there is none."""

import contextlib
import os
import shutil
from pathlib import Path

_SIZE = 4 << 20
_AMPLE = 4 * _SIZE


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
                os.posix_fallocate(descriptor, 0, _SIZE)
                self.held = True
            finally:
                os.close(descriptor)

    def give(self) -> bool:
        """Give the room back; False when it was given already."""
        held, self.held = self.held, False
        self._path.unlink(missing_ok=True)
        return held
