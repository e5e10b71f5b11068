"""The order of starts: by service level, then age; no run waits for a lower level."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted import START
from support.waiting import eventually
from unit.runs.test_run_queue import queued

from wesemu.runs import scheduler as scheduler_module
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.scheduler import Scheduler, startable
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore


def a_run(sequence: int, level: str = "s", cores: int = 1) -> Run:
    return Run(
        id=RunId(str(sequence)),
        sequence=sequence,
        handle=str(sequence),
        owner=LOCAL_OWNER,
        state=RunState.QUEUED,
        workflow="mapping",
        service_level=ServiceLevel(level),
        request=RunRequest("mapping"),
        resources=Resources(cores=cores),
        created=START,
    )


def numbers(runs: list[Run]) -> list[int]:
    return [run.sequence for run in runs]


def test_runs_begin_in_order_while_there_are_slots() -> None:
    queue = [a_run(1), a_run(2), a_run(3)]
    assert numbers(startable(queue, [], 2)) == [1, 2]
    assert numbers(startable(queue, [a_run(0)], 2)) == [1]
    assert startable(queue, [a_run(0), a_run(9)], 2) == []


def test_what_a_run_asks_of_the_node_is_its_tasks_affair() -> None:
    queue = [a_run(1, cores=16), a_run(2, cores=16)]
    assert numbers(startable(queue, [a_run(0, cores=16)], 3)) == [1, 2]


def test_a_run_waits_for_none_of_a_lower_service_level() -> None:
    silver = [a_run(1), a_run(2)]
    assert numbers(startable([a_run(3, "p"), a_run(4, "g"), a_run(5)], silver, 2)) == [3, 4]


def test_a_run_waits_for_those_of_higher_service_levels() -> None:
    above = [a_run(1, "p"), a_run(2, "g")]
    assert numbers(startable([a_run(3, "p"), a_run(4, "g"), a_run(5)], above, 2)) == [3]


async def test_a_run_that_is_canceled_meanwhile_leaves_its_slot_to_the_next(
    tmp_path: Path, clock: ManualClock
) -> None:
    store = await RunStore.open(tmp_path / "index.db")
    for name in "ab":
        await store.insert(queued(name))
    driven: list[str] = []
    read = store.queue.next

    async def read_then_cancel(most: Mapping[int, int], gpus: int) -> list[Run]:
        runs = await read(most, gpus)
        if runs[0].handle == "a":
            await store.move(runs[0].id, RunState.CANCELED)
        return runs

    async def drive(run: Run, free_slot: Callable[[], None]) -> None:
        driven.append(run.handle)
        await asyncio.Event().wait()

    store.queue.next = read_then_cancel  # type: ignore[method-assign]
    scheduler = Scheduler(store, drive, 1, clock)
    await scheduler.start()
    await eventually(lambda: bool(driven))
    assert driven == ["b"]
    await scheduler.close()
    await store.close()


async def test_a_queue_that_could_not_be_read_is_read_again(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may lock the index; without other runs, nothing else would wake the queue."""
    monkeypatch.setattr(scheduler_module, "_RETRY_SECONDS", 0)
    store = await RunStore.open(tmp_path / "index.db")
    await store.insert(queued("a"))
    driven: list[str] = []
    read = store.queue.next
    locked = [sqlite3.OperationalError("database is locked")]

    async def read_once_unlocked(most: Mapping[int, int], gpus: int) -> list[Run]:
        if locked:
            raise locked.pop()
        return await read(most, gpus)

    async def drive(run: Run, free_slot: Callable[[], None]) -> None:
        driven.append(run.handle)
        await asyncio.Event().wait()

    store.queue.next = read_once_unlocked  # type: ignore[method-assign]
    scheduler = Scheduler(store, drive, 1, clock)
    await scheduler.start()
    await eventually(lambda: driven == ["a"])
    await scheduler.close()
    await store.close()


LEVELS = st.lists(st.sampled_from("pgs"), max_size=8)


@given(active=LEVELS, queued=LEVELS, slots=st.integers(1, 4))
def test_no_level_has_more_runs_than_slots_with_those_above_it(
    active: list[str], queued: list[str], slots: int
) -> None:
    running: list[Run] = []
    for number, level in enumerate(active):
        running += startable([a_run(number, level)], running, slots)
    queue = sorted(
        (a_run(100 + number, level) for number, level in enumerate(queued)),
        key=lambda run: (run.service_level.rank, run.sequence),
    )
    chosen = startable(queue, running, slots)
    assert chosen == [run for run in queue if run in chosen]
    for rank in range(3):
        above = [run for run in [*running, *chosen] if run.service_level.rank <= rank]
        left = [r for r in queue if r.service_level.rank == rank and r not in chosen]
        assert not left or len(above) >= slots
    silver = [run for run in chosen if run.service_level.rank == 2]
    assert not silver or len([*running, *chosen]) <= slots


@pytest.mark.parametrize("state", list(RunState))
def test_every_state_is_active_or_ended(state: RunState) -> None:
    assert state.active is not state.ended
