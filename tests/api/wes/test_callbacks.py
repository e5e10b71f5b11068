"""Callbacks: every state, in order, signed, repeated after failures."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from api.wes.fixtures import Client, fetch
from support.scripted import START
from support.waiting import eventually

from wesemu.runs.clock import WallClock
from wesemu.runs.model import LOCAL_OWNER, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore
from wesemu.runs.webhooks import Callbacks, Message, signature
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine
from wesemu.util.ssrf import AddressGuard

RUNS = "/ga4gh/wes/v1/runs"
LOOPBACK = [ip_network("127.0.0.0/8")]
SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()


@dataclass
class Receiver:
    """Answers with `statuses` one after the other, then with 200; as soon as it `answers`."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        await self.answers.wait()
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    @property
    def states(self) -> list[str]:
        return [body.decode().rpartition('"state":"')[2].partition('"')[0] for _, body in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    told = Receiver()
    told.answers.set()
    app = web.Application()
    app.router.add_post("/hook", told.take)
    async with TestServer(app) as server:
        told.url = str(server.make_url("/hook"))
        yield told


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    store = await RunStore.open(tmp_path / "index.db")
    yield store
    await store.close()


@asynccontextmanager
async def sending(
    store: RunStore, delays: tuple[float, ...] = (0.01, 0.01), networks: Any = LOOPBACK
) -> AsyncIterator[Callbacks]:
    callbacks = Callbacks(
        store.outbox, AddressGuard(networks), WallClock(), secret=SECRET, delays=delays
    )
    store.watch(callbacks.moved)
    await callbacks.start()
    try:
        yield callbacks
    finally:
        await callbacks.close()


async def insert(store: RunStore, url: str, name: str = "a") -> RunId:
    run = Run(
        id=RunId(f"id-{name}"),
        sequence=0,
        handle=name,
        owner=LOCAL_OWNER,
        state=RunState.QUEUED,
        workflow="",
        service_level=ServiceLevel.SILVER,
        request=RunRequest("x", callback_url=url),
        resources=Resources(),
        created=START,
    )
    return (await store.insert(run)).id


async def live(store: RunStore, run_id: RunId) -> None:
    for state in (RunState.INITIALIZING, RunState.RUNNING, RunState.COMPLETE):
        await store.move(run_id, state)


def emptied(store: RunStore) -> Callable[[], Awaitable[bool]]:
    return emptied_by(store.outbox.waiting)


def emptied_by(
    waiting: Callable[[int], Awaitable[list[Message]]],
) -> Callable[[], Awaitable[bool]]:
    async def empty() -> bool:
        return await waiting(9) == []

    return empty


STATES = ["INITIALIZING", "RUNNING", "COMPLETE"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    more = {"callbacks": {"secret": SECRET, "networks": ["127.0.0.0/8"]}}
    return Settings.model_validate(settings.model_dump() | more)


async def test_every_state_is_posted_signed_and_in_order(
    client: Client, receiver: Receiver, engine: ScriptedEngine
) -> None:
    reads = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
    body = {
        "workflow_url": "mapping",
        "workflow_params": {"reads": [reads], "reference": "oss://genes/reference/tiny"},
        "workflow_engine_parameters": {"callback_url": receiver.url, "cores": "1"},
    }
    async with client.post(RUNS, json=body) as answer:
        run_id = (await answer.json())["run_id"]
    await eventually(lambda: len(receiver.got) == 3)
    assert receiver.states == STATES
    log = await fetch(client, f"{RUNS}/{run_id}")
    assert log["request"]["workflow_engine_parameters"] == body["workflow_engine_parameters"]
    for headers, content in receiver.got:
        message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signed = f"{message_id}.{timestamp}.".encode() + content
        digest = hmac.digest(b"s" * 24, signed, hashlib.sha256)
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
        assert headers["Content-Type"] == "application/json"
        assert run_id.encode() in content


async def test_the_signature_is_the_standards_own_example() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    told = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert told == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_what_fails_is_sent_again_before_what_follows(
    store: RunStore, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302]
    async with sending(store):
        await live(store, await insert(store, receiver.url))
        await eventually(emptied(store))
    assert receiver.states == ["INITIALIZING", "INITIALIZING", *STATES]
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert len(set(ids[:3])) == 1
    assert len(set(ids)) == 3


async def test_a_message_is_given_up_in_the_end(store: RunStore, receiver: Receiver) -> None:
    receiver.statuses = [500, 500, 500, 410]
    async with sending(store):
        await live(store, await insert(store, receiver.url))
        await eventually(emptied(store))
    assert receiver.states == ["INITIALIZING"] * 3 + ["RUNNING", "COMPLETE"]


async def test_what_was_not_sent_is_sent_after_a_restart(
    store: RunStore, receiver: Receiver
) -> None:
    await live(store, await insert(store, receiver.url))
    async with sending(store):
        await eventually(emptied(store))
    assert receiver.states == STATES


async def test_a_clock_that_was_set_back_delays_no_callback(
    store: RunStore, receiver: Receiver
) -> None:
    await live(store, await insert(store, receiver.url))
    [message] = await store.outbox.waiting(9)
    await store.outbox.postpone(message, time.time() + 86_400)
    async with sending(store):
        await eventually(emptied(store))
    assert receiver.states == STATES


async def test_one_receiver_that_is_down_delays_no_other(
    store: RunStore, receiver: Receiver
) -> None:
    async with sending(store, delays=(60.0,)):
        await live(store, await insert(store, "http://127.0.0.1:1/", "down"))
        await live(store, await insert(store, receiver.url, "up"))
        await eventually(lambda: receiver.states == STATES)

        async def only_the_other_waits() -> bool:
            return [message.run_id for message in await store.outbox.waiting(9)] == ["id-down"]

        await eventually(only_the_other_waits)


async def test_what_arrives_while_the_index_is_read_is_not_sent_again(
    store: RunStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = store.outbox.waiting
    on_its_way, arrived = asyncio.Event(), asyncio.Event()

    async def read_before_it_arrives(limit: int) -> list[Message]:
        found = await read(limit)
        if on_its_way.is_set() and not receiver.answers.is_set():
            receiver.answers.set()
            await eventually(emptied_by(read))
            arrived.set()
        return found

    monkeypatch.setattr(store.outbox, "waiting", read_before_it_arrives)
    receiver.answers.clear()
    async with sending(store) as callbacks:
        run_id = await insert(store, receiver.url)
        run = await store.move(run_id, RunState.INITIALIZING)
        await eventually(lambda: len(receiver.got) == 1)
        on_its_way.set()
        callbacks.moved(run)
        await eventually(arrived.is_set)
        await store.move(run_id, RunState.RUNNING)
        await eventually(lambda: receiver.states[-1:] == ["RUNNING"])
    assert receiver.states == ["INITIALIZING", "RUNNING"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_private_address_is_never_called(
    store: RunStore, receiver: Receiver, host: str
) -> None:
    url = receiver.url.replace("127.0.0.1", host)
    async with sending(store, delays=(60.0,), networks=()):
        await live(store, await insert(store, url))
        await eventually(emptied(store))
    assert receiver.got == []


async def test_a_callback_url_that_leads_nowhere_good_is_400(client: Client) -> None:
    body: dict[str, Any] = {"workflow_url": "mapping", "workflow_params": {}}
    for url in ("http://10.0.0.1/", "ftp://example.org/", "x"):
        body["workflow_engine_parameters"] = {"callback_url": url}
        async with client.post(RUNS, json=body) as answer:
            assert answer.status == 400
            assert "callback_url" in (await answer.json())["msg"]


async def test_a_server_without_callbacks_says_so(wes: Client) -> None:
    body = {"workflow_url": "mapping", "workflow_engine_parameters": {"callback_url": "http://a/"}}
    async with wes.post(RUNS, json=body) as answer:
        assert answer.status == 400
        assert "sends no callbacks" in (await answer.json())["msg"]
