"""Indexes that are missing, empty, old, damaged or another program's; missing run directories."""

import asyncio
import shlex
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs
from support.scripted import scripted_engine
from support.waiting import eventually
from unit.runs.test_recovery import runs_of, served
from unit.runs.test_service import ended, mapping, until

from wesemu.errors import StoreError
from wesemu.runs.clock import ManualClock
from wesemu.runs.maintenance import drop_missing, rebuild_index
from wesemu.runs.model import LOCAL_OWNER, Run, RunState
from wesemu.runs.store import RunStore
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine


def index_files(settings: Settings) -> list[Path]:
    return [path for path in settings.data.glob("wesemu.db*") if path.suffix != ".reserve"]


async def two_runs(settings: Settings, engine: ScriptedEngine) -> tuple[Run, Run]:
    """One that is complete, one that its server has left to the next one."""
    server = await served(settings, engine)
    runs = runs_of(server)
    done = await ended(runs, await runs.submit(LOCAL_OWNER, mapping("a")))
    waiting = await runs.submit(LOCAL_OWNER, mapping("wait-b"))
    await until(runs, waiting, RunState.RUNNING)
    await server.close()
    return done, waiting


@pytest.mark.parametrize("state", ["missing", "empty", "new", "old"])
async def test_what_the_index_lacks_is_put_back_at_the_start(
    settings: Settings, engine: ScriptedEngine, clock: ManualClock, state: str
) -> None:
    server = await served(settings, engine)
    first = await ended(runs_of(server), await runs_of(server).submit(LOCAL_OWNER, mapping("z")))
    await server.close()
    index = settings.data / "wesemu.db"
    old = await asyncio.to_thread(index.read_bytes)
    done, waiting = await two_runs(settings, engine)
    for path in await asyncio.to_thread(index_files, settings):
        await asyncio.to_thread(path.unlink)
    if state == "empty":
        await asyncio.to_thread(index.touch)
    elif state == "new":
        await (await RunStore.open(index)).close()
    elif state == "old":
        await asyncio.to_thread(index.write_bytes, old)
    fresh = scripted_engine(clock)
    with capture_logs() as logs:
        server = await served(settings, fresh)
        await eventually(lambda: any("the index lacked runs" in entry["event"] for entry in logs))
    runs = runs_of(server)
    assert (await runs.get(LOCAL_OWNER, first.id)).state is RunState.COMPLETE
    assert (await runs.get(LOCAL_OWNER, done.id)).outputs == done.outputs
    fresh.release("wait-b")
    assert (await ended(runs, waiting)).state is RunState.COMPLETE
    assert fresh.launches == 1
    assert len((await runs.page(LOCAL_OWNER, size=9)).runs) == 3
    await server.close()


async def test_a_run_canceled_in_the_queue_is_not_queued_again(
    settings: Settings, engine: ScriptedEngine, clock: ManualClock
) -> None:
    server = await served(settings, engine)
    runs = runs_of(server)
    first = await runs.submit(LOCAL_OWNER, mapping("wait-a"))
    await until(runs, first, RunState.RUNNING)
    queued = await runs.submit(LOCAL_OWNER, mapping("b"))
    canceled = await runs.cancel(LOCAL_OWNER, queued.id)
    await server.close()
    for path in await asyncio.to_thread(index_files, settings):
        await asyncio.to_thread(path.unlink)
    server = await served(settings, scripted_engine(clock))
    assert await runs_of(server).get(LOCAL_OWNER, queued.id) == replace(canceled, sequence=2)
    await server.close()


async def test_an_end_that_an_old_index_does_not_know_is_not_worked_for_again(
    settings: Settings, engine: ScriptedEngine, clock: ManualClock
) -> None:
    _, waiting = await two_runs(settings, engine)
    index = settings.data / "wesemu.db"
    old = await asyncio.to_thread(index.read_bytes)
    fresh = scripted_engine(clock)
    fresh.release("wait-b")
    server = await served(settings, fresh)
    done = await ended(runs_of(server), waiting)
    await server.close()
    await asyncio.to_thread(index.write_bytes, old)
    fresh = scripted_engine(clock)
    server = await served(settings, fresh)
    after = await runs_of(server).get(LOCAL_OWNER, waiting.id)
    assert (after.state, after.ended, after.outputs) == (done.state, done.ended, done.outputs)
    assert fresh.launches == 0
    await server.close()


@pytest.mark.parametrize("content", [b"not a database" * 1000, None])
async def test_a_damaged_index_is_refused_with_what_to_type(
    settings: Settings, engine: ScriptedEngine, content: bytes | None
) -> None:
    data = settings.data.with_name("the user's data")
    settings = settings.model_copy(update={"data": settings.data.rename(data)})
    await two_runs(settings, engine)
    index = settings.data / "wesemu.db"
    whole = await asyncio.to_thread(index.read_bytes)
    damaged = content or whole[:4096] + b"\xff" * (len(whole) - 4096)
    await asyncio.to_thread(index.write_bytes, damaged)
    with pytest.raises(StoreError) as refused:
        await served(settings, engine)
    commands = refused.value.message.partition("(")[2].replace("), then type: ", "; ")
    assert shlex.split(commands) == [
        *("mv", f"{index}", f"{index}.damaged;"),
        *("rm", "-f", f"{index}-wal", f"{index}-shm;"),
        *("wesemu", "rebuild", "--data", f"{data}"),
    ]


async def test_pages_that_are_damaged_later_give_that_sentence(
    settings: Settings, engine: ScriptedEngine
) -> None:
    await two_runs(settings, engine)
    index = settings.data / "wesemu.db"
    store = await RunStore.open(index)
    size = await asyncio.to_thread(lambda: index.stat().st_size)

    def damage() -> None:
        with index.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))

    await asyncio.to_thread(damage)

    async def read() -> None:
        await store.ids()
        await store.tasks("x")
        await store.all_state_counts()

    with pytest.raises(StoreError, match="wesemu rebuild --data"):
        await read()
    await store.close()


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "wesemu.db"

    def make() -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE notes (text)")
        connection.close()

    await asyncio.to_thread(make)
    with pytest.raises(StoreError, match="another program"):
        await RunStore.open(path)


async def test_a_submission_that_was_never_accepted_does_not_come_back(
    settings: Settings, engine: ScriptedEngine
) -> None:
    done, _ = await two_runs(settings, engine)
    source = settings.data / "runs" / done.id
    half = source.with_name("00000000-0000-4000-8000-000000000000")
    await asyncio.to_thread(shutil.copytree, source, half)
    await asyncio.to_thread((half / ".draft").touch)
    server = await served(settings, engine)
    await eventually(lambda: not half.exists())
    assert not list((settings.data / "runs").glob("*/.draft"))
    await server.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 1}', '{"run": {}}', "[" * 100_000])
async def test_an_unreadable_directory_hinders_no_other(
    settings: Settings, engine: ScriptedEngine, text: str
) -> None:
    done, _ = await two_runs(settings, engine)
    broken = settings.data / "runs" / "00000000-0000-4000-8000-000000000000"
    await asyncio.to_thread(broken.mkdir)
    await asyncio.to_thread((broken / "request.json").write_text, text)
    for path in await asyncio.to_thread(index_files, settings):
        await asyncio.to_thread(path.unlink)
    store = await RunStore.open(settings.data / "wesemu.db")
    assert await rebuild_index(store, settings.data / "runs") == 2
    assert (await store.get(done.id)).state is RunState.COMPLETE
    await store.close()
    assert (broken / "request.json").exists()


async def test_runs_whose_directories_are_gone(
    settings: Settings, engine: ScriptedEngine, clock: ManualClock
) -> None:
    done, waiting = await two_runs(settings, engine)
    await asyncio.to_thread(shutil.rmtree, settings.data / "runs" / done.id)
    with capture_logs() as logs:
        server = await served(settings, scripted_engine(clock))
        await eventually(lambda: any("wesemu rebuild" in entry["event"] for entry in logs))
    run = f"ga4gh/wes/v1/runs/{done.id}"
    paths = [f"{run}/{rest}" for rest in ("stdout", "stderr", "outputs/aligned.bam", "ro-crate")]
    whole = [run, f"{run}/status", f"{run}/tasks", f"gs/workflow/mapping-gpu-{done.handle}"]
    tasks = (await runs_of(server).tasks(done))[:1]
    paths += [f"{run}/tasks/{task.id}-{task.attempt}/stderr" for task in tasks]
    async with ClientSession(server.make_url("/")) as session:
        for path in (*paths, *whole):
            async with session.get(f"/{path}") as answer:
                assert answer.status in ((404,) if path in paths else (200, 404)), path
        async with session.delete(f"/{run}?purge=true") as answer:
            assert answer.status == 200
    await server.close()
    await asyncio.to_thread(shutil.rmtree, settings.data / "runs" / waiting.id)
    store = await RunStore.open(settings.data / "wesemu.db")
    assert await drop_missing(store, settings.data / "runs") == 1
    assert await store.ids() == []
    await store.close()
