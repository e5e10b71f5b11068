"""The checks of the demo find errors."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pysam
import pytest

from wesemu.client import JobDetail, Log, RunDetail
from wesemu.demo.checks import REQUESTS, FinishedRequest, _identical, find_request, run_checks
from wesemu.demo.run import CudaNode, SelfTest, SelfTestRun, check_node
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


def done(state: RunState = RunState.COMPLETE, status: str = "Succeeded") -> list[FinishedRequest]:
    tags = {"wesemu.total_reads": "200", "wesemu.total_bases": "30000"}
    run = RunDetail("id", state, "66xv7", tags, LOG, (), {}, "no reads", None, {})
    return [FinishedRequest(order, job(status), run) for order in REQUESTS]


def test_runs_that_failed_are_wrong_and_nothing_else_is_looked_at(tmp_path: Path) -> None:
    checks = list(run_checks(tmp_path, TRUTH, done(RunState.EXECUTOR_ERROR, "Failed")))
    assert [check.ok for check in checks] == [False] * 4
    assert all("no reads" in check.detail for check in checks)


def test_apis_that_disagree_about_the_end_are_wrong(tmp_path: Path) -> None:
    checks = list(run_checks(tmp_path, TRUTH, done(status="Running")))
    assert not any(check.ok for check in checks)


@pytest.mark.parametrize(("reads", "right"), [(200, True), (199, False)])
def test_counts_have_to_be_exact(tmp_path: Path, reads: int, right: bool) -> None:
    truth: Any = SimpleNamespace(summary=SimpleNamespace(reads=reads, bases=30_000))
    found = {check.name: check for check in _first(6, run_checks(tmp_path, truth, done()))}
    assert found["mapping counts"].ok is right


@pytest.mark.parametrize(("bases", "right"), [(30_000, True), (40_000, False)])
def test_the_price_follows_from_the_true_bases(tmp_path: Path, bases: int, right: bool) -> None:
    truth: Any = SimpleNamespace(summary=SimpleNamespace(reads=200, bases=bases))
    found = {check.name: check for check in _first(6, run_checks(tmp_path, truth, done()))}
    assert found["mapping SLA"].ok is right


def test_orders_are_found_by_api_and_workflow() -> None:
    assert find_request(done(), "wes", "wgs").request.name == "WES wgs"


def write_bam(path: Path, command: str, position: int = 7) -> None:
    """One read; `command` is what a tool would write of itself into the header."""
    header = {"SQ": [{"SN": "chr1", "LN": 100}], "PG": [{"ID": "pbrun", "CL": command}]}
    read = pysam.AlignedSegment()
    read.query_name, read.query_sequence, read.cigarstring = "r", "ACGT", "4M"
    read.reference_id, read.reference_start, read.mapping_quality = 0, position, 60
    path.parent.mkdir(exist_ok=True)
    with pysam.AlignmentFile(path, "wb", header=header) as file:
        file.write(read)
    pysam.index(str(path))


@pytest.mark.parametrize(("position", "same"), [(7, True), (8, False)])
def test_headers_may_differ_where_parabricks_writes_them_and_records_not(
    tmp_path: Path, position: int, same: bool
) -> None:
    write_bam(tmp_path / "ags" / "mapping.bam", "pbrun --tmp-dir /run/1")
    write_bam(tmp_path / "wes" / "mapping.bam", "pbrun --tmp-dir /elsewhere/2", position)
    assert not _identical(tmp_path, "mapping", "bam", exact=True).ok
    assert _identical(tmp_path, "mapping", "bam", exact=False).ok is same
    assert _identical(tmp_path, "mapping", "bam.bai", exact=False).ok


def cuda_runs(tasks: tuple[str, ...], tags: dict[str, str], told: str) -> list[FinishedRequest]:
    logs = tuple(Log(name, 0, None, None, None, None) for name in tasks)
    found = []
    for each in done():
        run = replace(each.run, tasks=logs, tags={**each.run.tags, **tags})
        found.append(FinishedRequest(each.request, replace(each.job, raw={"node": told}), run))
    return found


@pytest.mark.parametrize(
    ("tasks", "place", "told", "right"),
    [
        (("fq2bam",), "cuda", "cuda", True),
        (("map",), "cuda", "cuda", False),
        (("fq2bam",), "cpu", "cuda", False),
        (("fq2bam",), "cuda", "cpu", False),
    ],
)
def test_runs_have_to_be_placed_and_carried_out_on_the_gpu(
    tasks: tuple[str, ...], place: str, told: str, right: bool
) -> None:
    runs = cuda_runs(tasks, {"wesemu.node": place}, told)
    [check] = check_node(CudaNode({}), runs, None)
    assert check.ok is right


REPORT = {
    "equal": True,
    "simulated": False,
    "device": {"name": "NVIDIA H100"},
    "bases": 1,
    "seconds": {"kernel": 0.1, "to_device": 0.1, "to_host": 0.1, "cpu": 0.1},
}


@pytest.mark.parametrize(
    ("report", "right"), [(REPORT, True), (REPORT | {"equal": False}, False), (None, False)]
)
def test_the_self_test_has_to_count_rightly(report: Any, right: bool) -> None:
    tags = {"wesemu.node": "cuda", "wesemu.node.note": "there is no Parabricks"}
    runs = cuda_runs(("map",), tags, "cuda")
    node = CudaNode({}, SelfTest(Path("workflow"), reads=1))
    counted = SelfTestRun(runs[0].run, report)
    placed, tried = check_node(node, runs, counted)
    assert placed.ok
    assert placed.detail.endswith("for 4 of 4 runs; there is no Parabricks")
    assert tried.ok is right


def _first(count: int, checks: Any) -> list[Any]:
    """Without those that need files."""
    return [next(checks) for _ in range(count)]
