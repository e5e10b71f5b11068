"""The index that benchmarks fill equals one that a server writes."""

import asyncio
import sqlite3
from pathlib import Path

from benchmarks.archive import fill, handle
from wesemu.runs.data_directory import HANDLE_LENGTH
from wesemu.runs.model import LOCAL_OWNER, RunState, TaskState
from wesemu.runs.store import RunStore


def test_handles_differ() -> None:
    handles = {handle(number) for number in range(2000)}
    assert len(handles) == 2000
    assert {len(each) for each in handles} == {HANDLE_LENGTH}


async def test_the_store_reads_the_runs_and_their_tasks(tmp_path: Path) -> None:
    ids = await _fill(tmp_path, 60)
    store = await RunStore.open(tmp_path / "wesemu.db")
    try:
        counts = await store.state_counts(LOCAL_OWNER)
        run = await store.get(ids[0])
        tasks = await store.tasks(run.id)
    finally:
        await store.close()
    assert counts[RunState.COMPLETE] == 54
    assert counts[RunState.EXECUTOR_ERROR] == counts[RunState.CANCELED] == 3
    assert run.workflow == "mapping"
    assert [task.state for task in tasks] == [TaskState.COMPLETE] * 3


async def test_an_index_is_used_again_but_for_runs_of_others(tmp_path: Path) -> None:
    first = await _fill(tmp_path, 40)
    with sqlite3.connect(tmp_path / "wesemu.db") as connection:
        connection.execute("UPDATE runs SET workflow = '' WHERE id = ?", [first[0]])
    connection.close()
    again = await _fill(tmp_path, 40)
    assert len(first) == len(again) == 40


async def _fill(data: Path, count: int) -> list[str]:
    return await asyncio.to_thread(fill, data, count)
