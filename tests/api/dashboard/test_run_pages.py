"""The pages of one run: timeline, graph, logs, overview and results; two runs compared."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api.dashboard.conftest import Client, Read, Submit
from unit.runs.test_store import a_run as stored_run

from wesemu.dashboard import plots, run_page
from wesemu.dashboard.charts import graph, timeline
from wesemu.dashboard.run_page import overview
from wesemu.dashboard.tasks import about, describe, exit_words, seconds_left
from wesemu.runs.model import (
    ReadCounts,
    Run,
    RunFailure,
    RunState,
    TaskDetails,
    TaskLog,
    TaskState,
)
from wesemu.runs.run_directory import Workspace

START = datetime(2026, 1, 15, 8, 0, tzinfo=UTC)


def a_run(**changes: Any) -> Run:
    return replace(stored_run("one"), **changes)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def a_task(
    number: int,
    name: str,
    started: float | None = None,
    ended: float | None = None,
    *,
    state: TaskState = TaskState.COMPLETE,
    ready: float | None = None,
    after: tuple[str, ...] = (),
    **more: Any,
) -> TaskLog:
    details = TaskDetails(ready=None if ready is None else at(ready), after=after)
    return TaskLog(
        str(number),
        name,
        state,
        started=None if started is None else at(started),
        ended=None if ended is None else at(ended),
        details=replace(details, **more.pop("details", {})),
        **more,
    )


# Timeline


def bars_of(*tasks: TaskLog, **query: str) -> list[dict[str, Any]]:
    bars: Any = timeline(a_run(), tasks, query, at(100)).content["bars"]
    return list(bars)


def test_a_bar_shows_when_a_task_waited_for_inputs_and_for_its_lease_and_when_it_ran() -> None:
    first = a_task(1, "map", 2, 6, ready=0, cpu_seconds=4.0, details={"cores": 2})
    second = a_task(2, "call", 8, 10, ready=6)
    [mapped, called] = bars_of(first, second)
    assert [(part["kind"], part["begin"], part["length"]) for part in mapped["parts"]] == [
        ("lease", 0, 20),
        ("run", 20, 40),
    ]
    assert [(part["kind"], part["begin"], part["length"]) for part in called["parts"]] == [
        ("input", 0, 60),
        ("lease", 60, 20),
        ("run", 80, 20),
    ]
    assert (mapped["input_seconds"], mapped["lease_seconds"], mapped["seconds"]) == (0, 2, 4)
    assert (mapped["efficiency"], called["efficiency"]) == (0.5, None)


def test_a_second_attempt_waits_from_the_end_of_the_first() -> None:
    failed = a_task(1, "map", 1, 5, ready=0, state=TaskState.EXECUTOR_ERROR, exit_code=137)
    again = a_task(1, "map", 9, 10, ready=7, attempt=2)
    bars = bars_of(failed, again)
    assert [(bar["state"], bar["input_seconds"]) for bar in bars] == [
        ("EXECUTOR_ERROR", 0),
        ("COMPLETE", 2),
    ]


def test_a_running_task_ends_now_and_one_from_the_future_has_no_length() -> None:
    running = a_task(1, "map", 90, state=TaskState.RUNNING)
    ahead = a_task(2, "map", 120, state=TaskState.RUNNING)
    assert [bar["seconds"] for bar in bars_of(running, ahead)] == [10, 0]


def test_many_tasks_are_grouped_by_rule_and_those_of_one_rule_have_pages() -> None:
    tasks = [a_task(number, "map", number, number + 1) for number in range(250)]
    tasks.append(a_task(999, "call", 300, 301, state=TaskState.EXECUTOR_ERROR, exit_code=1))
    page = timeline(a_run(), tasks, {}, at(400)).content
    bars: Any = page["bars"]
    assert page["grouped"]
    assert [(bar["label"], bar["state"]) for bar in bars] == [
        ("map (250)", "COMPLETE"),
        ("call (1)", "EXECUTOR_ERROR"),
    ]
    one = timeline(a_run(), tasks, {"rule": "map"}, at(400)).content
    assert isinstance(shown := one["bars"], list)
    assert (len(shown), one["attempts"]) == (200, 250)
    assert str(one["next"]).endswith("/timeline?rule=map&page=2")
    assert len(bars_of(*tasks, rule="map", page="2")) == 50


async def test_wrong_filters_of_the_timeline_are_refused(read: Read, submit: Submit) -> None:
    run = await submit([{"task": "one"}])
    assert "one" in await read(f"/ui/runs/{run.id}/timeline", rule="one")
    await read(f"/ui/runs/{run.id}/timeline", 404, rule="nothing")
    for page in ("0", "-1", "x"):
        await read(f"/ui/runs/{run.id}/timeline", 400, page=page)


# Graph


def test_the_graph_has_the_rules_below_what_they_need() -> None:
    tasks = [
        a_task(1, "map", 0, 1),
        a_task(2, "map", 0, state=TaskState.RUNNING),
        a_task(3, "stats", state=TaskState.QUEUED, after=("1", "2")),
        a_task(4, "call", state=TaskState.QUEUED, after=("1",)),
        a_task(5, "report", state=TaskState.QUEUED, after=("1", "3", "4")),
    ]
    page: Any = graph(a_run(), tasks).content
    rules = {rule["name"]: rule for rule in page["rules"]}
    assert {name: (rule["done"], rule["total"], rule["state"]) for name, rule in rules.items()} == {
        "map": (1, 2, "running"),
        "stats": (0, 1, "waiting"),
        "call": (0, 1, "waiting"),
        "report": (0, 1, "waiting"),
    }
    assert rules["report"]["needs"] == ["call", "map", "stats"]
    heights = {node["name"]: node["y"] for node in page["nodes"]}
    assert heights["map"] < heights["stats"] == heights["call"] < heights["report"]
    assert len(page["edges"]) == 4  # that from map to report is drawn through the others
    assert rules["stats"]["waits_for"] == "outputs of map"
    assert rules["call"]["waits_for"] == "cores, memory or GPUs"


def test_an_attempt_after_a_restart_keeps_what_its_rule_needs() -> None:
    tasks = [
        a_task(1, "map", 0, 1),
        a_task(2, "call", 1, 2, state=TaskState.CANCELED, after=("1",)),
        a_task(2, "call", 5, state=TaskState.RUNNING, attempt=2),
    ]
    page: Any = graph(a_run(), tasks).content
    assert {rule["name"]: rule["needs"] for rule in page["rules"]} == {"map": [], "call": ["map"]}


def test_a_graph_may_have_circles_long_chains_and_unknown_tasks() -> None:
    circle = [a_task(1, "a", 0, 1, after=("2",)), a_task(2, "b", 0, 1, after=("1", "77"))]
    page: Any = graph(a_run(), circle).content
    assert {node["name"] for node in page["nodes"]} == {"a", "b"}
    chain = [a_task(n, f"rule{n}", 0, 1, after=(str(n - 1),)) for n in range(140)]
    drawn: Any = graph(a_run(), chain).content
    assert len({node["y"] for node in drawn["nodes"]}) == 140
    many = [a_task(n, f"rule{n}", 0, 1, after=(str(n - 1),)) for n in range(3000)]
    table: Any = graph(a_run(), many).content
    assert (table["width"], len(table["rules"])) == (0, 3000)
    assert graph(a_run(), []).content["width"] == 0


# Tasks and logs


def test_all_details_of_an_attempt_are_shown() -> None:
    details = {
        "cores": 4,
        "memory_mb": 2000,
        "devices": (1, 2),
        "read_bytes": 10,
        "written_bytes": 20,
        "inputs": ("a",),
        "outputs": ("b",),
    }
    task = a_task(
        1, "map", 3, 5, ready=1, after=("7",), threads=4, cpu_seconds=2.0, details=details
    )
    shown = describe(replace(task, peak_memory=7, exit_code=0))
    assert {name: shown[name] for name in ("cores", "memory_mb", "devices", "lease_seconds")} == {
        "cores": 4,
        "memory_mb": 2000,
        "devices": [1, 2],
        "lease_seconds": 2,
    }
    assert (shown["read_bytes"], shown["written_bytes"], shown["peak_memory"]) == (10, 20, 7)
    assert (shown["inputs"], shown["outputs"], shown["after"]) == (["a"], ["b"], ["7"])
    assert shown["ready"] == "2026-01-15T08:00:01+00:00"
    assert (shown["efficiency"], shown["exit_words"]) == (0.25, "success")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, None),
        (3, "the command reports an error"),
        (137, "killed (SIGKILL), often because memory ran out"),
        (134, "ended by the signal SIGABRT"),
        (255, "the command reports an error"),
    ],
)
def test_exit_codes_are_explained_in_words(code: int | None, words: str | None) -> None:
    assert exit_words(code) == words


async def test_a_log_names_its_first_error(read: Read, submit: Submit) -> None:
    run = await submit(
        [{"task": "align", "stderr": "fine\n" * 20_000 + "Error: one\nError: two\n"}]
    )
    page = json.loads(await read(f"/ui/runs/{run.id}/logs.json", task="1-1"))
    assert page["logs"][0]["first_error"] == {"line": 20_001, "text": "Error: one"}
    assert page["attempts"] == []
    assert "First error, line 20001" in await read(f"/ui/runs/{run.id}/logs", task="1-1")


@pytest.mark.parametrize(
    ("line", "is_error"),
    [
        ("fatal: reference has no index", True),
        ("bwa: error: no index", True),
        ("[2026-01-15 08:00:00] ERROR cannot open", True),
        ("2026-01-15T08:00:00Z error: no space", True),
        ("[E::hts_open_format] Failed to open file", True),
        ("ValueError: invalid literal", True),
        ("Error in rule map:", True),
        ("Shell command: echo 'fatal: no' >&2; exit 3", False),
        ("    if [ 1 ]; then echo error; fi", False),
        ("error rate: 0.003", False),
        ("0 errors", False),
    ],
)
async def test_commands_and_figures_are_no_errors(
    read: Read, submit: Submit, line: str, is_error: bool
) -> None:
    run = await submit([{"task": "align", "stderr": f"{line}\n"}])
    page = json.loads(await read(f"/ui/runs/{run.id}/logs.json", task="1-1"))
    assert page["logs"][0]["first_error"] == ({"line": 1, "text": line} if is_error else None)
    assert page["logs"][0]["lines"] == [{"text": line, "error": is_error}]


# The sentence on top


def sentence(run: Any, *tasks: TaskLog, left: float | None = None) -> str:
    return str(overview(run, tasks, at(100), left).content["sentence"])


def test_the_sentence_tells_what_runs_and_how_long_it_will_take() -> None:
    run = a_run(state=RunState.RUNNING)
    tasks = [
        a_task(1, "map", 0, 60),
        a_task(2, "call", 60, state=TaskState.RUNNING),
        a_task(3, "sum", state=TaskState.QUEUED),
    ]
    assert sentence(run, *tasks, left=240) == "call: 1 of 3 tasks done, about 4 min left."
    assert sentence(run, *tasks) == "call: 1 of 3 tasks done."
    assert sentence(run) == "Starting."
    many = [a_task(n, f"r{n}", 0, state=TaskState.RUNNING) for n in range(5)]
    assert sentence(run, *many) == "r0, r1, r2 and 2 more rules: 0 of 5 tasks done."


def test_the_sentence_tells_file_record_reason_and_what_to_do() -> None:
    failure = RunFailure("a quality is missing", "correct the file", "oss://a/r_1.fq.gz", 41)
    run = a_run(state=RunState.EXECUTOR_ERROR, failure=failure)
    expected = "Failed: oss://a/r_1.fq.gz, record 41: a quality is missing. Correct the file."
    assert sentence(run) == expected
    known = replace(failure, message="oss://a/r_1.fq.gz, record 41: a quality is missing")
    assert sentence(replace(run, failure=known)) == expected


def test_a_failure_without_a_log_of_its_own_leads_to_the_log_of_its_task() -> None:
    failure = RunFailure("the file is cut", file="oss://a/r_1.fq.gz", task="map", exit_code=65)
    run = a_run(state=RunState.EXECUTOR_ERROR, failure=failure)
    tasks = [
        a_task(1, "map", 0, 1, state=TaskState.EXECUTOR_ERROR, exit_code=65),
        a_task(2, "map", 0, 1),
        a_task(1, "map", 2, 3, state=TaskState.EXECUTOR_ERROR, exit_code=65, attempt=2),
    ]
    shown: Any = overview(run, tasks, at(9)).content["failure"]
    assert (shown["log"], shown["exit_words"]) == ("1-2", "the command reports an error")


def test_the_time_left_goes_by_an_earlier_run_or_by_the_own_tasks() -> None:
    earlier = [a_task(1, "map", 0, 60), a_task(2, "call", 60, 180)]
    now = [a_task(1, "map", 0, 90), a_task(2, "call", 90, state=TaskState.RUNNING)]
    assert seconds_left(now, earlier, 1.0, at(100)) == 110
    assert seconds_left(now, earlier, 2.0, at(100)) == 230
    assert seconds_left(now, earlier, 1.0, at(300)) is None  # slower than the earlier run
    assert seconds_left(now, [], 1.0, at(100)) is None  # no task of call has ended
    assert seconds_left([a_task(1, "map")], [], 1.0, at(5)) == 0  # nothing is left
    equal = [
        *(a_task(n, "map", 10 * n, 10 * n + 10) for n in range(3)),
        a_task(3, "map", 30, state=TaskState.RUNNING),
        a_task(4, "map", state=TaskState.QUEUED),
    ]
    assert seconds_left(equal, [], 1.0, at(35)) == 15
    assert [about(seconds) for seconds in (5, 240, 5400)] == [
        "less than a minute left",
        "about 4 min left",
        "about 1.5 h left",
    ]


# Results


def test_reports_of_bcftools_and_idxstats_become_plots() -> None:
    report = (
        "TSTV\t0\t40\t20\t2.00\t40\t20\t2.00\nST\t0\tA>C\t5\nST\t0\tA>G\t10\n"
        "IDD\t0\t-2\t4\t4\t1\nIDD\t0\t1\t2\t2\t1\nDP\t0\t9\t1\t1\t3\t3\nDP\t0\t10\t1\t1\t6\t3\n"
        "VAF\t0\ts\t0,4,1\t0,0,0\nST\t0\tcut"
    )
    drawn: list[Any] = plots.of_variants(report)
    titles = [plot["title"] for plot in drawn]
    assert titles == [
        "Substitutions, Ti/Tv 2.00",
        "Lengths of indels (deletions negative)",
        "Allele balance of SNPs",
        "Depth of calls",
    ]
    assert [(bar["label"], bar["height"]) for bar in drawn[0]["bars"]] == [
        ("A>C", 100),
        ("A>G", 200),
    ]
    assert [tick["text"] for tick in drawn[1]["ticks"]] == ["-2", "2"]
    assert [(bar["label"], bar["value"]) for bar in drawn[2]["bars"]] == [
        ("0", 0),
        ("50", 4),
        ("100", 1),
    ]
    [contigs] = plots.of_idxstats("chr1\t1000\t50\t0\nchr2\t500\t50\t0\n*\t0\t0\t7\ncut\t1")
    assert isinstance(contigs, dict)
    assert isinstance(bars := contigs["bars"], list)
    assert [bar["value"] for bar in bars if isinstance(bar, dict)] == [50, 100]
    assert plots.of_stats("") == plots.of_idxstats("") == plots.of_variants("") == []


def test_reports_that_are_being_written_are_no_fault(tmp_path: Path) -> None:
    results = tmp_path / "work" / "results"
    results.mkdir(parents=True)
    run = a_run()
    for written in ("", '{"reads": {"total": ', "[1]"):
        (results / "summary.json").write_text(written)
        (results / "stats.txt").write_text("SN\treads mapped:\t5\nIS\t1\t")
        content = run_page.results(run, Workspace(tmp_path)).content
        assert (content["summary"], content["plots"]) == ({}, [])
    (results / "summary.json").write_text('{"reads": {"total": 4}}')
    assert run_page.results(run, Workspace(tmp_path)).content["summary"] == {"reads total": 4}


async def test_a_report_is_shown_in_a_frame_without_rights(
    client: Client, read: Read, submit: Submit
) -> None:
    script = "<!doctype html><head lang=en><script>fetch('/ui/runs')</script>"
    run = await submit(
        [{"write": "report.html", "text": script}, {"write": "a.txt", "text": script}]
    )
    page = json.loads(await read(f"/ui/runs/{run.id}/results.json"))
    [report] = page["reports"]
    assert 'sandbox="allow-scripts"' in await read(f"/ui/runs/{run.id}/results")
    async with client.get(report["url"]) as response:
        assert response.content_type == "text/html"
        policy = response.headers["Content-Security-Policy"]
        before, _, after = script.partition("<script>")
        text = await response.text()
        assert text.startswith(f"{before}<script>")
        assert text.endswith(f"<script>{after}")
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    await read(f"/ui/runs/{run.id}/reports/a.txt", 404)
    await read(f"/ui/runs/{run.id}/reports/..%2F..%2Frequest.json", 404)


# Comparing two runs


async def test_two_runs_are_compared(read: Read, submit: Submit) -> None:
    first = await submit([{"task": "one"}, {"write": "results/a.txt", "text": "1"}])
    second = await submit([{"task": "two"}, {"write": "results/a.txt", "text": "2"}])
    page = json.loads(await read("/ui/compare.json", a=first.handle, b=second.id))
    assert [run["id"] for run in page["runs"]] == [first.id, second.id]
    [output] = page["outputs"]
    assert (output["name"], output["same"]) == ("results/a.txt", False)
    request = next(table for table in page["tables"] if table["title"] == "Request")
    assert {row["name"]: row["same"] for row in request["rows"]} == {
        "workflow": True,
        "script": False,
    }
    assert page["calls"] is None
    assert "differs" in await read("/ui/compare", a=first.handle, b=second.id)
    differing = await read("/ui/compare.json", a=first.id, b=second.id, show="differing")
    [table] = json.loads(differing)["tables"]
    assert [row["name"] for row in table["rows"]] == ["script"]
    same = json.loads(await read("/ui/compare.json", a=first.handle, b=first.handle))
    assert same["outputs"][0]["same"] is True


async def test_the_comparison_says_what_to_choose_and_what_is_unknown(
    read: Read, submit: Submit
) -> None:
    run = await submit()
    assert "Choose two runs" in await read("/ui/compare")
    assert run.id in await read("/ui/compare", a=run.id)
    assert "You have no run" in await read("/ui/compare", a=run.id, b="<b>")


def test_a_service_level_shows_counted_and_pretended_bases() -> None:
    run = a_run(state=RunState.RUNNING, started=at(0), counts=ReadCounts(10, 1500))
    run = replace(run, terms=replace(run.terms, bases=120 * 10**9))
    sla: Any = overview(run, [], at(60)).content["sla"]
    assert (sla["counted"], sla["pretends"], sla["elapsed"]) == (1500, True, 60)
