"""How fast a server has to send, so that nobody's trickle keeps others waiting."""

from collections.abc import Callable

from wesemu.transfers.errors import Passing

WINDOW_SECONDS = 60.0
LEAST_BYTES = 60 << 10
"""In each window: 1 KiB a second."""


class Pace:
    """The bytes of one answer as they come. `now` tells seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = now()
        self._bytes = 0
        self._verdict: Passing | None = None

    def add(self, size: int, *, whole: bool) -> None:
        """Raises Passing when more comes after a window that brought too little: the end of a
        file may be short, and is not judged. `whole`: this was the end, as far as it is known."""
        if self._verdict is not None and not whole:
            raise self._verdict
        self._bytes += size
        passed = self._now() - self._began
        if passed < WINDOW_SECONDS:
            return
        if self._bytes * WINDOW_SECONDS < LEAST_BYTES * passed:
            self._verdict = Passing(
                f"sends too slowly: {self._bytes} bytes in {passed:.0f} seconds"
            )
        self._began += passed
        self._bytes = 0
