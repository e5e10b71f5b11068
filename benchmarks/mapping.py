"""`mapping` by a warm server against the same tools by hand, with native bwa and with the wheels."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import fixtures
from benchmarks.by_hand import Mapping, bwa_mem, pybwa_mem
from benchmarks.figures import median, ratio
from benchmarks.machine import cores
from benchmarks.options import Options
from benchmarks.processes import Peaks, watched
from benchmarks.report import Report, Row, at_most, figure
from benchmarks.rounds import Samples, in_turns
from benchmarks.server import Server, serving
from wesemu.genomics.simulate import FixtureSettings
from wesemu.genomics.tools import Tool, resolve

_ROUNDS = 5
_TIMES_BY_HAND = 1.15
_PLUS_SECONDS = 0.3
_TIMES_CPU = 1.10
_TIMES_COUNTING = 1.05
_MEBIBYTE = 1 << 20

Ways = dict[str, Callable[[], object]]


def measure(options: Options) -> Report:
    pairs = options.pairs or FixtureSettings().pairs
    folder = fixtures.sample(options.work, pairs)
    tools = resolve()
    variants: dict[str, Tool | None] = {"wheels": None}
    if tools.bwa.source != "wheel":
        variants = {"native bwa": tools.bwa, **variants}
    rows: list[Row] = []
    samples: dict[str, list[float]] = {}
    for name, bwa in variants.items():
        found, peaks, stored = _compare(options, folder, name, bwa)
        rows += _rows(name, found, peaks, stored)
        samples |= {f"{name}: {way}": list(found[way].wall) for way in found}
    return Report(f"mapping: {pairs:,} pairs, {cores()} threads", rows, samples)


def _compare(
    options: Options, folder: Path, name: str, bwa: Tool | None
) -> tuple[dict[str, Samples], dict[str, Peaks], int]:
    """Samples and peaks of each way, and the bytes of the results that stay."""
    with ExitStack() as stack:
        environment = {} if bwa else _without_bwa(options.work)
        data = options.work / f"mapping-{name.replace(' ', '-')}"
        fasta = fixtures.stock(data, folder)
        server = stack.enter_context(serving(data, environment=environment))
        reads = data / "buckets" / fixtures.BUCKET
        align = bwa_mem(bwa.command, cores(), fasta, reads) if bwa else pybwa_mem(
            cores(), fasta, reads
        )
        hand = Mapping(align, resolve().samtools, cores(), options.work / "by-hand")
        ways: Ways = {
            "server": lambda: _map(server),
            "by hand": hand.all,
            "by hand, no statistics": hand.map,
            "mapper alone": lambda: _to_nowhere(align),
            "mapper, reads checked": lambda: _to_nowhere(_checked(bwa, fasta, reads, options.work)),
        }
        found = in_turns(ways, options.rounds or _ROUNDS)
        peaks = {}
        for way in ("server", "by hand"):
            where = hand.folder if way == "by hand" else data / "runs"
            before = sum(file.stat().st_size for file in where.rglob("*.bam"))
            del before
            with watched(where) as peaks[way]:
                ways[way]()
        stored = sum(path.stat().st_size for path in hand.folder.iterdir())
    return found, peaks, stored


def _map(server: Server) -> None:
    server.wes.wait(server.wes.submit("mapping", fixtures.params()))
