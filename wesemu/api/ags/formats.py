"""Times and durations the way AGS's Go server prints them.

`create_time` and `finish_time` of DescirbeWorkflow are Go's `Time.String()` in China Standard
Time; `create_time` of DescribeWorkflows is RFC 3339 in UTC.
"""

from datetime import UTC, datetime, timedelta, timezone

CHINA = timezone(timedelta(hours=8), "CST")

ZERO_TIME = "0001-01-01 00:00:00 +0000 UTC"
"""Go's zero time: what has not happened yet."""


def go_time(moment: datetime | None) -> str:
    """As "2020-01-15 16:30:25 +0800 CST", to the second; the zero time for None."""
    if moment is None:
        return ZERO_TIME
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S %z CST")


def rfc3339(moment: datetime) -> str:
    """As "2020-01-15T13:18:52Z"."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def go_duration(length: timedelta) -> str:
    """Go's `Duration.String()`: "1h15m33.529968361s", "12m25s", "0s", "1.5ms"."""
    microseconds = max(length // timedelta(microseconds=1), 0)
    if 0 < microseconds < 1_000:
        return f"{microseconds}µs"
    if 0 < microseconds < 1_000_000:
        return f"{_decimal(microseconds, 1_000)}ms"
    minutes, rest = divmod(microseconds, 60_000_000)
    seconds = f"{_decimal(rest, 1_000_000)}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(count: int, unit: int) -> str:
    whole, fraction = divmod(count, unit)
    if not fraction:
        return str(whole)
    return f"{whole}.{fraction:0{len(str(unit)) - 1}}".rstrip("0")
