"""Resets restore the state of a new server; seeds determine the ids."""

import asyncio
from pathlib import Path

from api.admin.conftest import Client, Control
from api.admin.test_faults import asked, ended

from wesemu.runs.model import LOCAL_OWNER, Owner, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine


async def test_everything_of_everybody_is_cancelled_and_forgotten(
    control: Control, runs: RunService, settings: Settings
) -> None:
    done = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    owners = [LOCAL_OWNER, Owner("somebody")]
    waiting = [await runs.submit(owner, asked(f"wait-{owner}")) for owner in owners]
    told = await control("reset", {})
    assert told == {"runs": 3, "buckets": False}
    for owner in owners:
        assert (await runs.page(owner, size=10)).runs == ()
        assert set((await runs.state_counts(owner)).values()) == {0}
    assert list((settings.data / "runs").iterdir()) == []
    assert not runs.workspace(waiting[0]).root.exists()
    assert done.outputs
    assert (settings.data / "buckets/genes/out/a.bam").is_file()
    again = await ended(runs, await runs.submit(LOCAL_OWNER, asked("b")))
    assert again.state is RunState.COMPLETE


async def test_buckets_are_wiped_only_where_that_is_asked_for(
    control: Control, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "reads.fq").write_text("mine")
    buckets = settings.data / "buckets"
    (buckets / "linked").symlink_to(elsewhere)
    await control("reset", {})
    assert {entry.name for entry in buckets.iterdir()} == {"genes", "linked"}
    await control("reset", {"buckets": True})
    assert list(buckets.iterdir()) == []
    assert (elsewhere / "reads.fq").read_text() == "mine"


async def test_what_is_no_run_and_no_bucket_is_left_alone(
    control: Control, settings: Settings, client: Client
) -> None:
    sequencer = settings.data / "runs" / "240101_NB501"
    notes = settings.data / "buckets" / "My Notes"
    for folder in (sequencer, notes):
        folder.mkdir(parents=True)
        (folder / "file").write_text("mine")
    await control("reset", {"buckets": True})
    assert (sequencer / "file").is_file()
    assert [entry.name for entry in notes.parent.iterdir()] == ["My Notes"]
    assert (notes / "file").is_file()


async def test_faults_and_speed_are_as_at_the_start(control: Control) -> None:
    await control("faults", {"operation": "ListRuns", "status": 500})
    await control("faults", {"next_run": {"fails_at_task": 1}})
    await control("clock", {"speed": 600}, method="PUT")
    before = (await control("clock/advance", {"hours": 1}))["now"]
    await control("reset", {})
    assert (await control("faults"))["faults"] == []
    clock = await control("clock")
    assert (clock["speed"], clock["now"]) == (1, before)


async def test_other_requests_wait_meanwhile(
    client: Client, control: Control, runs: RunService, engine: ScriptedEngine
) -> None:
    run = await runs.submit(LOCAL_OWNER, asked("wait-a"))
    async for seen in runs.follow(LOCAL_OWNER, run.id):
        if seen.state is RunState.RUNNING:
            break
    reset = asyncio.create_task(control("reset", {}))
    async for seen in runs.follow(LOCAL_OWNER, run.id):
        if seen.state is RunState.CANCELING:
            break
    listed = asyncio.create_task(client.get("/ga4gh/wes/v1/runs"))
    assert (await control("health"))["status"] == "ok"
    response = await listed
    assert reset.done()
    assert (await response.json())["runs"] == []


async def test_a_seed_makes_ids_known_beforehand(
    client: Client, control: Control, runs: RunService
) -> None:
    seen = []
    for _ in range(2):
        await control("reset", {})
        assert await control("seed", {"seed": 42}) == {"seed": 42}
        await client.get("/gs/workflows")
        run = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
        seen.append((run.id, run.handle))
    assert seen[0] == seen[1]
    await control("seed", {"seed": 42})
    other = await runs.submit(LOCAL_OWNER, asked("b"))
    assert other.id != seen[0][0]
    await control("seed", {"seed": None})
    await control("seed", {}, status=400)
