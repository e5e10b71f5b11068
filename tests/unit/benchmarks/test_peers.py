"""Servers are measured alternately; a reason takes the place of what a server cannot do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.peer_servers import (
    ServerKind,
    describe_versions,
    engine_script,
    multiply_run,
    serving_peer,
)
from benchmarks.peer_table import Format, Measurement, PeerTable, Result, Target
from benchmarks.processes import cpu_seconds_below, wake_ups
from benchmarks.report import Report

SECONDS = Format("s")


def _results(**values: list[float]) -> dict[str, Result]:
    return {
        name: Result([Measurement(value, value / 10) for value in found])
        for name, found in values.items()
    }


def test_servers_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []

    def once(name: str) -> Measurement:
        calls.append(name)
        return Measurement(len(calls))

    table = PeerTable(["ours", "other"])
    results = table.take_turns("x", {"ours": "A", "other": "B"}, once, 2, warm_up=1)
    assert calls == ["A", "B", "A", "B", "A", "B"]
    assert [sample.value for sample in results["other"].samples] == [4, 6]


def test_a_server_that_fails_has_a_reason_and_no_further_turn() -> None:
    calls: list[str] = []

    def once(name: str) -> Measurement:
        calls.append(name)
        if name == "B":
            raise RuntimeError("POST /runs: 501 no | such\ntype")
        return Measurement(2.0)

    table = PeerTable(["ours", "other", "absent"])
    table.reasons["absent"] = "pip: no such version"
    results = table.take_turns("x", {"ours": "A", "other": "B"}, once, 2)
    table.add("echo", results, SECONDS, target=Target(most=1.0, times=4.0))
    assert calls == ["A", "B", "A"]
    (row,) = table.rows
    assert (row.figure, row.met) == ("2.00 s", False)
    assert row.others == (
        "cannot: POST /runs: 501 no / such type",
        "cannot: pip: no such version",
        "",
    )


def test_the_advantage_is_that_over_the_best_other_server_round_by_round() -> None:
    table = PeerTable(["ours", "slow", "fast"])
    results = _results(ours=[1.0, 2.0, 1.0], slow=[9.0, 9.0, 9.0], fast=[3.0, 6.0, 3.0])
    table.add("wall", results, SECONDS, target=Target(most=1.5, times=3.0))
    table.add("cpu", results, Format("ms", scale=1000, digits=0), cpu=True)
    table.add("rate", results, Format("a second", digits=0, more_is_better=True))
    wall, cpu, rate = table.rows
    assert (wall.figure, wall.others[-1]) == ("1.00 s", "3.00x (fast)")
    assert (wall.target, wall.met) == ("≤ 1.50 s, ≥ 3.00x the best other", True)
    assert cpu.others == ("900 ms", "300 ms", "3.00x (fast)")
    assert rate.others[-1] == "0.11x (slow)"


def test_a_server_that_lost_runs_is_not_the_best() -> None:
    table = PeerTable(["ours", "lossy", "slow"])
    results = _results(ours=[2.0], slow=[10.0])
    results["lossy"] = Result([Measurement(1.0, note="3 of 8 lost")])
    table.add("burst", results, SECONDS)
    assert table.rows[0].others == ("1.00 s, 3 of 8 lost", "10.00 s", "5.00x (slow)")


@pytest.mark.parametrize(("other", "text"), [([5.0], "∞ (other)"), ([0.0], "1.00x (other)")])
def test_a_figure_of_zero_divides_nothing(other: list[float], text: str) -> None:
    table = PeerTable(["ours", "other"])
    table.add("wake-ups", _results(ours=[0.0], other=other), Format())
    assert table.rows[0].others[-1] == text


def test_the_table_has_a_column_for_each_server() -> None:
    table = PeerTable(["ours", "other"])
    table.add("wall", _results(ours=[1.0], other=[2.0]), SECONDS)
    report = Report("peers", table.rows, columns=("ours", "other", "better"), notes=["busy"])
    assert report.markdown().splitlines() == [
        "### peers",
        "",
        "| what | ours | other | better | target | |",
        "|---|---|---|---|---|---|",
        "| wall | 1.00 s | 2.00 s | 2.00x (other) |  |  |",
        "",
        "- busy",
    ]


def test_sapporo_runs_the_engine_itself_in_the_run_s_folder(tmp_path: Path) -> None:
    bundled = f"""#!/usr/bin/env bash
set -Eeuo pipefail
run() {{
    local container="image:1"
    docker run --rm -v "a:b" "-w={tmp_path}" --entrypoint printf "${{container}}" '%s,' one "$PWD"
    docker run "-w={tmp_path}" "${{container}}" pwd
}}
cd /
run
"""
    script = tmp_path / "run.sh"
    script.write_text(engine_script(bundled))
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"one,/,{tmp_path}\n"


def test_a_server_that_does_not_start_says_its_last_line(tmp_path: Path) -> None:
    def command(programs: Path, port: int, data: Path) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no broker')"]

    data = tmp_path / "data"
    data.mkdir()
    with (
        pytest.raises(RuntimeError, match="does not start: no broker"),
        serving_peer(ServerKind("other", command), tmp_path, data),
    ):
        pytest.fail("there is no server")


@pytest.mark.parametrize(
    ("run_id", "place"),
    [
        ("run-0af3", "workflows"),
        ("9b1c2d3e-aa00-4b1c-8d2e-0123456789ab", "runs/9b"),
    ],
)
def test_a_stored_run_is_copied_beside_itself(tmp_path: Path, run_id: str, place: str) -> None:
    run = tmp_path / place / run_id
    run.mkdir(parents=True)
    (run / "state").write_text("COMPLETE")
    multiply_run(tmp_path, run_id, 4)
    states = list(tmp_path.rglob("state"))
    assert len({state.parent.name for state in states}) == len(states) == 4
    for state in states:
        assert len(state.parent.name) == len(run_id)
        if place == "runs/9b":
            assert state.parent.parent.name == state.parent.name[:2]


def test_versions_are_those_of_the_server_s_environment(tmp_path: Path) -> None:
    kind = ServerKind("ours", lambda *_: (), packages=("wesemu",))
    assert ", wesemu " in describe_versions(kind, tmp_path)


def test_the_time_of_ended_children_counts() -> None:
    before = cpu_seconds_below(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(2_000_000))"], check=True)
    assert cpu_seconds_below(os.getpid()) > before


def test_each_sleep_is_a_wake_up() -> None:
    before = wake_ups([os.getpid()])
    for _ in range(3):
        time.sleep(0.02)  # a shorter one may be over before the process has gone to sleep
    assert wake_ups([os.getpid()]) >= before + 3
