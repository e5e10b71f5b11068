"""While another program locks the index, runs wait and requests get an error; nothing is lost."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient
from structlog.testing import capture_logs
from support.scripted import script_of
from support.waiting import eventually
from unit.runs.test_service import ended, mapping, until

from wesemu.app import RUNS, create_app
from wesemu.errors import IndexLocked
from wesemu.runs import database as database_module
from wesemu.runs import disk_full as disk_full_module
from wesemu.runs import supervisor as supervisor_module
from wesemu.runs.clock import ManualClock
from wesemu.runs.database import Database
from wesemu.runs.model import LOCAL_OWNER, Owner, RunState
from wesemu.runs.ports import Execution, LaunchRequest
from wesemu.runs.store import Head, RunStore
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def locked(index: Path) -> AsyncIterator[None]:
    """Let another program write to the index while the context is open."""
    other = await asyncio.to_thread(sqlite3.connect, index, check_same_thread=False)
    await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        await asyncio.to_thread(other.close)


class HeldEngine(ScriptedEngine):
    """Holds each launch until `launched` is set."""

    launched: asyncio.Event

    async def launch(self, job: LaunchRequest) -> Execution:  # type: ignore[override]
        await self.launched.wait()
        return await super().launch(job)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_BUSY_MILLISECONDS", 0)
    monkeypatch.setattr(disk_full_module, "_RETRY_SECONDS", 0.01)


@pytest.fixture
async def client(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock, engine: HeldEngine
) -> Client:
    return await aiohttp_client(await create_app(settings, clock=clock, engines=[engine]))


@pytest.fixture
def engine(clock: ManualClock) -> HeldEngine:
    engine = HeldEngine(clock, name="snakemake", script=script_of, workflow_types={"SMK": ("9",)})
    engine.launched = asyncio.Event()
    return engine


async def test_a_run_that_starts_waits_and_requests_are_refused(
    client: Client, settings: Settings, engine: HeldEngine
) -> None:
    runs = client.app[RUNS]  # type: ignore[index]
    run = await runs.submit(LOCAL_OWNER, mapping())
    await until(runs, run, RunState.INITIALIZING)
    with capture_logs() as logs:
        async with locked(settings.data / "wesemu.db"):
            engine.launched.set()
            await eventually(lambda: any(log["event"] == "index waits" for log in logs))
            address = f"/ga4gh/wes/v1/runs/{run.id}"
            assert (await (await client.get(address)).json())["state"] == "INITIALIZING"
            response = await client.post(f"{address}/cancel")
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert "another program, such as a backup" in (await response.json())["msg"]
        assert (await ended(runs, run)).state is RunState.COMPLETE
    assert engine.launches == 1
    assert not any("exc_info" in log for log in logs)


async def test_the_end_of_a_canceled_run_waits(
    client: Client, settings: Settings, engine: HeldEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.launched.set()
    runs = client.app[RUNS]  # type: ignore[index]
    run = await runs.submit(LOCAL_OWNER, mapping("wait-a"))
    await until(runs, run, RunState.RUNNING)
    (execution,) = engine._launched.values()
    cancel, is_locked = execution.cancel, asyncio.Event()

    async def cancel_when_locked() -> None:
        await is_locked.wait()
        await cancel()

    monkeypatch.setattr(execution, "cancel", cancel_when_locked)
    with capture_logs() as logs:
        await runs.cancel(LOCAL_OWNER, run.id)
        async with locked(settings.data / "wesemu.db"):
            is_locked.set()
            await eventually(lambda: any(log["event"] == "index waits" for log in logs))
            assert (await runs.get(LOCAL_OWNER, run.id)).state is RunState.CANCELING
        assert (await ended(runs, run)).state is RunState.CANCELED


async def test_a_run_whose_state_cannot_be_read_is_resumed(
    client: Client, engine: HeldEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_RESUME_PAUSE_SECONDS", 0)
    engine.launched.set()
    runs = client.app[RUNS]  # type: ignore[index]
    run = await runs.submit(LOCAL_OWNER, mapping("wait-a"))
    await until(runs, run, RunState.RUNNING)
    head, failures = RunStore.head, [IndexLocked("a backup")]

    async def locked_once(store: RunStore, run_id: str) -> tuple[Owner, Head]:
        if failures:
            raise failures.pop()
        return await head(store, run_id)

    monkeypatch.setattr(RunStore, "head", locked_once)
    engine.release("wait-a")
    assert (await ended(runs, run)).state is RunState.COMPLETE
    assert failures == []


async def test_writes_that_wait_for_a_write_fail_with_it(tmp_path: Path) -> None:
    """Otherwise each of a hundred requests would hold the next one up for 5 s."""
    database = await Database.open(tmp_path / "index.db")
    async with locked(tmp_path / "index.db"):
        writes = [database.write("DELETE FROM callbacks", {}) for _ in range(5)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(result, IndexLocked) for result in results)
        assert database.writes == 1
    await database.write("DELETE FROM callbacks", {})
    await database.close()
