"""The cache of ended runs; removed runs leave it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from support.scripted import START

from wesemu.errors import RunNotFound
from wesemu.runs.model import LOCAL_OWNER, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import Head, RunCache, RunStore


def a_run(name: str, state: RunState) -> Run:
    return Run(
        id=RunId(name),
        sequence=0,
        handle=name,
        owner=LOCAL_OWNER,
        state=state,
        workflow="",
        service_level=ServiceLevel.SILVER,
        request=RunRequest("x"),
        resources=Resources(),
        created=START,
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    store = await RunStore.open(tmp_path / "index.db")
    yield store
    await store.close()


async def test_an_ended_run_is_read_once_and_a_running_one_each_time(store: RunStore) -> None:
    done = await store.insert(a_run("done", RunState.CANCELED))
    assert await store.get(done.id) is await store.get(done.id)
    assert await store.head(done.id) == (
        LOCAL_OWNER,
        (await store.heads(LOCAL_OWNER, size=1)).heads[0],
    )
    queued = await store.insert(a_run("queued", RunState.QUEUED))
    assert (await store.get(queued.id)).state is RunState.QUEUED
    await store.move(queued.id, RunState.CANCELED)
    assert (await store.get(queued.id)).state is RunState.CANCELED


async def test_a_removed_run_is_gone_also_for_who_reads_it_meanwhile(store: RunStore) -> None:
    for number in range(20):
        run = await store.insert(a_run(f"r{number}", RunState.CANCELED))
        readers: list[Awaitable[object]] = [store.get(run.id) for _ in range(number % 4)]
        readers += [store.head(run.id) for _ in range(number % 3)]
        await asyncio.gather(
            *readers, store.delete(run.id), *[store.many([run.id])], return_exceptions=True
        )
        for ask in (store.get, store.head):
            with pytest.raises(RunNotFound):
                await ask(run.id)
        assert await store.many([run.id]) == {}


def test_what_was_read_before_a_removal_is_not_kept() -> None:
    kept = RunCache()
    run = a_run("a", RunState.CANCELED)
    kept.remember(run, 10, kept.removals)
    before = kept.removals
    kept.forget(run.id)
    kept.remember(run, 10, before)
    assert kept.get(run.id) is None


def test_a_head_is_kept_once_its_run_has_ended_until_it_is_removed() -> None:
    kept = RunCache()
    ended, active = (Head(RunId(s), 1, s) for s in (RunState.COMPLETE, RunState.RUNNING))
    for head in (ended, active):
        kept.remember_head(LOCAL_OWNER, head, kept.removals)
    assert (kept.head(ended.id), kept.head(active.id)) == ((LOCAL_OWNER, ended), None)
    before = kept.removals
    kept.forget(ended.id)
    kept.remember_head(LOCAL_OWNER, ended, before)
    assert kept.head(ended.id) is None
    for number in range(10_001):
        kept.remember_head(LOCAL_OWNER, Head(RunId(f"r{number}"), 1, ended.state), kept.removals)
    assert (kept.head("r0"), kept.head("r1") is None) == (None, False)
    kept.forget_all()
    assert kept.head("r1") is None


async def test_the_head_of_an_ended_run_is_read_once_and_of_a_running_one_each_time(
    store: RunStore,
) -> None:
    done = await store.insert(a_run("done", RunState.CANCELED))
    assert (await store.head(done.id))[1] is (await store.head(done.id))[1]
    queued = await store.insert(a_run("queued", RunState.QUEUED))
    assert (await store.head(queued.id))[1].state is RunState.QUEUED
    await store.move(queued.id, RunState.CANCELED)
    assert (await store.head(queued.id))[1].state is RunState.CANCELED


def test_large_and_many_runs_are_not_kept() -> None:
    kept = RunCache()
    kept.remember(a_run("large", RunState.CANCELED), 1_000_000, 0)
    assert kept.get("large") is None
    for number in range(2_001):
        kept.remember(a_run(f"r{number}", RunState.CANCELED), 10, 0)
    assert kept.get("r0") is None
    assert kept.get("r1") is not None
