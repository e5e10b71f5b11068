"""The end of runs by their service level, on the emulated clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.errors import InvalidRequest
from wesemu.runs.clock import ClockRate
from wesemu.runs.model import (
    LOCAL_OWNER,
    MOST_BASES,
    InjectedFault,
    Pacing,
    ReadCounts,
    Resources,
    Run,
    RunId,
    RunRequest,
    RunState,
    SlaTerms,
    pretended_bases,
)
from wesemu.runs.run_figures import due, elapsed, predict, sla_bases
from wesemu.runs.service import ServicePolicy
from wesemu.runs.sla import TIERS, ServiceLevel

START = datetime(2020, 1, 1, tzinfo=UTC)
RUNNING = Run(
    id=RunId("1"),
    sequence=1,
    handle="bcdfg",
    owner=LOCAL_OWNER,
    state=RunState.RUNNING,
    workflow="wgs",
    service_level=ServiceLevel.SILVER,
    request=RunRequest("wgs"),
    resources=Resources(),
    created=START,
    started=START,
    terms=SlaTerms(pace=Pacing.SLA),
)
LEVELS = sorted(TIERS, key=lambda level: level.rank)
sizes = st.integers(min_value=1, max_value=MOST_BASES)


def sized(bases: int, level: ServiceLevel = ServiceLevel.SILVER, pace: Pacing = Pacing.SLA) -> Run:
    return replace(RUNNING, service_level=level, terms=SlaTerms(pace=pace, bases=bases))


def end(run: Run) -> datetime:
    moment = due(run)
    assert moment is not None
    return moment


@given(fewer=sizes, more=sizes, speed=st.floats(0.01, 86_400), level=st.sampled_from(LEVELS))
def test_more_bases_never_finish_earlier_by_any_clock(
    fewer: int, more: int, speed: float, level: ServiceLevel
) -> None:
    fewer, more = sorted((fewer, more))
    first, second = end(sized(fewer, level)), end(sized(more, level))
    assert first <= second
    course = ClockRate(START, START, speed)
    real = [course.reaches(moment) for moment in (first, second)]
    assert real[0] is not None
    assert real[1] is not None
    assert START < real[0] <= real[1]


@given(bases=sizes)
def test_a_better_tier_never_finishes_later(bases: int) -> None:
    platinum, gold, silver = (end(sized(bases, level)) for level in LEVELS)
    assert platinum <= gold <= silver


@given(bases=sizes, minutes=st.integers(1, 10**6))
def test_a_fault_makes_it_exactly_so_late(bases: int, minutes: int) -> None:
    run = sized(bases)
    late = replace(run, terms=replace(run.terms, fault=InjectedFault(late_minutes=minutes)))
    assert end(late) - end(run) == timedelta(minutes=minutes)
    real = replace(late, terms=replace(late.terms, pace=Pacing.REAL))
    assert end(real) == end(late)


def test_a_run_in_real_pace_ends_with_its_tools() -> None:
    assert due(sized(10**9, pace=Pacing.REAL)) is None


def test_what_has_no_size_or_no_start_has_no_end_yet() -> None:
    assert due(RUNNING) is None
    assert due(replace(sized(1), started=None)) is None
    assert due(replace(sized(1), workflow="")) is None


def test_a_factor_makes_every_base_count_for_many() -> None:
    counted = replace(RUNNING, counts=ReadCounts(4, 600), terms=SlaTerms(factor=Decimal("2e8")))
    assert sla_bases(counted) == 120 * 10**9
    assert sla_bases(replace(counted, terms=SlaTerms(factor=Decimal("0.5")))) == 300
    assert sla_bases(replace(counted, terms=SlaTerms(factor=Decimal(10**30)))) == MOST_BASES
    assert sla_bases(replace(counted, terms=SlaTerms(factor=Decimal(3), bases=7))) == 7


def test_a_running_job_has_taken_no_longer_than_it_may() -> None:
    run = sized(120 * 10**9)
    assert elapsed(run, START + timedelta(minutes=10)) == timedelta(minutes=10)
    assert elapsed(run, START + timedelta(minutes=90)) == timedelta(minutes=80)
    real = sized(120 * 10**9, pace=Pacing.REAL)
    assert elapsed(real, START + timedelta(minutes=90)) == timedelta(minutes=90)
    assert elapsed(replace(run, started=None), START) == timedelta()


def test_a_prediction_is_there_while_a_run_is_under_way() -> None:
    predicted = predict(replace(RUNNING, input_bytes=80 * 10**9))
    assert predicted is not None
    assert (predicted.bases, predicted.finish) == (120 * 10**9, START + timedelta(minutes=80))
    assert predict(replace(RUNNING, ended=START)) is None
    assert predict(replace(RUNNING, started=None)) is None


@pytest.mark.parametrize(
    ("text", "bases"),
    [("120e9", 120 * 10**9), ("1", 1), ("1.2e11", 120 * 10**9), ("1E15", 10**15), ("7.0", 7)],
)
def test_a_size_is_written_as_a_number(text: str, bases: int) -> None:
    assert pretended_bases({"wesemu_bases": text}) == bases


@pytest.mark.parametrize("text", ["", "0", "0.5", "1.5", "-1", "1e16", "9e99", "NaN", "1_0", "²"])
def test_a_size_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pretended_bases({"wesemu_bases": text})
    assert caught.value.field == "wesemu_bases"


def test_a_fault_strikes_one_run_and_no_rehearsal() -> None:
    policy, asked = ServicePolicy(SlaTerms()), RunRequest("wgs")
    policy.inject(InjectedFault(late_minutes=3), 1)
    assert policy.check(asked, "wgs").fault == InjectedFault()
    assert policy.accept(asked, "wgs", RunId("1")).fault == InjectedFault(late_minutes=3)
    assert policy.accept(asked, "wgs", RunId("1")).fault == InjectedFault()


def test_a_users_own_workflow_cannot_pretend() -> None:
    with pytest.raises(InvalidRequest, match="mapping and wgs"):
        ServicePolicy(SlaTerms()).check(RunRequest("Snakefile", tags={"wesemu_bases": "1e9"}), "")


@given(
    counted=sizes,
    level=st.sampled_from(LEVELS),
    late=st.sampled_from([0, 7]),
    pace=st.sampled_from(Pacing),
    moments=st.lists(st.floats(0, 10**6), min_size=2, max_size=5),
    learned=st.integers(0, 5),
)
def test_a_duration_never_shrinks(
    counted: int, level: ServiceLevel, late: int, pace: Pacing, moments: list[float], learned: int
) -> None:
    """However slow the tools are, and whenever the size becomes known."""
    run = replace(
        RUNNING,
        service_level=level,
        terms=SlaTerms(pace=pace, fault=InjectedFault(late_minutes=late)),
    )
    told = []
    for number, seconds in enumerate(sorted(moments)):
        now = START + timedelta(seconds=seconds)
        if number == learned:
            run = replace(run, counts=ReadCounts(1, counted))
        told.append(elapsed(run, now))
    run = replace(run, counts=run.counts or ReadCounts(1, counted))
    told.append(elapsed(replace(run, ended=due(run) or now), now))
    assert told == sorted(told)
