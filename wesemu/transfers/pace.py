"""How fast a server has to send, so that nobody's trickle keeps others waiting."""

from collections.abc import Callable

from wesemu.transfers.errors import RemoteFault

WINDOW_SECONDS = 60.0
LEAST_BYTES = 60 << 10
"""In each window: 1 KiB a second."""


class Pace:
    """The bytes of one answer as they come. `shown` is the file's name, `now` in seconds."""

    def __init__(self, shown: str, now: Callable[[], float]) -> None:
        self._shown = shown
        self._now = now
        self._began = now()
        self._bytes = 0

    def add(self, size: int) -> None:
        """Raises RemoteFault at the end of a window that brought too little."""
        self._bytes += size
        passed = self._now() - self._began
        if passed < WINDOW_SECONDS:
            return
        if self._bytes * WINDOW_SECONDS < LEAST_BYTES * passed:
            raise RemoteFault(
                f"the server of {self._shown} sends too slowly: {self._bytes} bytes in "
                f"{passed:.0f} seconds. Try again later, or take the file from elsewhere",
                file=self._shown,
            )
        self._began += passed
        self._bytes = 0
