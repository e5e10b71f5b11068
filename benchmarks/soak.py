"""Two thousand scripted runs and twenty real ones by twenty clients at once: what is lost, and what
the server holds afterwards. Then the start of a server that has 100 runs, also after `kill -9`.

`python -m benchmarks.soak DATA` is the server: the usual one with the scripted engine beside the
others.
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
    held = list[Held]()
    with _serving(data, temporary, [sys.executable, "-m", "benchmarks.soak", str(data)]) as server:
        server.wes.wait(server.wes.submit("mapping", fixtures.params()))
        ended = _at_once(server, _WARM_UP, real=False)
        began = time.perf_counter()
        held.append(Held.settled(server))
        for part in range(4):
            ended += _at_once(server, count // 4, real=part == 0)
            held.append(Held.settled(server))
            say(f"{(part + 1) * count // 4} runs: {held[-1]}")
        took = time.perf_counter() - began
        counts = server.wes.get("/service-info")["system_state_counts"]
    first, half, last = held[0], held[2], held[-1]
    rows = [
        figure("all runs ended after", took, unit="s", digits=0),
        at_most(
            "runs that are lost or not COMPLETE", 1 + len(ended) - counts["COMPLETE"], 0, digits=0
        ),
        at_most("… by what the clients saw", len(ended) - ended.count("COMPLETE"), 0, digits=0),
        at_most(
            "open files, after all runs more than before",
            last.descriptors - first.descriptors,
            _MORE_DESCRIPTORS,
            digits=0,
        ),
        at_most("processes, the same", last.processes - first.processes, 0, digits=0),
        at_most("temporary files", len(list(temporary.iterdir())), 0, digits=0),
        figure("memory before", first.memory / _MEBIBYTE, unit="MiB", digits=0),
        figure("memory after half of the runs", half.memory / _MEBIBYTE, unit="MiB", digits=0),
        figure("memory after all runs", last.memory / _MEBIBYTE, unit="MiB", digits=0),
        at_most("after all / after half", last.memory / half.memory, _MEMORY_TIMES, unit="x"),
    ]
    return rows, {"memory": [each.memory / _MEBIBYTE for each in held]}


class Held:
    """What the server holds while nothing runs; `memory` in bytes, its own process alone."""

    def __init__(self, pid: int) -> None:
        self.memory = memory_bytes([pid])
        self.descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        self.processes = len(descendants(pid))

    @classmethod
    def settled(cls, server: Server) -> "Held":
        """After the ends of connections and processes."""
        server.wes.reconnect()
        time.sleep(_SETTLED_SECONDS)
        return cls(server.pid)

    def __str__(self) -> str:
        return (
            f"{self.memory / _MEBIBYTE:.0f} MiB, {self.descriptors} open files, "
            f"{self.processes} processes"
        )


def _at_once(server: Server, count: int, *, real: bool) -> list[str]:
    """How the runs of all clients have ended; each client waits for its own, one after another."""

    def run(_: int) -> list[str]:
        wes = server.wes.again()
        found = [_end_of(wes, wes.submit("mapping", fixtures.params()))] if real else []
        for _ in range(count // _CLIENTS):
            run_id = wes.submit(
                "play", _SCRIPT, attachments={"play": "."}, language=("SCRIPTED", "1.0")
            )
            found.append(_end_of(wes, run_id))
        wes.reconnect()
        return found

    with ThreadPoolExecutor(_CLIENTS) as threads:
        return [state for states in threads.map(run, range(_CLIENTS)) for state in states]


def _end_of(wes: Wes, run_id: str) -> str:
    while (state := str(wes.get(f"/runs/{run_id}/status")["state"])) not in ENDED:
        time.sleep(_POLL_SECONDS)
    return state


def _restart(options: Options) -> tuple[list[Row], dict[str, list[float]]]:
    """Seconds from exec to `ready`, with the engine warm."""
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
            began = time.perf_counter()
            with _serving(data, temporary, command, kill=next_is_kill) as server:
                server.wes.wait_until_ready()
                seconds.append(time.perf_counter() - began)
    return [
        figure(f"exec to ready with {_STORED} runs, {how}", median(seconds), unit="s")
        for how, seconds in found.items()
    ], found


@contextmanager
def _serving(
    data: Path, temporary: Path, command: Sequence[str], *, kill: bool = False
) -> Iterator[Server]:
    """A server over `data`, which ends by `kill -9`, if so asked."""
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
    """The other one keeps all its runs, to be asked for by tests."""

    async def launch(self, job: LaunchRequest) -> Any:
        play = await super().launch(job)
        self._launched.clear()
        return play


async def _serve(data: Path) -> None:
    from aiohttp import web

    from wesemu.app import create_app
    from wesemu.cli.serve import log_to_stderr
    from wesemu.composition import detect_engines, find_sandbox
    from wesemu.runs.clock import WallClock
    from wesemu.settings import Settings

    log_to_stderr(verbose=False)
    settings = Settings(data=data)
    clock = WallClock()
    engines = await detect_engines(settings, find_sandbox(settings))
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
