"""Runs after the loss of a process, a stop of the server, or the loss of the index."""

import asyncio
import json
import sqlite3
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from support.scripted import scripted_engine
from support.waiting import eventually
from unit.runs.test_service import ended, mapping, until

from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.maintenance import rebuild_index
from wesemu.runs.model import (
    LOCAL_OWNER,
    Owner,
    Run,
    RunId,
    RunRequest,
    RunState,
    TaskState,
)
from wesemu.runs.outcome import CRASH_LIMIT
from wesemu.runs.service import RunService
from wesemu.runs.store import RunStore
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine


async def served(settings: Settings, engine: ScriptedEngine) -> TestServer:
    server = TestServer(await create_app(settings, engines=[engine]))
    await server.start_server()
    return server


def runs_of(server: TestServer) -> RunService:
    return server.app[RUNS]


async def submit_scripted(
    runs: RunService, *steps: dict[str, Any], owner: Owner = LOCAL_OWNER
) -> Any:
    draft = await runs.draft()

    async def text() -> Any:
        yield b"script"

    await draft.files.attach("play", text())
    request = RunRequest("play", workflow_type="SCRIPTED", params={"script": list(steps)})
    return await runs.submit(owner, request, draft)


async def test_a_run_whose_process_vanished_is_resumed_once(
    settings: Settings, clock: ManualClock
) -> None:
    server = await served(settings, ScriptedEngine(clock))
    runs = runs_of(server)
    run = await submit_scripted(
        runs, {"task": "a"}, {"crash": "x"}, {"write": "b.txt", "text": "b"}
    )
    assert (await ended(runs, run)).state is RunState.COMPLETE
    run = await submit_scripted(runs, {"crash": "y"}, {"crash": "z"}, {"task": "never"})
    run = await ended(runs, run)
    assert run.state is RunState.SYSTEM_ERROR
    assert run.failure is not None
    assert "vanished" in run.failure.message
    await server.close()


async def test_a_run_that_kills_its_machine_is_given_up_over_all_servers(
    settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    server = await served(settings, engine)
    run = await runs_of(server).submit(LOCAL_OWNER, mapping("wait-a"))
    await until(runs_of(server), run, RunState.RUNNING)
    await server.close()
    workspace = runs_of(server).workspace(run)
    await asyncio.to_thread(workspace.lock.touch)  # as its process has left it
    for crashes in range(1, CRASH_LIMIT):
        fresh = scripted_engine(clock)
        server = await served(settings, fresh)
        await eventually(lambda fresh=fresh: fresh.launches == 1)  # type: ignore[misc]
        assert json.loads(workspace.crashes.read_text()) == {"crashes": crashes}
        assert (await runs_of(server).get(LOCAL_OWNER, run.id)).state is RunState.RUNNING
        await server.close()
    server = await served(settings, scripted_engine(clock))
    run = await ended(runs_of(server), run)
    assert run.state is RunState.SYSTEM_ERROR
    assert run.failure is not None
    assert f"vanished {CRASH_LIMIT} times" in run.failure.message
    await server.close()


async def test_a_run_that_is_ended_by_others_is_launched_once_more(
    settings: Settings, clock: ManualClock
) -> None:
    engine = ScriptedEngine(clock)
    server = await served(settings, engine)
    run = await submit_scripted(runs_of(server), {"task": "a"}, {"wait": "w"}, {"task": "b"})
    for launch in (1, 2):
        await eventually(lambda launch=launch: engine.launches == launch)  # type: ignore[misc]
        await engine._launched[run.id].cancel()
    run = await ended(runs_of(server), run)
    assert (run.state, run.exit_code) == (RunState.EXECUTOR_ERROR, 143)
    await server.close()


async def test_the_tools_of_a_run_that_an_error_of_the_index_ends_are_ended(
    settings: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine(clock)
    server = await served(settings, engine)
    move = RunStore.move

    async def locked(store: RunStore, run_id: RunId, to: RunState, **values: Any) -> Run:
        if to is RunState.RUNNING:
            raise sqlite3.OperationalError("disk I/O error")
        return await move(store, run_id, to, **values)

    monkeypatch.setattr(RunStore, "move", locked)
    run = await submit_scripted(runs_of(server), {"wait": "never"})
    await eventually(lambda: run.id in engine._launched)
    execution = engine._launched[run.id]
    assert (await ended(runs_of(server), run)).state is RunState.SYSTEM_ERROR
    assert (await execution.outcome()).exit_code == 143
    await server.close()


async def test_a_stopped_server_leaves_a_run_to_the_next_one(
    settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    server = await served(settings, engine)
    waiting = await runs_of(server).submit(LOCAL_OWNER, mapping("wait-a"))
    queued = await runs_of(server).submit(LOCAL_OWNER, mapping("b"))
    await until(runs_of(server), waiting, RunState.RUNNING)
    await server.close()

    fresh = ScriptedEngine(
        clock, name="snakemake", script=engine._script, workflow_types=engine.workflow_types
    )
    server = await served(settings, fresh)
    runs = runs_of(server)
    assert (await runs.get(LOCAL_OWNER, waiting.id)).state is RunState.RUNNING
    fresh.release("wait-a")
    assert (await ended(runs, waiting)).state is RunState.COMPLETE
    assert (await ended(runs, queued)).state is RunState.COMPLETE
    await server.close()


async def test_a_run_that_was_being_canceled_is_canceled_by_the_next_server(
    settings: Settings, engine: ScriptedEngine
) -> None:
    server = await served(settings, engine)
    run = await runs_of(server).submit(LOCAL_OWNER, mapping("wait-a"))
    await until(runs_of(server), run, RunState.RUNNING)
    await server.close()
    store = await RunStore.open(settings.data / "wesemu.db")
    await store.move(run.id, RunState.CANCELING)
    await store.close()
    server = await served(settings, engine)
    assert (await ended(runs_of(server), run)).state is RunState.CANCELED
    await server.close()


async def test_the_index_is_made_anew_from_the_run_directories(
    settings: Settings, engine: ScriptedEngine
) -> None:
    server = await served(settings, engine)
    complete = await ended(runs_of(server), await runs_of(server).submit(LOCAL_OWNER, mapping("a")))
    failed = await ended(
        runs_of(server), await runs_of(server).submit(LOCAL_OWNER, mapping("fail"))
    )
    waiting = await runs_of(server).submit(LOCAL_OWNER, mapping("wait-c"))
    tasks = await runs_of(server).tasks(failed)
    await server.close()
    for path in await asyncio.to_thread(lambda: list(settings.data.glob("wesemu.db*"))):
        await asyncio.to_thread(path.unlink)

    store = await RunStore.open(settings.data / "wesemu.db")
    assert await rebuild_index(store, settings.data / "runs") == 3
    assert await rebuild_index(store, settings.data / "runs") == 0
    await store.close()

    engine.release("wait-c")
    server = await served(settings, engine)
    runs = runs_of(server)
    for before in (complete, failed):
        after = await runs.get(LOCAL_OWNER, before.id)
        assert (after.state, after.outputs, after.failure, after.counts, after.ended) == (
            before.state,
            before.outputs,
            before.failure,
            before.counts,
            before.ended,
        )
    assert await runs.tasks(failed) == tasks
    assert tasks[0].state is TaskState.EXECUTOR_ERROR
    assert (await ended(runs, waiting)).state is RunState.COMPLETE
    assert [run.id for run in (await runs.page(LOCAL_OWNER, size=9)).runs] == [
        waiting.id,
        failed.id,
        complete.id,
    ]
    await server.close()


async def test_what_was_never_whole_is_swept_at_start(
    settings: Settings, engine: ScriptedEngine
) -> None:
    half = settings.data / "runs" / IdSource().run_id() / "attachments"
    await asyncio.to_thread(half.mkdir, parents=True)
    server = await served(settings, engine)
    await eventually(lambda: not half.parent.exists())
    await server.close()


@pytest.mark.parametrize("steps", [[{"exit": 3, "message": "no luck"}]])
async def test_the_first_word_of_the_engine_is_the_reason(
    settings: Settings, clock: ManualClock, steps: list[dict[str, Any]]
) -> None:
    server = await served(settings, ScriptedEngine(clock))
    run = await ended(runs_of(server), await submit_scripted(runs_of(server), *steps))
    assert run.failure is not None
    assert (run.failure.message, run.exit_code) == ("no luck", 3)
    await server.close()
