"""The client of the forkserver when processes fail or do not answer."""

import asyncio
import json
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
async def test_a_start_that_failed_is_reported_and_tried_again(
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


async def test_more_launches_than_the_socket_holds_are_all_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait until the forkserver receives them."""
    client = ForkserverClient("snakemake", sys.executable, os.environ)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
    for size in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        ours.setsockopt(socket.SOL_SOCKET, size, 1)  # the least that the kernel allows

    async def started() -> None:
        client._channel = ours
        if client._reading is None:
            client._reading = asyncio.create_task(client._read())

    monkeypatch.setattr(client, "start", started)
    monkeypatch.setattr(forkserver_client, "_LAUNCH_SECONDS", 60)
    launches = [asyncio.create_task(client.launch(tmp_path / str(n))) for n in range(50)]
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)  # all begin to send
    for _ in launches:
        request = json.loads(await loop.sock_recv(theirs, 65536))
        await loop.sock_sendall(theirs, json.dumps({"id": request["id"], "pid": 1}).encode())
    replies = await asyncio.gather(*launches)
    assert [reply["id"] for reply in replies] == [*range(1, 51)]
    theirs.close()
    await client.close()
