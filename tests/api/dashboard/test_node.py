"""The pages of the node: GPUs and leases with their runs, queue, history and storage."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api.dashboard.conftest import LOCAL, Client, Read, Submit
from support.leases import release

from wesemu.dashboard import node
from wesemu.dashboard.node import _history
from wesemu.engines.leases import LeaseClient, LeasesClosed
from wesemu.runs.model import Owner, Resources, Run, RunState
from wesemu.runs.ports import QueuePriority
from wesemu.runs.queries import LeasedCores
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    gpus = [{"index": 0, "name": "H200", "memory_mb": 143771}, {"index": 3, "name": "H200"}]
    changed = settings.model_copy(deep=True)
    return Settings.model_validate(
        changed.model_dump() | {"node": settings.node.model_dump() | {"gpus": gpus}}
    )


async def client_of(settings: Settings, run: Run) -> LeaseClient:
    priority = QueuePriority(settings.data / "leases", run.service_level.rank, run.sequence)
    return await asyncio.to_thread(LeaseClient, priority)


async def running(submit: Submit, runs: RunService, **more: Any) -> Run:
    owner = more.get("owner", LOCAL)
    run = await submit([{"wait": "gate"}], wait=False, **more)
    async for latest in runs.follow(owner, run.id):
        if latest.state is RunState.RUNNING:
            return latest
    raise AssertionError("the run has ended")


async def test_gpus_leases_and_queue_name_their_runs_and_reasons(
    read: Read, submit: Submit, runs: RunService, settings: Settings, engine: ScriptedEngine
) -> None:
    run = await running(submit, runs)
    queued = [await submit(wait=False) for _ in range(2)]
    client = await client_of(settings, run)
    lease = await asyncio.to_thread(client.take, Resources(cores=1, memory_mb=100, gpus=1))
    waiting = asyncio.create_task(asyncio.to_thread(client.take, Resources(cores=2, gpus=2)))
    try:
        while len((page := json.loads(await read("/ui/node.json")))["leases"]) < 2:
            await asyncio.sleep(0)
        text = await read("/ui/node")
    finally:
        client.close()
        with pytest.raises(LeasesClosed):
            await waiting
        await release(lease)
        engine.release("gate")
    named = {"id": run.id, "name": run.handle}
    assert [(gpu["index"], gpu["runs"]) for gpu in page["gpus"]] == [(0, [named]), (3, [])]
    held, other = page["leases"]
    assert (held["run"], held["devices"], held["held"]) == (named, [0], True)
    assert other["reason"] == "needs 2 cores (1 free), 2 GPUs (1 free)"
    assert [(each["run"]["id"], each["reason"]) for each in page["queued"]] == [
        (queued[0].id, "all places for its level are taken (1 at a time)"),
        (queued[1].id, "1 run is before it"),
    ]
    assert "H200" in text
    assert other["reason"] in text


async def test_leases_have_names_also_if_there_are_more_than_the_page_shows(
    read: Read,
    submit: Submit,
    runs: RunService,
    settings: Settings,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node, "_MOST_LEASES", 1)
    holders = [await running(submit, runs), await submit(wait=False)]
    clients = [await client_of(settings, run) for run in holders]
    leases = [
        await asyncio.to_thread(client.take, Resources(cores=1, memory_mb=100, gpus=1))
        for client in clients
    ]
    try:
        page = json.loads(await read("/ui/node.json"))
    finally:
        for client, lease in zip(clients, leases, strict=True):
            await release(lease)
            client.close()
        engine.release("gate")
    assert [run["id"] for gpu in page["gpus"] for run in gpu["runs"]] == [run.id for run in holders]
    assert (len(page["leases"]), page["left_out"]) == (1, 1)


class TestOfTwoOwners:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        settings.auth.tokens = {"alice-token": "alice", "bob-token": "bob"}
        settings.workflows.owners = ["*"]
        return settings

    async def test_runs_of_other_owners_have_no_name(
        self,
        client: Client,
        submit: Submit,
        runs: RunService,
        settings: Settings,
        engine: ScriptedEngine,
    ) -> None:
        run = await running(submit, runs, owner=Owner("alice"), headers=ALICE)
        queued = await submit(wait=False, owner=Owner("alice"), headers=ALICE)
        leases = await client_of(settings, run)
        lease = await asyncio.to_thread(leases.take, Resources(cores=1, gpus=1))
        for path in ("/ui/node", "/ui/node.json", "/ui/node/storage", "/ui/node/storage.json"):
            async with client.get(path, headers=BOB) as response:
                assert response.status == 200
                text = await response.text()
            for each in (run, queued):
                assert each.id not in text
                assert each.handle not in text
        async with client.get("/ui/node.json", headers=BOB) as response:
            page = await response.json()
        assert page["leases"][0]["run"]["name"] == "another owner's run"
        await release(lease)
        engine.release("gate")


async def test_the_storage_page_lists_the_largest_runs(read: Read, submit: Submit) -> None:
    await submit()
    large = await submit([{"write": "results/a.txt", "text": "x" * 200_000}])
    page = json.loads(await read("/ui/node/storage.json"))
    assert page["largest"][0]["id"] == large.id
    assert page["largest"][0]["bytes"] >= 200_000
    assert (page["measured"], page["complete"]) == (2, True)
    assert page["references"] == []
    assert "wesemu reference add" in await read("/ui/node/storage")


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_the_history_is_the_mean_of_the_leased_cores() -> None:
    long, minute = timedelta(hours=30), timedelta(minutes=1)
    leases = [
        LeasedCores(NOW - long, NOW - long + minute, 2),  # too early
        LeasedCores(NOW - timedelta(hours=12), NOW - timedelta(hours=11, minutes=45), 2),
        LeasedCores(NOW - 15 * minute, None, 1),
    ]
    history: Any = _history(leases, 2, NOW)
    assert (history["seconds"], len(history["shares"])) == (1800, 48)
    assert {n: share for n, share in enumerate(history["shares"]) if share} == {24: 0.5, 47: 0.25}


def test_a_history_without_tasks_is_none() -> None:
    assert _history([], 2, NOW) is None
    old = LeasedCores(NOW - timedelta(days=3), NOW - timedelta(days=2), 2)
    assert _history([old], 2, NOW) is None
