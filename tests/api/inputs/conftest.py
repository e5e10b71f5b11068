"""A server with the scripted engine and remote inputs and results."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from support.remote_buckets import Side, settings_of
from support.waiting import soon
from unit.storage.origin import origin

from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import LOCAL_OWNER, Run, RunRequest
from wesemu.runs.service import RunService
from wesemu.settings import Settings
from wesemu.testing.fake_engine import ScriptedEngine

__all__ = ["origin", "remote", "serve"]

Serve = Callable[..., Awaitable[RunService]]


@pytest.fixture
async def serve(
    settings: Settings, clock: ManualClock, engine: ScriptedEngine
) -> AsyncIterator[Serve]:
    """Start servers one after the other over one data directory. They may fetch from loopback."""
    async with AsyncExitStack() as running:

        async def serve(**more: Any) -> RunService:
            await running.aclose()
            inputs = {"networks": ["127.0.0.0/8"], **more.pop("inputs", {})}
            values = settings.model_dump() | {"inputs": inputs, **more}
            changed = await asyncio.to_thread(Settings.model_validate, values)
            app = await create_app(changed, clock=clock, engines=[engine])
            server = TestServer(app)
            await server.start_server()
            running.push_async_callback(server.close)
            serve.server = server  # type: ignore[attr-defined]
            return app[RUNS]

        yield serve


@pytest.fixture
def remote(side: Side) -> Mapping[str, Any]:
    """Return the setting that maps the bucket `lab` to the remote bucket."""
    return {"lab": settings_of(side, prefix="p")}


async def ended(runs: RunService, run: Run) -> Run:
    async with soon():
        async for now in runs.follow(LOCAL_OWNER, run.id):
            run = now
    return run


def mapping(first: str, second: str, **more: Any) -> RunRequest:
    params = {
        "reads": [{"first": first, "second": second}],
        "reference": "oss://genes/reference/tiny",
        **more,
    }
    return RunRequest("mapping", params=params)
