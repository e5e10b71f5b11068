"""A WES server with a fault: wesemu with the scripted engine, whose answers a middleware changes.

`Replay` applies a fault to answers that were recorded once, because a whole run takes long.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from support.scripted import START
from yarl import URL

from wesemu.api.wes.models import PREFIX
from wesemu.app import create_app
from wesemu.conformance.checks import CheckOutcome, Report, examine
from wesemu.conformance.probe import Answer
from wesemu.runs.clock import ManualClock
from wesemu.runs.ports import LaunchRequest
from wesemu.settings import AuthSettings, Settings
from wesemu.testing.fake_engine import Script, ScriptedEngine

TOKEN = "secret-a"


def play(job: LaunchRequest) -> Script:
    """The own workflow of the checks. One that sleeps waits until it is canceled."""
    if job.config["seconds"]:
        return [{"task": "write"}, {"wait": "never"}]
    return [{"task": "write"}, {"task": "copy"}, {"write": "copied.txt", "text": "hello\n"}]


def engine_of(clock: ManualClock) -> ScriptedEngine:
    types = {"SMK": ("9.27.1",)}
    return ScriptedEngine(clock, name="snakemake", script=play, workflow_types=types)


@pytest.fixture
def engine(clock: ManualClock) -> ScriptedEngine:
    return engine_of(clock)


@dataclass
class Exchange:
    """A request and its answer, which a fault may change. `runs` are the ids of accepted runs."""

    method: str
    path: str
    query: dict[str, str]
    has_token: bool
    runs: Sequence[str]
    seen: Counter[str]
    status: int = 0
    body: Any = None
    media_type: str = "application/json"

    def is_call(self, method: str, path: str) -> bool:
        """Whether it is a call of an operation; `path` is a regular expression below the root."""
        return self.method == method and re.fullmatch(path, self.path) is not None

    def count(self, key: str) -> int:
        """Count calls by a key, from 1."""
        self.seen[key] += 1
        return self.seen[key]

    def answer(self, status: int, **body: Any) -> None:
        self.status, self.body = status, body


Fault = Callable[[Exchange], None]


@dataclass
class Recording:
    """Answers by request, in their order: status, media type, JSON or text."""

    url: str = ""
    answers: dict[str, list[tuple[int, str, Any]]] = field(default_factory=dict)


class FaultyServer:
    """A server whose answers pass through `fault`. `before` may change the query of a request."""

    def __init__(self) -> None:
        self.url = ""
        self.fault: Fault = lambda exchange: None
        self.before: Fault = lambda exchange: None
        self.recording = Recording()
        self._runs: list[str] = []
        self._seen: Counter[str] = Counter()

    async def examine(self, version: str = "1.1.0", **options: Any) -> Report:
        options = {"workflow_type": "SMK", "seconds": 20.0} | options
        return await examine(f"{self.url}{version}{PREFIX}", **options)

    async def handle(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        exchange = Exchange(
            request.method,
            request.path.partition(PREFIX)[2],
            dict(request.query),
            "Authorization" in request.headers,
            self._runs,
            self._seen,
        )
        self.before(exchange)
        if exchange.query != request.query:
            request = request.clone(rel_url=request.rel_url.with_query(exchange.query))
        response = await handler(request)
        recorded = self.recording.answers.setdefault(key_of(exchange), [])
        if not isinstance(response, web.Response) or response.content_type != "application/json":
            recorded.append((response.status, response.content_type, ""))
            return response
        exchange.status, exchange.body = response.status, json.loads(response.text or "")
        recorded.append((response.status, response.content_type, deepcopy(exchange.body)))
        if exchange.is_call("POST", "/runs") and response.status == 200:
            self._runs.append(exchange.body["run_id"])
        self.fault(exchange)
        text = json.dumps(exchange.body)
        return web.Response(text=text, status=exchange.status, content_type=exchange.media_type)


def key_of(exchange: Exchange) -> str:
    query = "&".join(f"{key}={value}" for key, value in exchange.query.items())
    return f"{exchange.method} {exchange.path}?{query}"


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[FaultyServer]:
    faulty = FaultyServer()

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        return await faulty.handle(request, handler)

    app.middlewares.insert(0, middleware)
    async with TestServer(app) as server:
        faulty.url = faulty.recording.url = str(server.make_url("/"))
        yield faulty


@pytest.fixture
async def server(app: web.Application) -> AsyncIterator[FaultyServer]:
    async with running(app) as server:
        yield server


@pytest.fixture
async def server_with_tokens(
    settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> AsyncIterator[FaultyServer]:
    auth = AuthSettings.model_validate({"tokens": {TOKEN: "local"}})
    workflows = settings.workflows.model_copy(update={"owners": ("local",)})
    settings = settings.model_copy(update={"auth": auth, "workflows": workflows})
    async with running(await create_app(settings, clock=clock, engines=[engine])) as server:
        yield server


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A conformance run against wesemu that found no fault."""

    async def record() -> Recording:
        clock = ManualClock(START)
        settings = Settings(data=tmp_path_factory.mktemp("data"))
        app = await create_app(settings, clock=clock, engines=[engine_of(clock)])
        async with running(app) as server:
            assert reasons(await server.examine()) == {}
            return server.recording

    return asyncio.run(record())


class Replay:
    """Stands for a Probe: the recorded answers, each changed by a fault."""

    given_up = False

    def __init__(self, recording: Recording, fault: Fault) -> None:
        self.base = URL(f"{recording.url}1.1.0{PREFIX}")
        self.answers: list[Answer] = []
        self._recording = recording
        self._fault = fault
        self._runs: list[str] = []
        self._seen: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()

    async def ask(self, method: str, *path: str, query: Any = None, **_: Any) -> Answer:
        await asyncio.sleep(0)
        answer = self._answer(method, "/" + "/".join(path), query or {})
        self.answers.append(answer)
        return answer

    async def fetch(self, url: str) -> Answer:
        if not url.startswith(str(self.base)):
            return Answer(f"GET {url}", problem="no such server")
        return self._answer("GET", url.removeprefix(str(self.base)), {})

    def _answer(self, method: str, path: str, query: dict[str, str]) -> Answer:
        exchange = Exchange(method, path, query, False, self._runs, self._seen)
        key = key_of(exchange)
        recorded = self._recording.answers[key]
        number = min(self._sent[key], len(recorded) - 1)
        self._sent[key] += 1
        exchange.status, exchange.media_type, exchange.body = deepcopy(recorded[number])
        if exchange.is_call("POST", "/runs") and exchange.status == 200:
            self._runs.append(exchange.body["run_id"])
        self._fault(exchange)
        body, problem = exchange.body, None
        if isinstance(body, str):
            body, problem = None, "the answer is not JSON"
        text = json.dumps(exchange.body)
        return Answer(key, exchange.status, exchange.media_type, text, body, problem)


def ids(report: Report, outcome: CheckOutcome) -> set[str]:
    return {result.check.id for result in report.results if result.outcome is outcome}


def reasons(report: Report) -> dict[str, str]:
    failed = [result for result in report.results if result.outcome is CheckOutcome.FAIL]
    return {result.check.id: f"{result.reason}: {result.exchange}" for result in failed}
