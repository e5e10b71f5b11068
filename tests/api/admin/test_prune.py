"""Old runs are removed on request, and by the setting `retention.days`."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from api.admin.conftest import Client, Control
from api.admin.test_faults import asked, ended
from structlog.testing import capture_logs
from support.remove_tree import remove_tree
from support.waiting import eventually

from wesemu.app import RUNS, create_app
from wesemu.errors import RunNotFound
from wesemu.runs import retention
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Owner, Run
from wesemu.runs.run_directory import tree_size
from wesemu.runs.service import RunService
from wesemu.settings import RetentionSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine


async def age(runs: RunService, run: Run, days: float) -> None:
    """Let a run's end lie so long ago, once its directory tells it."""
    ended_at = time.time() - timedelta(days=days).total_seconds()
    state = runs.workspace(run).state
    await eventually(state.exists)
    os.utime(state, (ended_at, ended_at))


async def test_runs_that_ended_long_ago_are_removed(
    control: Control, runs: RunService, settings: Settings
) -> None:
    old = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    theirs = await runs.submit(Owner("somebody"), asked("b"))
    async for _ in runs.follow(theirs.owner, theirs.id):
        pass
    recent = await ended(runs, await runs.submit(LOCAL_OWNER, asked("c")))
    active = await runs.submit(LOCAL_OWNER, asked("wait-d"))
    for run in (old, theirs):
        await age(runs, run, 31)
    stranger = settings.data / "runs" / "notes"
    stranger.mkdir()

    body = {"older_than_days": 30, "dry_run": True}
    would = await control("prune", body)
    assert would["runs"] == 2
    assert runs.workspace(old).root.exists()

    assert await control("prune", {"older_than_days": 30}) == would
    for run in (old, theirs):
        assert not runs.workspace(run).root.exists()
        with pytest.raises(RunNotFound):
            await runs.get(run.owner, run.id)
    assert (settings.data / "buckets/genes/out/a.bam").is_file()
    assert (await runs.get(LOCAL_OWNER, recent.id)).state.ended
    assert (await runs.get(LOCAL_OWNER, active.id)).state.active
    assert stranger.is_dir()


async def test_outputs_and_records_may_stay(control: Control, runs: RunService) -> None:
    run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    await age(runs, run, 2)
    (runs.workspace(run).work / "scratch").write_bytes(b"x" * 100_000)
    pruned = await control("prune", {"older_than_days": 1, "keep_outputs": True})
    assert pruned["runs"] == 1
    assert pruned["freed_bytes"] >= 100_000
    assert not runs.workspace(run).work.exists()
    assert (await runs.get(LOCAL_OWNER, run.id)).outputs == run.outputs
    assert runs.workspace(run).request.is_file()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"older_than_days": -1},
        {"older_than_days": "30"},
        {"older_than_days": 1e300},
        {"older_than_days": 1, "dry_run": "no"},
        {"older_than_days": 1, "outputs": True},
    ],
)
async def test_a_wrong_body_prunes_nothing(
    control: Control, runs: RunService, body: dict[str, object]
) -> None:
    run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    await age(runs, run, 1000)
    await control("prune", body, status=400)
    assert (await runs.get(LOCAL_OWNER, run.id)).state.ended


Restart = Callable[[Sequence[float]], Awaitable[list[Path]]]


@pytest.fixture
async def restart(
    settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> AsyncIterator[Restart]:
    """Return a function that makes runs that ended so many days ago, starts a server with
    `retention.days = 7`, and returns the directories of the runs."""
    async with AsyncExitStack() as servers:

        async def act(ages: Sequence[float]) -> list[Path]:
            first = TestServer(await create_app(settings, engines=[engine], clock=clock))
            await first.start_server()
            runs: RunService = first.app[RUNS]
            made = [await runs.submit(LOCAL_OWNER, asked("a")) for _ in ages]
            for run, days in zip(made, ages, strict=True):
                await age(runs, await ended(runs, run), days)
            await first.close()
            kept = settings.model_copy(update={"retention": RetentionSettings(days=7)})
            app = await create_app(kept, engines=[engine], clock=clock)
            server = TestServer(app)
            servers.push_async_callback(server.close)
            await server.start_server()
            return [runs.workspace(run).root for run in made]

        yield act


async def test_the_setting_prunes_when_the_server_starts(restart: Restart) -> None:
    old, recent = await restart([8, 6])
    await eventually(lambda: not old.exists())
    assert recent.exists()


async def test_a_clock_that_makes_all_runs_old_prunes_none_at_once(restart: Restart) -> None:
    with capture_logs() as logs:
        # the last one ended at the doubtful time: its end lies after the start of the server
        folders = await restart([8, 9, -1])
        await eventually(lambda: any("clock" in str(entry["event"]) for entry in logs))
    assert all(folder.exists() for folder in folders)


async def test_when_the_doubt_is_over_old_runs_are_pruned(
    restart: Restart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_HELD_SECONDS", 0)
    (old,) = await restart([8])
    await eventually(lambda: not old.exists())


@pytest.mark.parametrize("path", ["prune", "snapshots", "references?name=tiny", "reset"])
async def test_folders_that_were_removed_are_made_again(
    client: Client, settings: Settings, path: str
) -> None:
    """An administrator may remove `cache/` to free space, while the server runs."""
    for name in ("buckets", "cache", "references", "runs"):
        await asyncio.to_thread(remove_tree, settings.data / name)
    body: dict[str, Any] = {"json": {"older_than_days": 1}} if path == "prune" else {}
    body = {"data": b">chr1\nACGT\n"} if path.startswith("references") else body
    async with client.post(f"/_wesemu/{path}", **body) as answer:
        content = await answer.read()  # whole: a snapshot is a stream
        assert answer.status in (200, 202), content


def test_hard_links_outside_free_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "work").mkdir(parents=True)
    (folder / "outputs").mkdir()
    before = tree_size(folder)
    (folder / "work" / "a").write_bytes(b"x" * 50_000)
    alone = tree_size(folder) - before
    assert alone >= 50_000
    os.link(folder / "work" / "a", folder / "outputs" / "a")
    assert tree_size(folder) - before == alone
    os.link(folder / "work" / "a", tmp_path / "bucket")
    assert tree_size(folder) == before
    (folder / "away").symlink_to("/usr")
    assert tree_size(folder) < before + 50_000
