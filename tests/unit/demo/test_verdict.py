"""The demo finds what is wrong."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wesemu.client import JobDetail, Log, RunDetail
from wesemu.demo.orders import ORDERS, Done, of
from wesemu.demo.verdict import examine
from wesemu.runs.model import RunState

TRUTH: Any = SimpleNamespace(summary=SimpleNamespace(reads=200, bases=30_000, duplicate_reads=20))
LOG = Log("mapping", 0, None, None, None, None)


def job(status: str) -> JobDetail:
    return JobDetail(
        name="mapping-gpu-66xv7",
        namespace="",
        status=status,
        created="",
        duration="1s",
        finished="",
        total_reads=200,
        total_bases=30_000,
        input_size=0,
        output_size=0,
        request={},
        pace=None,
        sla_bases="30000",
        sla_minutes="60",
        sla_price_cny="0.000015",
        sla_predicted_finish=None,
        sla_met="true",
        sla_charged_cny="0.000015",
        real_seconds="1.000",
        error=None,
        raw={},
    )


def done(state: RunState = RunState.COMPLETE, status: str = "Succeeded") -> list[Done]:
    tags = {"wesemu.total_reads": "200", "wesemu.total_bases": "30000"}
    run = RunDetail("id", state, "66xv7", tags, LOG, (), {}, "no reads", {})
    return [Done(order, job(status), run) for order in ORDERS]


def test_runs_that_failed_are_wrong_and_nothing_else_is_looked_at(tmp_path: Path) -> None:
    checks = list(examine(tmp_path, TRUTH, done(RunState.EXECUTOR_ERROR, "Failed")))
    assert [check.ok for check in checks] == [False] * 4
    assert all("no reads" in check.told for check in checks)


def test_apis_that_disagree_about_the_end_are_wrong(tmp_path: Path) -> None:
    checks = list(examine(tmp_path, TRUTH, done(status="Running")))
    assert not any(check.ok for check in checks)


@pytest.mark.parametrize(("reads", "right"), [(200, True), (199, False)])
def test_counts_have_to_be_exact(tmp_path: Path, reads: int, right: bool) -> None:
    truth: Any = SimpleNamespace(summary=SimpleNamespace(reads=reads, bases=30_000))
    found = {check.name: check for check in _first(6, examine(tmp_path, truth, done()))}
    assert found["mapping counts"].ok is right


@pytest.mark.parametrize(("bases", "right"), [(30_000, True), (40_000, False)])
def test_the_price_follows_from_the_true_bases(tmp_path: Path, bases: int, right: bool) -> None:
    truth: Any = SimpleNamespace(summary=SimpleNamespace(reads=200, bases=bases))
    found = {check.name: check for check in _first(6, examine(tmp_path, truth, done()))}
    assert found["mapping SLA"].ok is right


def test_orders_are_found_by_api_and_workflow() -> None:
    assert of(done(), "wes", "wgs").order.name == "WES wgs"


def _first(count: int, checks: Any) -> list[Any]:
    """Without those that need files."""
    return [next(checks) for _ in range(count)]
