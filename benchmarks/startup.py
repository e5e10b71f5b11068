"""Time of `wesemu serve` from exec to the first 200, and its idle memory."""

import subprocess
import time
from pathlib import Path

from benchmarks.archive import fill, fill_directories
from benchmarks.figures import median, ratio
from benchmarks.options import Options
from benchmarks.processes import descendants, memory_bytes
from benchmarks.report import Report, at_most, figure
from benchmarks.rounds import in_turns
from benchmarks.server import clean_environment, read_url, serve_command, stop
from benchmarks.wes import Wes

_RUNS = 100_000
_ROUNDS = 7
_TIMES_EMPTY = 1.2
_IDLE_SECONDS = 3.0
_MEBIBYTE = 1 << 20


def measure(options: Options) -> Report:
    count = options.count or _RUNS
    empty, full = options.work / "archive-0", options.work / f"archive-{count}"
    for data, number in ((empty, 0), (full, count)):
        fill(data, number)
        fill_directories(data)
    directories = {"0 runs": empty, f"{count:,} runs": full}
    rounds = options.rounds or _ROUNDS
    starts = {name: Starts(data) for name, data in directories.items()}
    measured = in_turns({name: start.once for name, start in starts.items()}, rounds)
    seconds = {name: start.seconds[-rounds:] for name, start in starts.items()}
    rows = []
    for name, data in directories.items():
        server_only, all_processes = idle(data)
        rows += [
            figure(f"exec to first 200, {name}", median(seconds[name]), unit="s"),
            figure(f"CPU, start to stop, {name}", median(measured[name].cpu), unit="s"),
            figure(
                f"idle memory of the server, {name}", server_only / _MEBIBYTE, unit="MiB", digits=0
            ),
            figure(
                f"idle memory with its helpers, {name}",
                all_processes / _MEBIBYTE,
                unit="MiB",
                digits=0,
            ),
        ]
    few, many = seconds.values()
    rows.append(at_most("with the runs / without", ratio(many, few), _TIMES_EMPTY, unit="x"))
    return Report("startup", rows, seconds)


class Starts:
    """Starts a server repeatedly. `seconds` are the times from exec to the first response."""

    def __init__(self, data: Path) -> None:
        self.seconds: list[float] = []
        self._data = data

    def once(self) -> None:
        """Start a server, send a request, and stop it."""
        start = time.perf_counter()
        process = _start(self._data)
        try:
            Wes(read_url(process)).get("/service-info")
            self.seconds.append(time.perf_counter() - start)
        finally:
            stop(process)


def idle(data: Path) -> tuple[int, int]:
    """Return the idle memory of the server process and of all processes, in bytes."""
    process = _start(data)
    try:
        read_url(process)
        time.sleep(_IDLE_SECONDS)
        server_only = memory_bytes([process.pid])
        return server_only, server_only + memory_bytes(descendants(process.pid))
    finally:
        stop(process)


def _start(data: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        serve_command(data),
        cwd=data,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
