"""Names of runs on the command line: ids, handles, job names, `@last`."""

from typing import Any

import pytest

from wesemu.cli.output import CommandRefused
from wesemu.cli.remote import Target, choose, find
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


class ManyRuns:
    """Stands for a client of a server with 5000 runs, each of which is a job."""

    def __init__(self) -> None:
        self.wes = self.ags = self
        self.read = 0

    async def runs(self, limit: int) -> list[RunLine]:
        lines = [target(f"id{number}", f"run{number}").run for number in range(5000)[:limit]]
        self.read += len(lines)
        return lines

    async def jobs(self, limit: int) -> list[JobLine]:
        return [JobLine(f"wgs-gpu-run{number}", "", "") for number in range(5000)[:limit]]


@pytest.mark.parametrize(
    ("text", "read"),
    [("id99", 100), ("run99", 100), ("wgs-gpu-run99", 100), ("id999", 1100), ("run4999", 6100)],
)
async def test_a_complete_name_of_a_new_run_needs_no_list_of_all(text: str, read: int) -> None:
    client: Any = ManyRuns()
    assert text in (await find(client, text)).names
    assert client.read == read


async def test_the_beginning_of_a_name_is_looked_up_in_all_runs() -> None:
    client: Any = ManyRuns()
    with pytest.raises(CommandRefused, match="matches 5000 runs"):
        await find(client, "wgs")
    assert client.read == 6100


def test_several_are_named() -> None:
    with pytest.raises(CommandRefused, match=r"matches 2 runs: mapping-gpu-66xv7, wgs-gpu-tvltf"):
        choose(RUNS, "aaaa")
