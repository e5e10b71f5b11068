"""2,000 scripted and 20 real runs of 20 concurrent clients: lost runs and held resources.

Then the start of a server with 100 runs, after a stop and after `kill -9`.
`python -m benchmarks.soak DATA` is the server: the usual one plus the scripted engine.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import fixtures
from benchmarks.figures import median
from benchmarks.options import Options
from benchmarks.processes import descendants, memory_bytes
from benchmarks.report import Report, Row, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import Server, clean_environment, fresh, read_url, serve_command, stop
from benchmarks.wes import ENDED, Wes
from benchmarks.workflows import THREE_RULES
from wesemu.runs.ports import LaunchRequest
from wesemu.testing.fake_engine import ScriptedEngine

_CLIENTS = 20
_COUNT = 2_000
_WARM_UP = 200
_PAIRS = 3_000
_STORED = 100
_ROUNDS = 5
_MEMORY_TIMES = 1.1
_MORE_DESCRIPTORS = 5
_POLL_SECONDS = 0.1
_SETTLED_SECONDS = 3.0
_MEBIBYTE = 1 << 20
_SCRIPT = {
    "script": [
        {"task": "align", "stdout": "aligned\n"},
        {"write": "results/a.txt", "text": "a result\n"},
        {"task": "sort", "stderr": "sorted\n"},
    ]
}


def measure(options: Options) -> Report:
    rows, samples = _soak(options)
    restarts, seconds = _restart(options)
    return Report("soak", [*rows, *restarts], {**samples, **seconds})


def _soak(options: Options) -> tuple[list[Row], dict[str, list[float]]]:
    data, temporary = fresh(options.work / "soak"), fresh(options.work / "soak-tmp")
    fixtures.stock(data, fixtures.sample(options.work, options.pairs or _PAIRS))
    count = options.count or _COUNT
    measurements = list[HeldResources]()
    with _serving(data, temporary, [sys.executable, "-m", "benchmarks.soak", str(data)]) as server:
        server.wes.wait(server.wes.submit("mapping", fixtures.params()))
        ended = _run_concurrently(server, _WARM_UP, real=False)
        start = time.perf_counter()
        measurements.append(HeldResources.settled(server))
        for part in range(4):
            ended += _run_concurrently(server, count // 4, real=part == 0)
            measurements.append(HeldResources.settled(server))
            say(f"{(part + 1) * count // 4} runs: {measurements[-1]}")
        duration = time.perf_counter() - start
        counts = server.wes.get("/service-info")["system_state_counts"]
    first, half, last = measurements[0], measurements[2], measurements[-1]
    rows = [
        figure("all runs ended after", duration, unit="s", digits=0),
        at_most("runs lost or not COMPLETE", 1 + len(ended) - counts["COMPLETE"], 0, digits=0),
        at_most("… as seen by the clients", len(ended) - ended.count("COMPLETE"), 0, digits=0),
        at_most(
            "additional open files after all runs",
            last.descriptors - first.descriptors,
            _MORE_DESCRIPTORS,
            digits=0,
        ),
        at_most(
            "additional processes after all runs", last.processes - first.processes, 0, digits=0
        ),
        at_most("temporary files", len(list(temporary.iterdir())), 0, digits=0),
        figure("memory before", first.memory / _MEBIBYTE, unit="MiB", digits=0),
        figure("memory after half of the runs", half.memory / _MEBIBYTE, unit="MiB", digits=0),
        figure("memory after all runs", last.memory / _MEBIBYTE, unit="MiB", digits=0),
        at_most("after all / after half", last.memory / half.memory, _MEMORY_TIMES, unit="x"),
    ]
    return rows, {"memory": [each.memory / _MEBIBYTE for each in measurements]}


class HeldResources:
    """Resources of the idle server. `memory` is in bytes, of the process of the server only."""

    def __init__(self, pid: int) -> None:
        self.memory = memory_bytes([pid])
        self.descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        self.processes = len(descendants(pid))

    @classmethod
    def settled(cls, server: Server) -> "HeldResources":
        """Measure after connections and processes have ended."""
        server.wes.reconnect()
        time.sleep(_SETTLED_SECONDS)
        return cls(server.pid)

    def __str__(self) -> str:
        return (
            f"{self.memory / _MEBIBYTE:.0f} MiB, {self.descriptors} open files, "
            f"{self.processes} processes"
        )


def _run_concurrently(server: Server, count: int, *, real: bool) -> list[str]:
    """Run `count` scripted runs in all clients, one after another in each. Return their states."""

    def run(_: int) -> list[str]:
        wes = server.wes.again()
        found = [_wait_for_end(wes, wes.submit("mapping", fixtures.params()))] if real else []
        for _ in range(count // _CLIENTS):
            run_id = wes.submit(
                "play", _SCRIPT, attachments={"play": "."}, language=("SCRIPTED", "1.0")
            )
            found.append(_wait_for_end(wes, run_id))
        wes.reconnect()
        return found

    with ThreadPoolExecutor(_CLIENTS) as threads:
        return [state for states in threads.map(run, range(_CLIENTS)) for state in states]


def _wait_for_end(wes: Wes, run_id: str) -> str:
    while (state := str(wes.get(f"/runs/{run_id}/status")["state"])) not in ENDED:
        time.sleep(_POLL_SECONDS)
    return state


def _restart(options: Options) -> tuple[list[Row], dict[str, list[float]]]:
    """Measure the seconds from exec to `ready`, which includes the warm engine."""
    data, temporary = fresh(options.work / "restart"), fresh(options.work / "restart-tmp")
    command = serve_command(data)
    with _serving(data, temporary, command) as server:
        for _ in range(_STORED):
            server.wes.submit("Snakefile", attachments={"Snakefile": THREE_RULES})
        server.wes.wait_for_all(_STORED)
    found: dict[str, list[float]] = {"after a stop": [], "after kill -9": []}
    for _ in range(options.rounds or _ROUNDS):
        for how, seconds in found.items():
            next_is_kill = how == "after a stop"
            start = time.perf_counter()
            with _serving(data, temporary, command, kill=next_is_kill) as server:
                server.wes.wait_until_ready()
                seconds.append(time.perf_counter() - start)
    return [
        figure(f"exec to ready with {_STORED} runs, {how}", median(seconds), unit="s")
        for how, seconds in found.items()
    ], found


@contextmanager
def _serving(
    data: Path, temporary: Path, command: Sequence[str], *, kill: bool = False
) -> Iterator[Server]:
    """Start a server over `data`. End it with `kill -9` if `kill` is set."""
    with (data / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=clean_environment() | {"TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield Server(Wes(read_url(process)), process.pid, data)
    finally:
        if kill:
            process.send_signal(signal.SIGKILL)
        stop(process)


class ForgetfulEngine(ScriptedEngine):
    """A scripted engine that does not keep its runs. The other one keeps them for tests."""

    async def launch(self, job: LaunchRequest) -> Any:
        play = await super().launch(job)
        self._launched.clear()
        return play


async def _serve(data: Path) -> None:
    from aiohttp import web

    from wesemu.app import create_app
    from wesemu.cli.serve import log_to_stderr
    from wesemu.composition import detect_engines, find_sandbox
    from wesemu.core import pipelines_folder
    from wesemu.runs.clock import WallClock
    from wesemu.settings import Settings

    log_to_stderr(verbose=False)
    settings = Settings(data=data)
    clock = WallClock()
    engines = await detect_engines(settings, find_sandbox(settings), pipelines_folder())
    app = await create_app(settings, clock=clock, engines=[*engines, ForgetfulEngine(clock)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await stopped.wait()
    await runner.cleanup()


if __name__ == "__main__":
    os.environ.pop("WESEMU_DATA", None)
    asyncio.run(_serve(Path(sys.argv[1])))
