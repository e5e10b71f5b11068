"""The OSS API on a free loopback port for the real clients, with one access key."""

import gc
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api.oss.fixtures import KEY_ID, SECRET, start_oss_server


def collect() -> None:
    """Close connections that the SDKs leave open, so no other test fails for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    bucket = tmp_path / "buckets" / "genes"
    bucket.mkdir(parents=True)
    return bucket


@pytest.fixture
async def endpoint(bucket: Path) -> AsyncIterator[str]:
    server = await start_oss_server(bucket.parent, keys={KEY_ID: SECRET})
    yield f"http://127.0.0.1:{server.port}"
    await server.close()


@pytest.fixture
def reads(tmp_path: Path) -> Path:
    """Return a file of 15 parts of 200 KiB."""
    path = tmp_path / "a.fq"
    path.write_bytes(b"@r\nACGT\n+\nIIII\n" * 200_000)
    return path
