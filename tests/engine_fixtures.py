"""Engines of Snakemake, and nothing left of their runs after a test that failed half way."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engine_support import end_runs

from wesemu.engines.snakemake import SnakemakeEngine


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    end_runs(tmp_path)


@pytest.fixture
async def engine() -> AsyncIterator[SnakemakeEngine]:
    engine = SnakemakeEngine(mode="warm")
    yield engine
    await engine.close()


@pytest.fixture
async def cli_engine() -> AsyncIterator[SnakemakeEngine]:
    engine = SnakemakeEngine(mode="cli")
    yield engine
    await engine.close()


@pytest.fixture(params=["warm", "cli"])
async def any_engine(request: pytest.FixtureRequest) -> AsyncIterator[SnakemakeEngine]:
    engine = SnakemakeEngine(mode=request.param)
    yield engine
    await engine.close()
