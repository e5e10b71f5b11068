"""`mapping` of two million pairs and of a tenth: is memory bounded?"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fixtures
from benchmarks.machine import cores
from benchmarks.mapping import map_once
from benchmarks.options import Options
from benchmarks.processes import Peaks, cpu_seconds, sample_peaks, stored_bytes
from benchmarks.report import Report, Row, at_most, figure
from benchmarks.rounds import say
from benchmarks.server import fresh, serving

_PAIRS = 2_000_000
_TENTH = 10
_MEBIBYTE = 1 << 20
_REQUESTED = re.compile(r"rule map:\n.*?\bmem_mb=(\d+)", re.DOTALL)
"""The memory of the rule, as Snakemake logs it."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Measurements of one run.

    `wall` and `cpu` (of all processes) are in seconds. `requested` is the `mem_mb` of the rule
    `map`, `result` the size of the BAM in bytes, `reads` the number that the run has counted.
    """

    wall: float
    cpu: float
    peaks: Peaks
    requested: int
    result: int
    reads: int


def measure(options: Options) -> Report:
    pairs = options.pairs or _PAIRS
    few, many = (_map(options, number) for number in (pairs // _TENTH, pairs))
    rows: list[Row] = []
    for number, measured in ((pairs // _TENTH, few), (pairs, many)):
        if measured.reads != 2 * number:
            raise RuntimeError(f"{measured.reads:,} reads counted of {2 * number:,}")
        name = f"{number:,} pairs"
        rows += [
            figure(f"{name}: POST to COMPLETE", measured.wall, unit="s"),
            figure(f"{name}: CPU, all processes", measured.cpu, unit="s"),
            figure(f"{name}: peak memory", measured.peaks.memory / _MEBIBYTE, unit="MiB", digits=0),
            at_most(
                f"{name}: peak memory / request of the rule `map`",
                measured.peaks.memory / _MEBIBYTE / measured.requested,
                1.0,
                unit="x",
            ),
            figure(
                f"{name}: most on disk", measured.peaks.stored / _MEBIBYTE, unit="MiB", digits=0
            ),
            figure(f"{name}: the BAM", measured.result / _MEBIBYTE, unit="MiB", digits=0),
        ]
    return Report(f"stress: {pairs:,} pairs, {cores()} threads", rows, {})


def _map(options: Options, pairs: int) -> Measurement:
    folder = fixtures.large_sample(options.work, pairs)
    data = fresh(options.work / "stress")
    fixtures.stock(data, folder)
    runs = data / "runs"
    with serving(data) as server:
        say(f"mapping {pairs:,} pairs")
        used, start = cpu_seconds(), time.perf_counter()
        before = stored_bytes(runs, ())
        with sample_peaks(runs, every_seconds=0.25) as peaks:
            map_once(server)
        wall, cpu = time.perf_counter() - start, cpu_seconds() - used
    peaks.stored -= before
    (run,) = runs.iterdir()
    return Measurement(wall, cpu, peaks, _requested_memory(run), *_result(run / "work" / "results"))


def _requested_memory(run: Path) -> int:
    """Return the requested memory of the rule `map` in MiB."""
    log = run / "stderr.log"
    match = _REQUESTED.search(log.read_text())
    if match is None:
        raise RuntimeError(f"{log} does not contain the memory of the rule map")
    return int(match[1])


def _result(folder: Path) -> tuple[int, int]:
    reads = json.loads((folder / "reads.json").read_text())["total_reads"]
    return (folder / "aligned.bam").stat().st_size, int(reads)
