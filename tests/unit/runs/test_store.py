"""The index: durable, changed by compare-and-set, paged by key."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.scripted import START

from wesemu.errors import RunNotFound, StoreError, TransitionRefused
from wesemu.runs.model import (
    LOCAL_OWNER,
    OutputFile,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunId,
    RunRequest,
    RunState,
    TaskDetails,
    TaskLog,
    TaskState,
)
from wesemu.runs.notifications import RunNotifier, TaskWriteBehind
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import HandleTaken, RunStore


def a_run(name: str, level: ServiceLevel = ServiceLevel.SILVER) -> Run:
    return Run(
        id=RunId(f"id-{name}"),
        sequence=0,
        handle=name,
        owner=LOCAL_OWNER,
        state=RunState.QUEUED,
        workflow="mapping",
        service_level=level,
        request=RunRequest("mapping", params={"sample": "Zoë"}, tags={"a": "b"}),
        resources=Resources(cores=2, memory_mb=100),
        created=START,
        tags={"a": "b"},
        counts=ReadCounts(2, 300),
        input_bytes=7,
        outputs=(OutputFile("bam", "results/a.bam", 5, "oss://b/a.bam"),),
        failure=RunFailure("no", file="x", record=3),
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    store = await RunStore.open(tmp_path / "index.db")
    yield store
    await store.close()


async def test_a_run_comes_back_as_it_was_put_in_also_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    store = await RunStore.open(path)
    stored = await store.insert(a_run("one"))
    await store.close()
    store = await RunStore.open(path)
    assert await store.get("id-one") == stored == await store.by_handle("one")
    await store.close()
    await store.close()


async def test_a_handle_in_use_is_refused(store: RunStore) -> None:
    await store.insert(a_run("one"))
    with pytest.raises(HandleTaken):
        await store.insert(a_run("one"))
    assert (await store.get("id-one")).handle == "one"


async def test_of_two_moves_that_exclude_each_other_one_wins(store: RunStore) -> None:
    run = await store.insert(a_run("one"))
    outcomes = await asyncio.gather(
        store.move(run.id, RunState.CANCELED),
        store.move(run.id, RunState.INITIALIZING),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, TransitionRefused) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Run) for outcome in outcomes) == 1


@pytest.mark.parametrize("end", [state for state in RunState if state.ended])
async def test_a_terminal_state_never_changes(store: RunStore, end: RunState) -> None:
    run = await store.insert(a_run("one"))
    way = {
        RunState.COMPLETE: [RunState.INITIALIZING, RunState.RUNNING],
        RunState.CANCELED: [RunState.INITIALIZING, RunState.CANCELING],
    }
    for state in [*way.get(end, []), end]:
        await store.move(run.id, state)
    for state in RunState:
        with pytest.raises(TransitionRefused):
            await store.move(run.id, state)
    assert (await store.get(run.id)).state is end


async def test_the_queue_is_by_service_level_then_age(store: RunStore) -> None:
    for name, level in (("a", "s"), ("b", "g"), ("c", "p"), ("d", "s"), ("e", "p")):
        await store.insert(a_run(name, ServiceLevel(level)))
    queued = await store.in_states(RunState.QUEUED)
    assert [run.handle for run in queued] == ["c", "e", "b", "a", "d"]


async def test_attempts_of_a_task_are_kept_apart_and_keep_their_order(store: RunStore) -> None:
    run = await store.insert(a_run("one"))
    first = TaskLog("2", "align", TaskState.RUNNING, started=START)
    other = TaskLog("1", "index", TaskState.QUEUED)
    await store.put_tasks(run.id, [first, other])
    details = TaskDetails(ready=START, cores=2, devices=(1,), inputs=("a",), after=("1",))
    failed = TaskLog(
        "2", "align", TaskState.EXECUTOR_ERROR, started=START, exit_code=1, details=details
    )
    again = TaskLog("2", "align", TaskState.RUNNING, attempt=2)
    await store.put_tasks(run.id, [failed, again])
    assert await store.tasks(run.id) == [failed, other, again]
    assert await store.task(run.id, "2", 1) == failed
    assert await store.task(run.id, "2", 2) == again
    assert await store.task(run.id, "1", 2) is None
    assert await store.task(RunId("id-two"), "2", 1) is None


async def test_pages_of_tasks_are_parts_of_the_whole_list(store: RunStore) -> None:
    runs = [await store.insert(a_run(name)) for name in ("one", "two")]
    for number in range(12):  # the same start times, and tasks that have not started
        started = None if number % 4 == 1 else START + timedelta(seconds=number % 3)
        task = TaskLog(str(number), "align", TaskState.RUNNING, started=started)
        for run in runs:
            await store.put_tasks(run.id, [task])
    for run in runs:
        tasks = await store.tasks(run.id)
        assert len(tasks) == 12
        for size in range(1, 14):
            for start in range(14):
                page = await store.tasks(run.id, start=start, size=size)
                assert page == tasks[start : start + size]


async def test_removing_a_run_removes_its_tasks(store: RunStore) -> None:
    run = await store.insert(a_run("one"))
    await store.put_tasks(run.id, [TaskLog("1", "index", TaskState.QUEUED)])
    await store.delete(run.id)
    assert await store.tasks(run.id) == []
    with pytest.raises(RunNotFound):
        await store.get(run.id)


async def test_a_newer_or_broken_index_is_refused(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StoreError, match="newer"):
        await RunStore.open(newer)
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"broken\.db"):
        await RunStore.open(broken)


async def test_changes_of_tasks_are_all_written_however_soon_the_run_ends(store: RunStore) -> None:
    run = await store.insert(a_run("one"))
    for attempt in range(1, 40):
        async with TaskWriteBehind(store, RunNotifier(), run.id) as tasks:
            tasks.add(TaskLog("1", "align", TaskState.RUNNING, attempt=attempt))
            await asyncio.sleep(0)
            tasks.add(TaskLog("1", "align", TaskState.COMPLETE, attempt=attempt))
    states = {task.attempt: task.state for task in await store.tasks(run.id)}
    assert states == dict.fromkeys(range(1, 40), TaskState.COMPLETE)


async def test_the_queue_is_read_by_its_index(store: RunStore, tmp_path: Path) -> None:
    asked: list[str] = []
    rows = store._database.rows
    store._database.rows = lambda query, values=(): asked.append(query) or rows(query, values)  # type: ignore[method-assign, assignment, func-returns-value]
    await store.in_states(RunState.QUEUED)
    steps = await rows(f"EXPLAIN QUERY PLAN {asked[0]}", ["QUEUED"])
    assert any("runs_active" in step["detail"] for step in steps), steps
