"""Fixtures of Snakemake engines and of the clean-up of their runs."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from support.engine_runs import end_runs
from wesemu.engines.launch_spec import Mode
from wesemu.engines.snakemake import SnakemakeEngine


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    end_runs(tmp_path)


@asynccontextmanager
async def running(mode: Mode) -> AsyncIterator[SnakemakeEngine]:
    engine = SnakemakeEngine(mode=mode)
    yield engine
    await engine.close()


@pytest.fixture
async def engine() -> AsyncIterator[SnakemakeEngine]:
    async with running("warm") as engine:
        yield engine


@pytest.fixture(params=["warm", "cli"])
async def any_engine(request: pytest.FixtureRequest) -> AsyncIterator[SnakemakeEngine]:
    async with running(request.param) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_engine() -> AsyncIterator[SnakemakeEngine]:
    """Yield an engine with one forkserver for the module.

    Its tests share an event loop: `pytestmark = pytest.mark.asyncio(loop_scope="module")`.
    """
    async with running("warm") as engine:
        yield engine
