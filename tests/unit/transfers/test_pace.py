"""A server that trickles is left; one that is merely slow is not."""

import pytest

from wesemu.transfers.errors import RemoteFault
from wesemu.transfers.pace import LEAST_BYTES, WINDOW_SECONDS, Pace


class Seconds:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def feed(seconds: float, size: int, windows: float) -> None:
    """`size` bytes every so many seconds, for so many windows."""
    clock = Seconds()
    pace = Pace("http://lab/a.fq", clock)
    end = clock.now + windows * WINDOW_SECONDS
    while clock.now < end:
        clock.now += seconds
        pace.add(size)


def test_a_trickle_is_left_after_one_window() -> None:
    feed(seconds=1.0, size=1, windows=0.98)
    with pytest.raises(RemoteFault, match=r"a\.fq sends .*: 60 bytes in 60 seconds") as left:
        feed(seconds=1.0, size=1, windows=1)
    assert left.value.file == "http://lab/a.fq"


def test_slow_is_fast_enough() -> None:
    feed(seconds=1.0, size=LEAST_BYTES // 60, windows=20)
    feed(seconds=25.0, size=LEAST_BYTES // 2, windows=20)


def test_what_came_fast_at_first_does_not_excuse_a_trickle() -> None:
    clock = Seconds()
    pace = Pace("x", clock)
    pace.add(1 << 30)
    clock.now += WINDOW_SECONDS
    pace.add(1)
    clock.now += WINDOW_SECONDS
    with pytest.raises(RemoteFault, match="1 bytes in 60 seconds"):
        pace.add(1)
