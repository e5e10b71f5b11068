"""Live updates: the event stream, and pages that many clients refresh."""

import asyncio
import json
from functools import partial

import pytest
from aiohttp import ClientResponse
from api.dashboard.conftest import LOCAL, Client, Read, Submit

from wesemu.dashboard.pages import OncePerSecond
from wesemu.runs.model import RunState
from wesemu.runs.service import RunService
from wesemu.testing.fake_engine import ScriptedEngine

REFRESH = {"X-Wesemu-Refresh": "1"}


async def test_the_stream_sends_each_changed_run_once_a_second(
    client: Client, submit: Submit
) -> None:
    async with client.get("/ui/events") as stream:
        events = [await _event(stream)]
        runs = [await submit([{"task": "align"}]) for _ in range(2)]
        while not {run.id for run in runs} <= {data for _, data in events}:
            events.append(await _event(stream))
    assert events[0] == ("ready", "")
    assert {name for name, _ in events[1:]} == {"run"}
    # both runs had several changes each
    assert len(events) <= 7


async def test_a_refresh_after_an_event_shows_what_it_announced(
    client: Client, submit: Submit
) -> None:
    async with client.get("/ui/events") as stream:
        await _event(stream)
        run = await submit()
        while (await _event(stream))[1] != run.id:
            pass
        for _ in range(2):
            async with client.get("/ui/index.json", headers=REFRESH) as response:
                [row] = json.loads(await response.text())["runs"]
                assert row["id"] == run.id


async def test_equal_work_of_the_same_second_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    seconds = [5.1]
    monkeypatch.setattr(loop, "time", lambda: seconds[0])
    done: list[str] = []

    async def work(name: str) -> int:
        done.append(name)
        return len(done)

    shared = OncePerSecond[int]()
    first = await asyncio.gather(*(shared.get(name, partial(work, name)) for name in "aabb"))
    assert (first, done) == ([1, 1, 2, 2], ["a", "b"])
    seconds[0] = 6.0
    assert await shared.get("a", partial(work, "a")) == 3


async def test_an_active_run_shows_its_progress_and_place(
    read: Read, submit: Submit, engine: ScriptedEngine, runs: RunService
) -> None:
    run = await submit([{"task": "first"}, {"wait": "gate"}, {"task": "second"}], wait=False)
    async for latest in runs.follow(LOCAL, run.id):
        if latest.state is RunState.RUNNING and await runs.tasks(latest):
            break
    tasks = await runs.tasks(run)
    [row] = json.loads(await read("/ui/index.json"))["runs"]
    assert row["progress"] == {"done": 1, "total": len(tasks)}
    assert row["place"] == "cpu"
    assert f"1 of {len(tasks)}" in await read("/ui/")
    engine.release("gate")
    async for _ in runs.follow(LOCAL, run.id):
        pass
    [row] = json.loads(await read("/ui/index.json"))["runs"]
    assert row["progress"] is None


async def _event(stream: ClientResponse) -> tuple[str, str]:
    """Return name and data of the next event; comments are skipped."""
    name = data = ""
    while True:
        line = (await stream.content.readline()).decode().strip()
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data:"):
            data = line[5:].strip()
        elif not line and name:
            return name, data
