"""The queue of runs in the index: the next run, without reading the whole queue."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from unit.runs.test_store import a_run

from wesemu.runs.model import Resources, Run, RunState
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore

_COPY = """
    INSERT INTO runs
        (sequence, id, handle, owner, state, workflow, service_rank, service_level, request,
         resources, tags, created, outputs)
    SELECT :sequence, :id, :id, owner, state, workflow, service_rank, service_level, request,
         :resources, tags, created, outputs FROM runs WHERE handle = 'next'
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    store = await RunStore.open(tmp_path / "index.db")
    yield store
    await store.close()


def queued(name: str, level: str = "s", least_gpus: int = 0) -> Run:
    resources = Resources(gpus=least_gpus, least_gpus=least_gpus)
    return replace(a_run(name, ServiceLevel(level)), resources=resources)


def names(runs: list[Run]) -> list[str]:
    return [run.handle for run in runs]


async def test_the_oldest_runs_of_each_level_come_in_queue_order(store: RunStore) -> None:
    for name, level in (("a", "s"), ("b", "g"), ("c", "p"), ("d", "s"), ("e", "p"), ("f", "n")):
        await store.insert(queued(name, level))
    assert names(await store.queue.next({0: 9, 1: 9, 2: 9, 3: 9}, 0)) == [*"cebadf"]
    assert names(await store.queue.next({0: 1, 2: 1}, 0)) == ["c", "a"]
    assert [(level, number) for level, number, _ in await store.queue.levels()] == [
        ("p", 2),
        ("g", 1),
        ("s", 2),
        ("n", 1),
    ]


async def test_runs_that_have_left_the_queue_are_not_in_it(store: RunStore) -> None:
    runs = [await store.insert(queued(name)) for name in "abcd"]
    await store.move(runs[0].id, RunState.INITIALIZING)
    await store.move(runs[1].id, RunState.CANCELED)
    await store.delete(runs[2].id)
    assert names(await store.queue.next({2: 9}, 0)) == ["d"]


async def test_runs_that_need_more_gpus_hold_up_no_other(store: RunStore) -> None:
    for name, gpus in (("a", 4), ("b", 2), ("c", 1), ("d", 0), ("e", 2)):
        await store.insert(queued(name, least_gpus=gpus))
    assert names(await store.queue.next({2: 9}, 0)) == ["d"]
    assert names(await store.queue.next({2: 3}, 2)) == [*"bcd"]
    assert names(await store.queue.next({2: 9}, 2)) == [*"bcde"]
    assert await store.queue.count_beyond(1) == 3


async def test_the_cost_does_not_grow_with_the_queue(store: RunStore) -> None:
    """Counted in steps of SQLite's virtual machine, also behind runs that cannot start."""
    reader, steps = store._database._reader, 0

    def count() -> None:
        nonlocal steps
        steps += 1

    async def cost() -> int:
        nonlocal steps
        steps = 0
        await reader.set_progress_handler(count, 1)
        assert names(await store.queue.next({2: 1}, 1)) == ["next"]
        await reader.set_progress_handler(None, 0)
        return steps

    await store.insert(queued("next"))
    short = await cost()
    await store._database.write_many(
        _COPY,
        [
            {"id": f"{number}", "sequence": -number, "resources": '{"least_gpus": 2}'}
            for number in range(1, 1000)
        ],
    )
    assert await store.queue.count_beyond(1) == 999
    assert await cost() <= short + 20
