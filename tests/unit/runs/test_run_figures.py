"""The figures of a run, and when they are known."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from wesemu.runs.model import (
    LOCAL_OWNER,
    Pacing,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunId,
    RunRequest,
    RunState,
    SlaTerms,
)
from wesemu.runs.run_figures import FIGURE_TAGS, RunFigures, figures, labels
from wesemu.runs.sla import ServiceLevel

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
    assert figures(QUEUED).tags == {"wesemu.handle": "bcdfg", "wesemu.sla.level": "s"}


def test_a_workflow_of_the_user_has_a_name() -> None:
    own = replace(QUEUED, workflow="", request=RunRequest("workflow/Snakefile"))
    assert figures(own).workflow == "Snakefile"
    url = "https://example.org/a/hello.cwl?raw=1#main"
    assert figures(replace(own, request=RunRequest(url))).workflow == "hello.cwl"
    named = RunRequest("Snakefile", tags={"wesemu.workflow": "calling"})
    assert labels(replace(own, request=named))["wesemu.workflow"] == "calling"


def test_the_billing_pages_example() -> None:
    """120 Gbp at silver: 80 minutes."""
    told = figures(COUNTED).tags
    assert told["wesemu.total_reads"] == "800000000"
    assert told["wesemu.total_bases"] == "120000000000"
    assert told["wesemu.sla.minutes"] == "80"
    assert told["wesemu.sla.price_cny"] == "120"
    assert told["wesemu.sla.deadline"] == "2020-01-01T01:20:00Z"
    assert "wesemu.sla.met" not in told


@pytest.mark.parametrize(("minutes", "met", "charged"), [(80, "true", "120"), (81, "false", "0")])
def test_a_missed_promise_is_free(minutes: int, met: str, charged: str) -> None:
    told = figures(ended(minutes)).tags
    assert (told["wesemu.sla.met"], told["wesemu.sla.charged_cny"]) == (met, charged)


def test_a_failed_run_meets_and_misses_nothing() -> None:
    told = figures(replace(ended(10, RunState.EXECUTOR_ERROR), failure=RunFailure("bad read"))).tags
    assert "wesemu.sla.met" not in told
    assert told["wesemu.error"] == "bad read"


def test_a_users_own_workflow_has_no_price() -> None:
    assert "wesemu.sla.price_cny" not in figures(replace(COUNTED, workflow="")).tags


def test_fractions_are_plain_decimals() -> None:
    told = figures(replace(COUNTED, counts=ReadCounts(1, 90_000_000_001))).tags
    assert told["wesemu.sla.minutes"] == "60"
    told = figures(replace(COUNTED, counts=ReadCounts(1, 91_000_000_000))).tags
    assert told["wesemu.sla.minutes"] == "60.666667"
    told = figures(replace(COUNTED, counts=ReadCounts(1, 1))).tags
    assert told["wesemu.sla.price_cny"] == "0.000000001"


def test_no_tag_of_the_caller_passes_for_a_figure() -> None:
    told = labels(replace(QUEUED, tags={"wesemu.sla.met": "true", "a": "b"}))
    assert told == {"a": "b", "wesemu.handle": "bcdfg", "wesemu.sla.level": "s"}


def test_every_figure_has_a_reserved_name() -> None:
    over = replace(
        ended(1), failure=RunFailure("x"), terms=SlaTerms(pace=Pacing.SLA), real_seconds=1.5
    )
    own = replace(QUEUED, workflow="")
    tags = set(figures(over).tags) | set(figures(COUNTED).tags) | set(figures(own).tags)
    assert tags == FIGURE_TAGS


def test_counted_and_pretended_sizes_are_distinguished() -> None:
    told = figures(
        replace(COUNTED, counts=ReadCounts(4, 600), terms=SlaTerms(bases=120 * 10**9))
    ).tags
    assert (told["wesemu.total_bases"], told["wesemu.sla.bases"]) == ("600", "120000000000")
    assert (told["wesemu.sla.minutes"], told["wesemu.sla.price_cny"]) == ("80", "120")
    told = figures(
        replace(COUNTED, counts=ReadCounts(4, 600), terms=SlaTerms(factor=Decimal("2e8")))
    ).tags
    assert (told["wesemu.total_bases"], told["wesemu.sla.bases"]) == ("600", "120000000000")


def test_a_pretended_size_promises_before_anything_is_counted() -> None:
    told = figures(replace(QUEUED, terms=SlaTerms(bases=120 * 10**9))).tags
    assert told["wesemu.sla.minutes"] == "80"
    assert "wesemu.total_bases" not in told


def test_short_reads_get_more_time_only_where_the_settings_say_so() -> None:
    short = replace(COUNTED, counts=ReadCounts(10, 1000))
    assert figures(short).tags["wesemu.sla.minutes"] == "60"
    longer = replace(short, terms=SlaTerms(read_length_penalty=True))
    assert figures(longer).tags["wesemu.sla.minutes"] == "69"
    assert (
        figures(longer).tags["wesemu.sla.price_cny"] == figures(short).tags["wesemu.sla.price_cny"]
    )


def test_a_run_under_way_predicts_its_end_from_the_size_of_its_files() -> None:
    small = replace(QUEUED, started=START, input_bytes=2000)
    assert figures(small).tags["wesemu.sla.predicted_finish"] == "2020-01-01T01:00:00Z"
    assert figures(small).tags["wesemu.sla.predicted_bases"] == "3000"
    large = replace(small, input_bytes=80 * 10**9)
    assert figures(large).tags["wesemu.sla.predicted_finish"] == "2020-01-01T01:20:00Z"
    told = replace(large, terms=SlaTerms(bases=150 * 10**9))
    assert figures(told).tags["wesemu.sla.predicted_finish"] == "2020-01-01T01:40:00Z"
    assert not any("predicted" in name for name in figures(ended(1)).tags)
    assert not any("predicted" in name for name in figures(QUEUED).tags)


def test_real_seconds_are_a_figure_of_their_own() -> None:
    assert figures(replace(ended(80), real_seconds=7.25)).tags["wesemu.real.seconds"] == "7.250"


def test_a_run_that_keeps_its_service_level_s_pace_says_so() -> None:
    assert figures(replace(QUEUED, terms=SlaTerms(pace=Pacing.SLA))).tags["wesemu.pace"] == "sla"
    assert "wesemu.pace" not in figures(QUEUED).tags


def test_figures_survive_their_tags() -> None:
    over = replace(ended(80), terms=SlaTerms(pace=Pacing.SLA), real_seconds=1.5)
    failed = replace(ended(1, RunState.EXECUTOR_ERROR), failure=RunFailure("x"))
    for run in (QUEUED, COUNTED, over, failed):
        assert RunFigures.from_tags(labels(run)) == figures(run)
