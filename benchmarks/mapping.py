"""`mapping` on a warm server compared with the same tools by hand.

The reads are simulated, and real if available.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import fixtures
from benchmarks.by_hand import HandMapping, hand_tool
from benchmarks.figures import median, ratio
from benchmarks.machine import cores
from benchmarks.mappers import Mapper, select_mappers
from benchmarks.options import Options
from benchmarks.processes import Peaks, sample_peaks, stored_bytes
from benchmarks.report import Report, Row, at_most, figure
from benchmarks.rounds import Samples, in_turns, say
from benchmarks.server import Server, fresh, serving
from wesemu.genomics.simulate.fixture import FixtureSettings

SERVER, HAND = "server", "by hand"
_ROUNDS = 5
_TIMES_BY_HAND = 1.15
_PLUS_SECONDS = 0.3
_REAL_PAIRS = 19 * 10_507
_MANY_PAIRS = 100_000
_POLL_SECONDS = 0.04
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measurements of one mapper.

    `mapping_cpu` is by hand, until the BAM is indexed. `rule_cpu` is that of the server's rule
    `map`, which does the same. `peaks` come from a separate round. `result` is the size of the
    BAM in bytes.
    """

    samples: dict[str, Samples]
    mapping_cpu: list[float]
    rule_cpu: list[float]
    peaks: dict[str, Peaks]
    result: int


def measure(options: Options) -> Report:
    pairs = options.pairs or FixtureSettings().pairs
    samples = {"": (fixtures.sample_of(options.work, pairs), pairs)}
    if (real := fixtures.real_sample(options.work)) is not None:
        samples["real reads, "] = (real, _REAL_PAIRS)
    rows: list[Row] = []
    walls: dict[str, list[float]] = {}
    for sample, (folder, size) in samples.items():
        for mapper in select_mappers(options):
            name = f"{sample}{mapper.name}"
            measured = _compare(options, folder, mapper)
            rows += [*_time_rows(name, measured, size, mapper.target), *_space_rows(name, measured)]
            walls |= {f"{name}: {variant}": list(s.wall) for variant, s in measured.samples.items()}
    samtools = hand_tool("samtools")
    by_hand = f"by hand samtools {samtools.version} ({samtools.source})"
    return Report(f"mapping: {pairs:,} pairs, {cores()} threads, {by_hand}", rows, walls)


def _compare(options: Options, folder: Path, mapper: Mapper) -> Comparison:
    rounds = options.rounds or _ROUNDS
    data = fresh(options.work / f"mapping-{mapper.name.replace(' ', '-')}")
    fasta = fixtures.stock(data, folder, mapper.parameter)
    hand = HandMapping(
        mapper.by_hand(fasta, data / "buckets" / fixtures.BUCKET),
        hand_tool("samtools"),
        threads=cores(),
        folder=fresh(options.work / "by-hand"),
    )
    rule_cpu: list[float] = []
    with serving(data, environment=mapper.environment) as server:
        variants = {
            SERVER: lambda: rule_cpu.append(map_once(server, mapper.parameter)),
            HAND: hand.run,
        }
        peaks = {}
        for variant, where in ((SERVER, data / "runs"), (HAND, hand.folder)):
            say(f"peaks of {variant}, {mapper.name}")
            before = stored_bytes(where, ())
            with sample_peaks(where) as peaks[variant]:
                variants[variant]()
            peaks[variant].stored -= before
        samples = in_turns(variants, rounds, warm_up=0)
    result = (hand.folder / "out.bam").stat().st_size
    return Comparison(samples, hand.mapping_cpu[-rounds:], rule_cpu[-rounds:], peaks, result)


def map_once(server: Server, mapper: str = "bwa") -> float:
    """Run `mapping`. Return the CPU seconds of its rule `map`."""
    server.wes.reconnect()
    run_id = server.wes.submit("mapping", fixtures.params(mapper))
    server.wes.wait(run_id, every=_POLL_SECONDS)
    return next(used for name, used in server.wes.cpu_of_tasks(run_id) if name == "map")


def _time_rows(name: str, measured: Comparison, pairs: int, target: float) -> list[Row]:
    """Return the rows of time. CPU has a target from 100,000 pairs on.

    Below that number, program starts dominate.
    """
    server, hand = measured.samples[SERVER], measured.samples[HAND]
    ratios = {
        f"{name}: CPU, the rule `map` / by hand to the BAM": measured.rule_cpu,
        f"{name}: CPU, server / by hand to the BAM": server.cpu,
    }
    cpu = [(what, ratio(used, measured.mapping_cpu)) for what, used in ratios.items()]
    shortened = [seconds - _PLUS_SECONDS for seconds in server.wall]
    return [
        figure(f"{name}: server, POST to COMPLETE, median", median(server.wall), unit="s"),
        figure(f"{name}: by hand, median", median(hand.wall), unit="s"),
        at_most(
            f"{name}: (server - {_PLUS_SECONDS} s) / by hand, wall",
            ratio(shortened, hand.wall),
            _TIMES_BY_HAND,
            unit="x",
        ),
        figure(f"{name}: CPU, server (all processes), median", median(server.cpu), unit="s"),
        figure(f"{name}: CPU by hand to the BAM, median", median(measured.mapping_cpu), unit="s"),
        *(
            at_most(what, times, target, unit="x")
            if pairs >= _MANY_PAIRS
            else figure(what, times, unit="x")
            for what, times in cpu
        ),
        figure(
            f"{name}: CPU, server / by hand with statistics",
            ratio(server.cpu, hand.cpu),
            unit="x",
        ),
    ]


def _space_rows(name: str, measured: Comparison) -> list[Row]:
    rows = []
    for variant, peaks in measured.peaks.items():
        rows += [
            figure(
                f"{name}: peak memory, {variant}", peaks.memory / _MEBIBYTE, unit="MiB", digits=0
            ),
            figure(
                f"{name}: peak on disk, {variant}", peaks.stored / _MEBIBYTE, unit="MiB", digits=1
            ),
        ]
    return [*rows, figure(f"{name}: the BAM", measured.result / _MEBIBYTE, unit="MiB", digits=1)]
