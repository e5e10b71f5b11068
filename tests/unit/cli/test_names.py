"""Names of runs on the command line: ids, handles, job names, `@last`."""

import pytest

from wesemu.cli.output import CommandRefused
from wesemu.cli.remote import Target, choose
from wesemu.client import JobLine, RunLine
from wesemu.runs.model import RunState


def target(run_id: str, handle: str, workflow: str = "") -> Target:
    run = RunLine(run_id, RunState.RUNNING, handle, {}, None, None)
    job = JobLine(f"{workflow}-gpu-{handle}", "", "Running") if workflow else None
    return Target(run, job)


RUNS = [
    target("aaaa1111", "66xv7", "mapping"),
    target("aaaa2222", "tvltf", "wgs"),
    target("bbbb3333", "zzzzz"),
]


@pytest.mark.parametrize(
    ("text", "run_id"),
    [
        ("mapping-gpu-66xv7", "aaaa1111"),
        ("mapping", "aaaa1111"),
        ("66xv7", "aaaa1111"),
        ("wgs-gpu-t", "aaaa2222"),
        ("aaaa2", "aaaa2222"),
        ("b", "bbbb3333"),
        ("zzz", "bbbb3333"),
    ],
)
def test_names_ids_and_their_beginnings_are_found(text: str, run_id: str) -> None:
    assert choose(RUNS, text).run.id == run_id


def test_a_whole_name_wins_over_longer_ones() -> None:
    runs = [target("1", "abc"), target("2", "abcd")]
    assert choose(runs, "abc").run.id == "1"


@pytest.mark.parametrize("text", ["aaaa", "nobody", ""])
def test_none_or_several_are_refused(text: str) -> None:
    with pytest.raises(CommandRefused):
        choose(RUNS, text)


def test_several_are_named() -> None:
    with pytest.raises(CommandRefused, match=r"matches 2 runs: mapping-gpu-66xv7, wgs-gpu-tvltf"):
        choose(RUNS, "aaaa")
