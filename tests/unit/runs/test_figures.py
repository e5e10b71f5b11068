"""What is told of a run, and when."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from wesemu.runs.figures import NAMES, figures, labels
from wesemu.runs.model import (
    LOCAL_OWNER,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunId,
    RunRequest,
    RunState,
)
from wesemu.sla import ServiceLevel

START = datetime(2020, 1, 1, tzinfo=UTC)
QUEUED = Run(
    id=RunId("1"),
    sequence=1,
    handle="bcdfg",
    owner=LOCAL_OWNER,
    state=RunState.QUEUED,
    workflow="wgs",
    service_level=ServiceLevel.SILVER,
    request=RunRequest("wgs"),
    resources=Resources(),
    created=START,
)
COUNTED = replace(QUEUED, started=START, counts=ReadCounts(800_000_000, 120_000_000_000))


def ended(minutes: int, state: RunState = RunState.COMPLETE) -> Run:
    return replace(COUNTED, state=state, ended=START + timedelta(minutes=minutes))


def test_a_queued_run_has_a_name_and_a_level() -> None:
    assert figures(QUEUED) == {"wesemu.handle": "bcdfg", "wesemu.sla.level": "s"}


def test_the_billing_pages_example() -> None:
    """120 Gbp at silver: 80 minutes."""
    told = figures(COUNTED)
    assert told["wesemu.total_reads"] == "800000000"
    assert told["wesemu.total_bases"] == "120000000000"
    assert told["wesemu.sla.minutes"] == "80"
    assert told["wesemu.sla.price_cny"] == "120"
    assert told["wesemu.sla.deadline"] == "2020-01-01T01:20:00Z"
    assert "wesemu.sla.met" not in told


@pytest.mark.parametrize(("minutes", "met", "charged"), [(80, "true", "120"), (81, "false", "0")])
def test_a_missed_promise_is_free(minutes: int, met: str, charged: str) -> None:
    told = figures(ended(minutes))
    assert (told["wesemu.sla.met"], told["wesemu.sla.charged_cny"]) == (met, charged)


def test_a_failed_run_meets_and_misses_nothing() -> None:
    told = figures(replace(ended(10, RunState.EXECUTOR_ERROR), failure=RunFailure("bad read")))
    assert "wesemu.sla.met" not in told
    assert told["wesemu.error"] == "bad read"


def test_a_users_own_workflow_has_no_price() -> None:
    assert "wesemu.sla.price_cny" not in figures(replace(COUNTED, workflow=""))


def test_fractions_are_plain_decimals() -> None:
    told = figures(replace(COUNTED, counts=ReadCounts(1, 90_000_000_001)))
    assert told["wesemu.sla.minutes"] == "60"
    told = figures(replace(COUNTED, counts=ReadCounts(1, 91_000_000_000)))
    assert told["wesemu.sla.minutes"] == "60.666667"
    told = figures(replace(COUNTED, counts=ReadCounts(1, 1)))
    assert told["wesemu.sla.price_cny"] == "0.000000001"


def test_no_tag_of_the_caller_passes_for_a_figure() -> None:
    told = labels(replace(QUEUED, tags={"wesemu.sla.met": "true", "a": "b"}))
    assert told == {"a": "b", "wesemu.handle": "bcdfg", "wesemu.sla.level": "s"}


def test_every_figure_has_a_reserved_name() -> None:
    assert set(figures(replace(ended(1), failure=RunFailure("x")))) == NAMES
