"""Times and durations in Go's format."""

from datetime import UTC, datetime, timedelta

import pytest

from wesemu.api.ags.responses import ZERO_TIME, go_duration, go_time
from wesemu.runs.clock import rfc3339

MOMENT = datetime(2020, 1, 15, 8, 30, 25, 999_999, tzinfo=UTC)


def test_describe_tells_china_standard_time() -> None:
    assert go_time(MOMENT) == "2020-01-15 16:30:25 +0800 CST"


def test_what_has_not_happened_is_go_s_zero_time() -> None:
    assert go_time(None) == ZERO_TIME == "0001-01-01 00:00:00 +0000 UTC"


def test_the_list_tells_utc() -> None:
    assert rfc3339(MOMENT) == "2020-01-15T08:30:25Z"


@pytest.mark.parametrize(
    ("length", "printed"),
    [
        ({"hours": 1, "minutes": 15, "seconds": 33, "microseconds": 529968}, "1h15m33.529968s"),
        ({"minutes": 12, "seconds": 25}, "12m25s"),
        ({"hours": 2}, "2h0m0s"),
        ({"hours": 30, "seconds": 1}, "30h0m1s"),
        ({"minutes": 1, "microseconds": 500_000}, "1m0.5s"),
        ({"seconds": 59}, "59s"),
        ({"microseconds": 1_500}, "1.5ms"),
        ({"milliseconds": 20}, "20ms"),
        ({"microseconds": 7}, "7µs"),
        ({}, "0s"),
        ({"seconds": -1}, "0s"),
    ],
)
def test_durations_read_as_in_go(length: dict[str, float], printed: str) -> None:
    assert go_duration(timedelta(**length)) == printed
