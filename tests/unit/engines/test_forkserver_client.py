"""The client of the forkserver when processes fail or do not answer."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from wesemu.engines import forkserver_client
from wesemu.engines.forkserver_client import ForkserverClient, NotStarted
from wesemu.errors import EngineFault


@pytest.fixture
async def client() -> AsyncIterator[ForkserverClient]:
    client = ForkserverClient("snakemake", sys.executable, os.environ)
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (socket, "socketpair", OSError("too many open files")),
        (subprocess, "Popen", OSError("no such program")),
        (subprocess, "Popen", RuntimeError("can't start new thread")),
    ],
)
async def test_start_that_failed_is_told_and_tried_again(
    client: ForkserverClient,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    name: str,
    error: Exception,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(module, name, fail)
        with pytest.raises(NotStarted, match=f"cannot be started: {error}"):
            await client.start()
    assert client.pid is None
    await client.start()
    assert client.pid is not None


async def test_launch_by_a_forkserver_that_has_just_died_is_a_fault(
    client: ForkserverClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def started() -> None:
        """And dead since."""

    monkeypatch.setattr(client, "start", started)
    with pytest.raises(EngineFault, match="has died"):
        await client.launch(tmp_path)


async def test_a_forkserver_that_hangs_is_replaced(
    client: ForkserverClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.start()
    hung = client.pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    with monkeypatch.context() as hurry:
        hurry.setattr(forkserver_client, "_LAUNCH_SECONDS", 0.1)
        with pytest.raises(EngineFault, match="has not answered"):
            await client.launch(tmp_path)
    assert client.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    await client.start()
    assert client.pid not in (None, hung)
