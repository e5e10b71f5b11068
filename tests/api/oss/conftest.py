"""The bucket `genes` on a server without credentials."""

from pathlib import Path

import pytest
from api.oss.fixtures import Client, start_oss_server
from pytest_aiohttp import AiohttpClient


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "buckets"
    (root / "genes").mkdir(parents=True)
    return root


@pytest.fixture
def bucket(root: Path) -> Path:
    return root / "genes"


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, root: Path) -> Client:
    return await aiohttp_client(await start_oss_server(root))
