"""Fixtures for all tests. A blocking call on the event loop fails the test."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient
from blockbuster import BlockBuster, blockbuster_ctx
from pytest_aiohttp import AiohttpClient
from support import START, fill_bucket, scripted_engine

from wesemu.app import RUNS, create_app
from wesemu.clock import ManualClock
from wesemu.engines.scripted import ScriptedEngine
from wesemu.ids import IdSource
from wesemu.runs.service import RunService
from wesemu.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    with blockbuster_ctx("wesemu") as detector:
        yield detector


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> None:
    """Without rich tracebacks, which read source files on the event loop."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )


@pytest.fixture
def shared_data() -> Path:
    """Real reads with a real truth set, where they lie beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two cores, no GPU, whatever the machine has; a bucket `genes` with reads, a reference."""
    data = tmp_path / "data"
    fill_bucket(data)
    return Settings.model_validate(
        {"data": data, "node": {"cores": 2, "memory_mb": 4096, "gpus": 0, "runs": 1}}
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def engine(clock: ManualClock) -> ScriptedEngine:
    return scripted_engine(clock)


@pytest.fixture
async def app(settings: Settings, clock: ManualClock, engine: ScriptedEngine) -> web.Application:
    """The whole server over the scripted engine, ids drawn from seed 1."""
    return await create_app(settings, clock=clock, ids=IdSource(seed=1), engines=[engine])


@pytest.fixture
async def client(
    aiohttp_client: AiohttpClient, app: web.Application
) -> TestClient[web.Request, web.Application]:
    return await aiohttp_client(app)


@pytest.fixture
def runs(app: web.Application) -> RunService:
    return app[RUNS]
