"""A server in a thread, for blocking clients."""

import asyncio
import json
import threading
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from support.scripted import START, fill_bucket, scripted_engine

from wesemu.app import RUNS, create_app
from wesemu.runs.clock import ManualClock
from wesemu.runs.data_directory import IdSource
from wesemu.runs.model import Owner, RunRequest
from wesemu.runs.service import RunService
from wesemu.settings import Settings

_T = TypeVar("_T")


class Background:
    """A running server with helpers for tests. `endpoint` is "127.0.0.1:PORT"."""

    def __init__(self, loop: asyncio.AbstractEventLoop, runs: RunService, port: int) -> None:
        self.endpoint = f"127.0.0.1:{port}"
        self._loop = loop
        self._runs = runs

    def job(self, owner: Owner, sample: str) -> str:
        """Start a job and return its name. A job with a sample `wait-…` never ends."""
        return self._do(self._job(owner, sample))

    def order_fault(self, fault: dict[str, Any]) -> None:
        """Inject a fault through the control API."""
        url = f"http://{self.endpoint}/_wesemu/faults"
        body = json.dumps(fault).encode()
        sent = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent, timeout=60) as answer:
            assert answer.status == 200

    async def _job(self, owner: Owner, sample: str) -> str:
        lane = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
        params = {"reads": [lane], "reference": "oss://genes/reference/tiny", "sample": sample}
        run = await self._runs.submit(owner, RunRequest("mapping", params=params))
        if not sample.startswith("wait"):
            async for changed in self._runs.follow(owner, run.id):
                assert not changed.failure
        return f"mapping-gpu-{run.handle}"

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)


@contextmanager
def serving(data: Path, keys: dict[str, str]) -> Iterator[Background]:
    """Start a server over `data` with the scripted engine, a bucket `genes` and access keys."""
    fill_bucket(data)
    settings = Settings.model_validate(
        {
            "data": data,
            "node": {"cores": 2, "memory_mb": 4096, "gpus": 0, "runs": 1},
            "workflows": {"fetch": False},
            "auth": {"ags_keys": keys},
        }
    )
    loop = asyncio.new_event_loop()

    async def start() -> tuple[web.AppRunner, Background]:
        clock = ManualClock(START)
        app = await create_app(
            settings, clock=clock, ids=IdSource(seed=1), engines=[scripted_engine(clock)]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, Background(loop, app[RUNS], runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever, name="server")
    thread.start()
    try:
        runner, background = asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=60)
        try:
            yield background
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=60)
        loop.close()
