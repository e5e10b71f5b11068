"""A pipe or service with a failing member: the run ends and releases its lease."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.live_server import LiveRun, LiveServer, live_server, live_server_fixture

from wesemu.engines.leases import live_tickets

RUNS, AT_A_TIME = 24, 8

FAILING_WRITER = """
    rule all:
        input: expand("test.{i}.out", i=range(2))
    rule writer:
        output: pipe("test.{i}.txt")
        shell: "for i in {{0..2}}; ddo echo {wildcards.i} >> {output}; done"
    rule reader:
        input: "test.{i}.txt"
        output: "test.{i}.out"
        shell: "grep {wildcards.i} < {input} > {output}"
"""

THREE_MEMBERS = """
    rule all:
        input: "out.txt"
    rule first:
        output: pipe("one")
        shell: "COMMAND"
    rule second:
        input: "one"
        output: pipe("two")
        shell: "cat < {input} > {output}"
    rule third:
        input: "two"
        output: "out.txt"
        shell: "cat < {input} > {output}"
"""

FAILING_SERVICE = """
    rule all:
        input: "out.txt"
    rule serve:
        output: service("socket")
        shell: "COMMAND"
    rule ask:
        input: "socket"
        output: "out.txt"
        shell: "touch asked; sleep 600"
"""


FAILS_HALF_WAY = """
    rule bad:
        input: "good.txt"
        output: "bad.txt"
        shell: "exit 3"
    rule good:
        output: "good.txt"
        shell: "echo good > {output}"
"""


server = live_server_fixture(WESEMU_NODE__CORES="4")


def assert_nothing_is_held(server: LiveServer) -> None:
    deadline = time.monotonic() + 60
    while live_tickets(server.data / "leases"):
        assert time.monotonic() < deadline, "a run that has ended holds a lease"
        time.sleep(0.05)


def play(server: LiveServer, workflow: str, **engine: str) -> LiveRun:
    run = server.run("SMK", workflow, engine=engine)
    assert run.state == "EXECUTOR_ERROR"
    return run


def test_many_failing_pipes_on_a_server_that_has_just_started(server: LiveServer) -> None:
    """The first runs wait for the forkserver together, and then start all at once."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        runs = list(pool.map(lambda _: play(server, FAILING_WRITER), range(RUNS)))
    assert {run.error["task"] for run in runs} <= {"writer", "reader"}
    assert_nothing_is_held(server)


def test_each_attempt_at_a_group_is_ended(server: LiveServer) -> None:
    run = play(server, FAILING_WRITER, retries="2", cores="2")
    writers = [task for task in run.run_log["task_logs"] if task["name"] == "writer"]
    assert {task["id"].rpartition("-")[2] for task in writers} == {"1", "2", "3"}
    assert_nothing_is_held(server)


@pytest.mark.parametrize("command", ["exit 3", "sleep 0.1; exit 3", "exec > {output}; exit 3"])
def test_a_chain_of_pipes_ends_with_its_first_member(server: LiveServer, command: str) -> None:
    run = play(server, THREE_MEMBERS.replace("COMMAND", command))
    assert (run.error["task"], run.error["exit_code"]) == ("first", 3)
    assert_nothing_is_held(server)


@pytest.mark.parametrize(
    "command", ["exit 4", "touch {output}; until [ -e asked ]; do sleep 0.02; done; exit 4"]
)
def test_a_service_that_fails_ends_its_users(server: LiveServer, command: str) -> None:
    run = play(server, FAILING_SERVICE.replace("COMMAND", command))
    assert (run.error["task"], run.error["exit_code"]) == ("serve", 4)
    assert_nothing_is_held(server)


def test_failing_runs_of_the_command_line_end_and_list_partial_outputs(tmp_path: Path) -> None:
    with live_server(tmp_path, WESEMU_ENGINE__SNAKEMAKE="cli") as server:
        with ThreadPoolExecutor(3) as pool:
            runs = list(pool.map(lambda _: play(server, FAILING_WRITER), range(3)))
        assert all(run.error["task"] in ("writer", "reader") for run in runs)
        assert_nothing_is_held(server)
        run = play(server, FAILS_HALF_WAY)
        assert (run.outputs, list(run.partial)) == ({}, ["good.txt"])
