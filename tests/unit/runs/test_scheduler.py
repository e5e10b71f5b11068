"""Which queued runs start: by service level, then age; passing delays nobody."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import START

from wesemu.runs.model import LOCAL_OWNER, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.scheduler import startable
from wesemu.sla import ServiceLevel

NODE = Resources(cores=16, memory_mb=64_000)


def a_run(sequence: int, cores: int, level: str = "s", memory_mb: int = 0) -> Run:
    return Run(
        id=RunId(str(sequence)),
        sequence=sequence,
        handle=str(sequence),
        owner=LOCAL_OWNER,
        state=RunState.QUEUED,
        workflow="mapping",
        service_level=ServiceLevel(level),
        request=RunRequest("mapping"),
        resources=Resources(cores=cores, memory_mb=memory_mb),
        created=START,
    )


def numbers(runs: list[Run]) -> list[int]:
    return [run.sequence for run in runs]


def test_runs_start_in_order_while_there_is_room() -> None:
    queue = [a_run(1, 8), a_run(2, 8), a_run(3, 8)]
    assert numbers(startable(queue, [], NODE)) == [1, 2]


def test_a_small_run_passes_only_into_room_the_waiting_one_never_needs() -> None:
    running = [a_run(1, 8)]
    queue = [a_run(2, 12), a_run(3, 4), a_run(4, 4)]
    assert numbers(startable(queue, running, NODE)) == [3]


def test_runs_that_passed_before_count_against_further_passing() -> None:
    running = [a_run(1, 8), a_run(3, 4)]
    assert startable([a_run(2, 12), a_run(4, 4)], running, NODE) == []


def test_nobody_passes_a_run_that_wants_the_whole_node() -> None:
    assert startable([a_run(2, 16), a_run(3, 1)], [a_run(1, 1)], NODE) == []


def test_memory_counts_as_cores_do() -> None:
    running = [a_run(1, 1, memory_mb=60_000)]
    assert startable([a_run(2, 1, memory_mb=8_000)], running, NODE) == []
    unlimited = replace(NODE, memory_mb=0)
    assert numbers(startable([a_run(2, 1, memory_mb=8_000)], running, unlimited)) == [2]


@given(
    running=st.lists(st.integers(1, 16), max_size=4),
    queued=st.lists(st.integers(1, 16), max_size=8),
)
def test_the_node_is_never_oversubscribed(running: list[int], queued: list[int]) -> None:
    active: list[Run] = []
    for number, cores in enumerate(running):
        if sum(run.resources.cores for run in active) + cores <= NODE.cores:
            active.append(a_run(number, cores))
    queue = [a_run(100 + number, cores) for number, cores in enumerate(queued)]
    chosen = startable(queue, active, NODE)
    assert sum(run.resources.cores for run in [*active, *chosen]) <= NODE.cores


@pytest.mark.parametrize("state", list(RunState))
def test_every_state_is_active_or_ended(state: RunState) -> None:
    assert state.active is not state.ended
