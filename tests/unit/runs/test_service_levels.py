"""Service levels and prices: the table and formula of AGS's billing page."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.runs.sla import ServiceLevel, promise, stretch

SILVER, GOLD, PLATINUM = ServiceLevel.SILVER, ServiceLevel.GOLD, ServiceLevel.PLATINUM
sizes = st.integers(min_value=0, max_value=10**13)


def test_the_worked_example_of_the_billing_page() -> None:
    sla = promise(SILVER, "wgs", 120_000_000_000)
    assert sla.minutes == 80
    assert sla.duration == timedelta(hours=1, minutes=20)


@pytest.mark.parametrize(
    ("level", "gbp", "minutes"),
    [
        (SILVER, 90, 60),
        (GOLD, 90, 45),
        (PLATINUM, 90, 30),
        (SILVER, 0, 60),
        (SILVER, 93, 62),
        (GOLD, 94, 47),
        (PLATINUM, 96, 32),
        (PLATINUM, 91, Fraction(91, 3)),
    ],
)
def test_minutes_by_tier(level: ServiceLevel, gbp: int, minutes: Fraction) -> None:
    assert promise(level, "mapping", gbp * 10**9).minutes == minutes


@pytest.mark.parametrize(
    ("level", "workflow", "price"),
    [
        (SILVER, "wgs", "10"),
        (SILVER, "mapping", "5"),
        (GOLD, "wgs", "15"),
        (GOLD, "mapping", "7.5"),
        (PLATINUM, "wgs", "20"),
        (PLATINUM, "mapping", "10"),
    ],
)
def test_price_of_ten_gigabases(level: ServiceLevel, workflow: str, price: str) -> None:
    assert promise(level, workflow, 10 * 10**9).price == Decimal(price)


def test_a_missed_service_level_is_free() -> None:
    sla = promise(GOLD, "wgs", 10**9)
    assert sla.charged(timedelta(minutes=45)) == Decimal("1.5")
    assert sla.charged(timedelta(minutes=45, microseconds=1)) == 0


def test_the_deadline_is_the_start_plus_the_minutes() -> None:
    start = datetime(2020, 1, 15, 8, 30, 25, tzinfo=UTC)
    assert promise(PLATINUM, "wgs", 0).deadline(start) == start + timedelta(minutes=30)


@given(fewer=sizes, more=sizes, level=st.sampled_from([SILVER, GOLD, PLATINUM]))
def test_more_bases_never_finish_earlier(fewer: int, more: int, level: ServiceLevel) -> None:
    fewer, more = sorted((fewer, more))
    assert promise(level, "wgs", fewer).minutes <= promise(level, "wgs", more).minutes
    assert promise(level, "wgs", fewer).price <= promise(level, "wgs", more).price


@given(bases=sizes)
def test_a_better_tier_never_finishes_later(bases: int) -> None:
    silver, gold, platinum = (promise(level, "wgs", bases) for level in (SILVER, GOLD, PLATINUM))
    assert platinum.minutes <= gold.minutes <= silver.minutes
    assert [level.rank for level in (PLATINUM, GOLD, SILVER)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("read_length", "times"), [(250, "1"), (150, "1"), (100, "1.15"), (50, "1.3"), (36, "1.3")]
)
def test_short_reads_take_up_to_thirty_per_cent_longer(read_length: int, times: str) -> None:
    assert stretch(Fraction(read_length)) == Fraction(times)
    plain = promise(SILVER, "wgs", 120 * 10**9)
    longer = promise(SILVER, "wgs", 120 * 10**9, read_length=Fraction(read_length))
    assert longer.minutes == plain.minutes * Fraction(times)
    assert longer.price == plain.price


@given(shorter=st.fractions(0, 500), longer=st.fractions(0, 500))
def test_shorter_reads_never_take_less_time(shorter: Fraction, longer: Fraction) -> None:
    shorter, longer = sorted((shorter, longer))
    assert Fraction("1.3") >= stretch(shorter) >= stretch(longer) >= 1


@pytest.mark.parametrize("level", ServiceLevel)
def test_levels_are_read_by_letter_and_by_name(level: ServiceLevel) -> None:
    for text in (level.value, level.value.upper(), level.name, level.name.lower()):
        assert ServiceLevel(text) is level


def test_the_normal_level_is_served_last_and_has_no_promise() -> None:
    assert max(ServiceLevel, key=lambda level: level.rank) is ServiceLevel.NORMAL
    assert not ServiceLevel.NORMAL.has_promise
    with pytest.raises(ValueError, match="'z' is not a valid"):
        ServiceLevel("z")
