"""The minimum throughput: stalled downloads are ended, slow ones continue."""

import pytest

from wesemu.errors import TransientError
from wesemu.storage.download import LEAST_BYTES, WINDOW_SECONDS, ThroughputGuard


class Seconds:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def feed(seconds: float, size: int, windows: float) -> None:
    """`size` bytes every so many seconds, for so many windows and once more."""
    clock = Seconds()
    pace = ThroughputGuard(clock)
    end = clock.now + windows * WINDOW_SECONDS
    while clock.now <= end:
        clock.now += seconds
        pace.add(size, is_last=False)


def test_a_trickle_is_left_after_one_window() -> None:
    feed(seconds=1.0, size=1, windows=0.98)
    with pytest.raises(TransientError, match="sends too slowly: 60 bytes in 60 seconds"):
        feed(seconds=1.0, size=1, windows=1)


def test_slow_is_fast_enough() -> None:
    feed(seconds=1.0, size=LEAST_BYTES // 60, windows=20)
    feed(seconds=25.0, size=LEAST_BYTES // 2, windows=20)


def test_what_came_fast_at_first_does_not_excuse_a_trickle() -> None:
    clock = Seconds()
    pace = ThroughputGuard(clock)
    pace.add(1 << 30, is_last=False)
    for _ in range(2):
        clock.now += WINDOW_SECONDS
        pace.add(1, is_last=False)
    with pytest.raises(TransientError, match="1 bytes in 60 seconds"):
        pace.add(1, is_last=False)


def slow_end(*, known: bool) -> ThroughputGuard:
    """19 KiB in 50 seconds and the last one after a minute."""
    clock = Seconds()
    pace = ThroughputGuard(clock)
    clock.now += 50
    pace.add(19 << 10, is_last=False)
    clock.now += 11
    pace.add(1 << 10, is_last=known)
    return pace


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_has_arrived_whole_is_taken_however_slow_its_end(known: bool) -> None:
    """Known by its size, or only by nothing more that comes."""
    pace = slow_end(known=known)
    with pytest.raises(TransientError, match="20480 bytes in 61 seconds"):
        pace.add(1, is_last=False)


def test_an_end_in_two_pieces_is_taken_too() -> None:
    pace = slow_end(known=False)
    pace.add(1, is_last=True)
