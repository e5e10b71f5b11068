"""`GET /runs/{id}/events`: a run's changes as server-sent events, for its owner."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator

import aiohttp
from aiohttp import web
from api.admin.test_faults import asked
from api.wes.fixtures import Client
from pytest_aiohttp import AiohttpClient
from support.waiting import soon

from wesemu.api.base import Event, EventStreams
from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import LOCAL_OWNER, Owner, RunState
from wesemu.runs.service import RunService
from wesemu.settings import AuthSettings, Settings
from wesemu.testing.fake_engine import ScriptedEngine

RUN = "/ga4gh/wes/v1/runs"


async def events(stream: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """The fields of each event, comments left out, until the stream ends."""
    fields: dict[str, str] = {}
    while True:
        async with soon():
            line = (await stream.content.readline()).decode()
        if not line:
            return
        name, _, value = line.rstrip("\n").partition(": ")
        if line == "\n" and fields:
            yield fields
            fields = {}
        elif name and not line.startswith(":"):
            fields[name] = value


async def test_a_run_is_followed_to_its_end(
    client: Client, runs: RunService, engine: ScriptedEngine
) -> None:
    run = await runs.submit(LOCAL_OWNER, asked("wait-a"))
    seen = []
    async with client.get(f"{RUN}/{run.id}/events") as stream:
        assert stream.content_type == "text/event-stream"
        async for event in events(stream):
            assert event["event"] == "run"
            told = json.loads(event["data"])
            assert told["run_id"] == run.id
            seen.append((told["state"], event["id"]))
            if told["state"] == RunState.RUNNING:
                engine.release("wait-a")
    assert seen[-1][0] == RunState.COMPLETE
    assert len({name for _, name in seen}) == len(seen)


async def test_no_event_is_sent_twice(
    client: Client, runs: RunService, engine: ScriptedEngine
) -> None:
    run = await runs.submit(LOCAL_OWNER, asked("wait-a"))
    path = f"{RUN}/{run.id}/events"
    async with client.get(path) as stream:
        async for event in events(stream):
            if json.loads(event["data"])["state"] == RunState.RUNNING:
                break
    engine.release("wait-a")
    async with client.get(path, headers={"Last-Event-ID": event["id"]}) as stream:
        later = [found async for found in events(stream)]
    assert event["data"] not in [found["data"] for found in later]
    assert json.loads(later[-1]["data"])["state"] == RunState.COMPLETE
    async with client.get(path, headers={"Last-Event-ID": later[-1]["id"]}) as stream:
        assert stream.status == 204
    async with client.get(path, headers={"Last-Event-ID": "unknown"}) as stream:
        assert [found["id"] async for found in events(stream)] == [later[-1]["id"]]


async def test_a_stream_ends_when_its_run_is_forgotten(
    client: Client, runs: RunService, engine: ScriptedEngine
) -> None:
    run = await runs.submit(LOCAL_OWNER, asked("wait-a"))
    async with client.get(f"{RUN}/{run.id}/events") as stream:
        found = events(stream)
        assert (await anext(found))["event"] == "run"
        await client.post("/_wesemu/reset")
        names = [event["event"] async for event in found]
    assert names[-1] in ("removed", "run")
    assert (await client.get(f"{RUN}/{run.id}/events")).status == 404


async def test_a_stream_is_its_owner_s(
    aiohttp_client: AiohttpClient, settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> None:
    settings.auth = AuthSettings(tokens={"a-token": "alice", "b-token": "bob"})
    app = await create_app(settings, clock=clock, ids=IdSource(seed=1), engines=[engine])
    client: Client = await aiohttp_client(app)
    run = await app[RUNS].submit(Owner("alice"), asked("wait-a"))
    for token, status in (("a-token", 200), ("b-token", 403), ("c-token", 401)):
        headers = {"Authorization": f"Bearer {token}"}
        async with client.get(f"{RUN}/{run.id}/events", headers=headers) as stream:
            assert stream.status == status


async def test_silence_is_filled_and_a_client_that_goes_is_noticed(
    aiohttp_client: AiohttpClient,
) -> None:
    closed = asyncio.Event()
    streams = EventStreams(heartbeat=0.01)

    async def told() -> AsyncGenerator[Event]:
        try:
            yield Event("run", "1", "one")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await streams.send(request, told())

    app = web.Application()
    app.router.add_get("/", answer)
    client: Client = await aiohttp_client(app)
    async with client.get("/") as stream, soon():
        first = b":\n\nid: one\nevent: run\ndata: 1\n\n"
        assert await stream.content.readexactly(len(first)) == first
        assert await stream.content.readexactly(6) == b":\n\n:\n\n"
    async with soon():
        await closed.wait()
