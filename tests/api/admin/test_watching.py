"""The event stream and the metrics of the control API."""

import asyncio
import errno
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api.admin.conftest import Client, Control
from api.admin.test_faults import asked, ended
from support.waiting import eventually, soon

from wesemu import core
from wesemu.engines.lease_queue import Ticket
from wesemu.engines.leases import LeaseClient
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Resources, RunState, TaskLog, TaskState
from wesemu.runs.ports import QueuePriority
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

_LINE = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')


async def next_change(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    async with soon():
        while True:
            line = (await stream.content.readline()).decode()
            if line.startswith("data: "):
                return dict(json.loads(line.removeprefix("data: ")))


async def test_changes_of_runs_are_streamed(
    client: Client, runs: RunService, engine: ScriptedEngine
) -> None:
    run = await runs.submit(LOCAL_OWNER, asked("wait-a"))
    async with client.get("/_wesemu/events") as stream:
        assert stream.content_type == "text/event-stream"
        told = await next_change(stream)
        assert (told["id"], told["owner"], told["workflow"]) == (run.id, "local", "mapping")
        engine.release("wait-a")
        while told["state"] != RunState.COMPLETE:
            told = await next_change(stream)
        assert told["ended"] is not None
        await runs.remove(LOCAL_OWNER, run.id)
        while told["state"] is not None:
            told = await next_change(stream)
        assert told["id"] == run.id


async def test_a_client_goes_on_where_it_stopped(
    client: Client, runs: RunService, engine: ScriptedEngine
) -> None:
    first = await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    # its task announces the run once more after the end
    await eventually(lambda: f"run {first.id}" not in {t.get_name() for t in asyncio.all_tasks()})
    waiting = await runs.submit(LOCAL_OWNER, asked("wait-b"))
    seen: list[tuple[str, str]] = []
    async with client.get("/_wesemu/events") as stream:
        while not seen or '"RUNNING"' not in seen[-1][1]:
            seen.append(await next_event(stream))
    assert {json.loads(data)["id"] for _, data in seen} == {waiting.id}
    engine.release("wait-b")
    await ended(runs, waiting)
    third = await ended(runs, await runs.submit(LOCAL_OWNER, asked("c")))
    async with client.get("/_wesemu/events", headers={"Last-Event-ID": seen[-1][0]}) as stream:
        found = [await next_event(stream) for _ in range(2)]
    states = {json.loads(data)["id"]: json.loads(data)["state"] for _, data in found}
    assert states == {waiting.id: "COMPLETE", third.id: "COMPLETE"}
    async with client.get("/_wesemu/events", headers={"Last-Event-ID": "another-1"}) as stream:
        await stream.content.readline()
        last = await runs.submit(LOCAL_OWNER, asked("d"))
        told = ""
        while told != last.id:
            told = json.loads((await next_event(stream))[1])["id"]
            assert told != waiting.id


async def test_events_that_look_the_same_are_not_repeated(client: Client, runs: RunService) -> None:
    """Progress and tags ring the bell as well, and are not in these events."""
    async with client.get("/_wesemu/events") as stream:
        for number in range(3):
            await ended(runs, await runs.submit(LOCAL_OWNER, asked(f"a{number}")))
        seen: list[str] = []
        while sum('"COMPLETE"' in data for data in seen) < 3:
            seen.append((await next_event(stream))[1])
    assert len(set(seen)) == len(seen)


async def next_event(stream: aiohttp.ClientResponse) -> tuple[str, str]:
    """Id and data."""
    number = ""
    async with soon():
        while True:
            line = (await stream.content.readline()).decode().rstrip("\n")
            if line.startswith("id: "):
                number = line.removeprefix("id: ")
            if line.startswith("data: "):
                return number, line.removeprefix("data: ")


async def test_the_server_s_end_ends_the_stream(client: Client) -> None:
    async with client.get("/_wesemu/events") as stream:
        await stream.content.readline()
        closing = asyncio.create_task(client.server.close())
        async with soon():
            assert (await stream.content.read()).strip() in (b"", b":")
            await closing


async def test_metrics_are_in_the_text_format_of_prometheus(
    client: Client, control: Control, runs: RunService
) -> None:
    await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    await client.get("/gs/workflow/none")
    response = await client.get("/_wesemu/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = await response.text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(_LINE.fullmatch(line) for line in lines)
    assert 'wesemu_runs{state="COMPLETE"} 1' in lines
    asked_for = 'method="GET",route="/gs/workflow/{name}"'
    assert f'wesemu_http_requests_total{{{asked_for},status="404"}} 1' in lines
    assert f"wesemu_http_request_seconds_count{{{asked_for}}} 1" in lines
    assert "wesemu_clock_speed 1.0" in lines
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert len({name for name, _ in families}) == len(families)


async def figures(client: Client) -> dict[str, float]:
    text = await (await client.get("/_wesemu/metrics")).text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(_LINE.fullmatch(line) for line in lines), lines
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_metrics_tell_of_the_queue_runs_and_the_machine(
    client: Client,
    control: Control,
    runs: RunService,
    engine: ScriptedEngine,
    clock: ManualClock,
    settings: Settings,
) -> None:
    first = await runs.submit(LOCAL_OWNER, asked("wait-a"))
    async with soon():
        async for run in runs.follow(LOCAL_OWNER, first.id):
            if run.state is RunState.RUNNING:
                break
    task = TaskLog("1", "align", TaskState.RUNNING)
    await runs._store.put_tasks(first.id, [task])
    await runs.submit(LOCAL_OWNER, asked("wait-b"))
    clock.advance(timedelta(seconds=90))
    found = await figures(client)
    assert found['wesemu_queue_runs{level="silver"}'] == 1
    assert found['wesemu_queue_oldest_seconds{level="silver"}'] == 90
    assert found['wesemu_queue_runs{level="platinum"}'] == 0
    assert found['wesemu_tasks{state="RUNNING"}'] == 1
    assert found['wesemu_node_resources{resource="cores"}'] == 2
    assert found['wesemu_node_resources{resource="memory"}'] == 4096 << 20
    assert found['wesemu_leased_resources{resource="cores"}'] == 0
    assert 0 < found["wesemu_disk_free_bytes"] <= found["wesemu_disk_total_bytes"]
    assert 0 < found["wesemu_open_files"] < found["wesemu_open_files_limit"]
    blobs = settings.data / "cache/inputs/blobs/ab"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / "cd").write_bytes(b"12345")
    lease_client = LeaseClient(QueuePriority(settings.data / "leases", rank=0, age=1))
    lease = await asyncio.to_thread(lease_client.take, Resources(cores=1))
    found = await figures(client)
    assert found['wesemu_leased_resources{resource="cores"}'] == 1
    assert found["wesemu_cache_bytes"] == 5
    await asyncio.to_thread(lease.release)
    await asyncio.to_thread(lease_client.close)
    assert (await figures(client))['wesemu_leased_resources{resource="cores"}'] == 0


async def test_metrics_without_the_machine_while_a_folder_cannot_be_read(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(leases: Path) -> list[Ticket]:
        raise PermissionError(errno.EACCES, "", str(leases))

    monkeypatch.setattr(core, "live_tickets", refused)
    text = await (await client.get("/_wesemu/metrics")).text()
    assert "wesemu_runs{" in text
    assert "wesemu_disk" not in text


async def test_metrics_count_how_runs_end(
    client: Client, control: Control, runs: RunService, clock: ManualClock
) -> None:
    await ended(runs, await runs.submit(LOCAL_OWNER, asked("a")))
    await control("faults", {"next_run": {"late_minutes": 1}})
    late = await runs.submit(LOCAL_OWNER, asked("b"))
    async with soon():
        async for run in runs.follow(LOCAL_OWNER, late.id):
            if run.counts is not None:
                break
    await control("clock/advance", {"hours": 2})
    await ended(runs, late)
    await control("faults", {"next_run": {"fails_at_task": 1}})
    await ended(runs, await runs.submit(LOCAL_OWNER, asked("c")))
    found = await figures(client)
    assert found['wesemu_run_seconds_count{workflow="mapping",state="COMPLETE"}'] == 2
    assert found['wesemu_run_seconds_count{workflow="mapping",state="EXECUTOR_ERROR"}'] == 1
    bucket = 'wesemu_run_seconds_bucket{workflow="mapping",state="COMPLETE",le="+Inf"}'
    assert found[bucket] == 2
    assert found['wesemu_sla_runs_total{level="silver",result="met"}'] == 1
    assert found['wesemu_sla_runs_total{level="silver",result="missed"}'] == 1
