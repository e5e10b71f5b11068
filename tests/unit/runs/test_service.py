"""RunService: submitting, canceling, removing and listing runs, with the scripted engine."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from support.waiting import eventually, soon

from wesemu.errors import BucketNotFound, Forbidden, InvalidRequest, RunActive, RunNotFound
from wesemu.runs import publishing
from wesemu.runs.model import LOCAL_OWNER, Owner, Run, RunRequest, RunState, TaskState
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine
from wesemu.workflows import bundled

Client = TestClient[web.Request, web.Application]


def mapping(sample: str = "sample", **params: Any) -> RunRequest:
    return RunRequest(
        "mapping",
        params={
            "reads": [
                {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
            ],
            "reference": "oss://genes/reference/tiny",
            "bam": "oss://genes/out/a.bam",
            "sample": sample,
            **params,
        },
    )


async def ended(runs: RunService, run: Run) -> Run:
    async with soon():
        async for seen in runs.follow(run.owner, run.id):
            run = seen
    return run


async def until(runs: RunService, run: Run, state: RunState) -> None:
    async with soon():
        async for seen in runs.follow(run.owner, run.id):
            if seen.state is state:
                return
    raise AssertionError(f"the run ended without being {state}")


async def test_a_run_goes_from_queued_to_complete_and_publishes(
    client: Client, runs: RunService, settings: Settings
) -> None:
    run = await runs.submit(LOCAL_OWNER, mapping())
    assert run.state is RunState.QUEUED
    run = await ended(runs, run)
    assert (run.state, run.failure, run.exit_code) == (RunState.COMPLETE, None, 0)
    assert (settings.data / "buckets/genes/out/a.bam").read_text() == "BAM"
    assert (settings.data / "buckets/genes/out/a.bam.bai").read_text() == "BAI"
    assert run.counts is not None
    assert (run.counts.total_reads, run.counts.total_bases) == (4000, 600_000)
    (task,) = await runs.tasks(run)
    assert (task.name, task.state, task.exit_code) == ("align", TaskState.COMPLETE, 0)


async def test_a_failed_task_ends_the_run_and_publishes_nothing(
    client: Client, runs: RunService, settings: Settings
) -> None:
    run = await ended(runs, await runs.submit(LOCAL_OWNER, mapping("fail")))
    assert run.state is RunState.EXECUTOR_ERROR
    assert run.failure is not None
    assert (run.failure.task, run.failure.exit_code) == ("align", 1)
    assert not (settings.data / "buckets/genes/out").exists()
    assert runs.workspace(run).error.is_file()


async def test_a_refused_submission_leaves_nothing(
    client: Client, runs: RunService, settings: Settings
) -> None:
    with pytest.raises(BucketNotFound, match="nowhere"):
        await runs.submit(LOCAL_OWNER, mapping(bam="oss://nowhere/a.bam"))
    with pytest.raises(InvalidRequest) as caught:
        await runs.submit(LOCAL_OWNER, mapping(markdup="perhaps"))
    assert caught.value.field == "markdup"
    assert list((settings.data / "runs").iterdir()) == []
    assert (await runs.page(LOCAL_OWNER, size=10)).runs == ()


async def test_a_submission_given_up_while_it_is_committed_leaves_nothing(
    client: Client, runs: RunService, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server stops, or the caller hangs up, just then."""
    insert, committing, go_on = runs._store.insert, asyncio.Event(), asyncio.Event()

    async def slow_insert(run: Run) -> Run:
        stored = await insert(run)
        committing.set()
        await go_on.wait()
        return stored

    monkeypatch.setattr(runs._store, "insert", slow_insert)
    submission = asyncio.create_task(runs.submit(LOCAL_OWNER, mapping()))
    await committing.wait()
    submission.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await submission
    assert (await runs.page(LOCAL_OWNER, size=10)).runs == ()
    assert list((settings.data / "runs").iterdir()) == []


async def test_cancel_while_running_while_queued_and_twice(
    client: Client, runs: RunService, settings: Settings
) -> None:
    first = await runs.submit(LOCAL_OWNER, mapping("wait-a"))
    second = await runs.submit(LOCAL_OWNER, mapping("b"))
    await until(runs, first, RunState.RUNNING)
    assert (await runs.get(LOCAL_OWNER, second.id)).state is RunState.QUEUED
    assert (await runs.cancel(LOCAL_OWNER, second.id)).state is RunState.CANCELED
    await runs.cancel(LOCAL_OWNER, first.id)
    await runs.cancel(LOCAL_OWNER, first.id)
    assert (await ended(runs, first)).state is RunState.CANCELED
    assert not (settings.data / "buckets/genes/out").exists()
    assert (await runs.cancel(LOCAL_OWNER, first.id)).state is RunState.CANCELED


async def test_a_cancel_after_the_results_were_published_has_no_effect(
    client: Client, runs: RunService, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, canceled = threading.Event(), threading.Event()
    sync = publishing._sync_folders

    def wait_for_cancel(folders: set[Path]) -> None:
        published.set()
        assert canceled.wait(60)
        sync(folders)

    monkeypatch.setattr(publishing, "_sync_folders", wait_for_cancel)
    run = await runs.submit(LOCAL_OWNER, mapping())
    await eventually(published.is_set)
    assert (await runs.cancel(LOCAL_OWNER, run.id)).state is RunState.CANCELING
    canceled.set()
    run = await ended(runs, run)
    assert run.state is RunState.COMPLETE
    assert run.outputs
    assert (settings.data / "buckets/genes/out/a.bam").exists()


async def test_a_cancel_before_the_results_are_published_begins_no_publishing(
    client: Client, runs: RunService, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    results, publish = bundled.read_results, publishing.in_thread

    def cancel_then_read(*args: Any) -> Any:
        canceling = runs.cancel(LOCAL_OWNER, run.id)
        asyncio.run_coroutine_threadsafe(canceling, loop).result(60)
        return results(*args)

    async def note(work: Any, *, final: bool) -> Any:
        begun.append("publishing")
        return await publish(work, final=final)

    monkeypatch.setattr(bundled, "read_results", cancel_then_read)
    monkeypatch.setattr(publishing, "in_thread", note)
    loop = asyncio.get_running_loop()
    run = await runs.submit(LOCAL_OWNER, mapping())
    assert (await ended(runs, run)).state is RunState.CANCELED
    assert begun == []


async def test_runs_of_others_are_forbidden_and_unknown_ones_not_found(
    client: Client, runs: RunService
) -> None:
    run = await runs.submit(LOCAL_OWNER, mapping())
    with pytest.raises(Forbidden):
        await runs.get(Owner("somebody"), run.id)
    with pytest.raises(RunNotFound):
        await runs.get(LOCAL_OWNER, "no-such-run")
    assert (await runs.page(Owner("somebody"), size=10)).runs == ()


async def test_only_ended_runs_can_be_removed(
    client: Client, runs: RunService, engine: ScriptedEngine, settings: Settings
) -> None:
    run = await runs.submit(LOCAL_OWNER, mapping("wait-a"))
    with pytest.raises(RunActive):
        await runs.remove(LOCAL_OWNER, run.id)
    engine.release("wait-a")
    await ended(runs, run)
    await runs.remove(LOCAL_OWNER, run.id)
    with pytest.raises(RunNotFound):
        await runs.get(LOCAL_OWNER, run.id)
    assert not runs.workspace(run).root.exists()
    assert (settings.data / "buckets/genes/out/a.bam").exists()


async def test_watching_a_run_that_has_ended_leaves_no_subscription(
    client: Client, runs: RunService
) -> None:
    run = await ended(runs, await runs.submit(LOCAL_OWNER, mapping()))
    for _ in range(3):
        assert (await ended(runs, run)).state is RunState.COMPLETE
    assert run.id not in runs._changes._waiting


async def test_state_counts_follow_the_runs(client: Client, runs: RunService) -> None:
    for sample in ("a", "b", "fail"):
        await ended(runs, await runs.submit(LOCAL_OWNER, mapping(sample)))
    counts = await runs.state_counts(LOCAL_OWNER)
    assert counts[RunState.COMPLETE] == 2
    assert counts[RunState.EXECUTOR_ERROR] == 1
    assert counts[RunState.QUEUED] == counts[RunState.RUNNING] == 0


async def test_pages_are_newest_first_and_go_on_where_the_last_ended(
    client: Client, runs: RunService
) -> None:
    submitted = [await runs.submit(LOCAL_OWNER, mapping(f"s{n}")) for n in range(5)]
    seen: list[str] = []
    before: int | None = None
    while True:
        page = await runs.page(LOCAL_OWNER, size=2, before=before)
        assert len(page.runs) <= 2
        seen += [run.id for run in page.runs]
        if (before := page.before) is None:
            break
    assert seen == [run.id for run in reversed(submitted)]
