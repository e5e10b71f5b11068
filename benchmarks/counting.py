"""What it costs to check and count the reads on their way to the mapper."""

import subprocess
from collections.abc import Sequence
from functools import partial

from benchmarks import fixtures
from benchmarks.figures import median, ratio
from benchmarks.machine import cores
from benchmarks.mappers import chosen
from benchmarks.options import Options
from benchmarks.report import Report, Row, at_most, figure
from benchmarks.rounds import in_turns

ALONE, CHECKED = "mapper alone", "with checks"
_PAIRS = 100_000
_ROUNDS = 3
_TIMES_ALONE = 1.05


def measure(options: Options) -> Report:
    pairs = options.pairs or _PAIRS
    folder = fixtures.sample(options.work, pairs)
    fasta = fixtures.stock(options.work / "counting", folder)
    rows: list[Row] = []
    walls: dict[str, Sequence[float]] = {}
    for mapper in chosen(options):
        if mapper.parameter != "bwa":
            continue  # it cannot be had without the checks
        alone = mapper.by_hand(fasta, folder)
        checked = mapper.checked(fasta, folder, options.work)
        ways = {ALONE: partial(to_nowhere, alone), CHECKED: partial(to_nowhere, checked)}
        found = in_turns(ways, options.rounds or _ROUNDS, warm_up=0)
        one, two = found[ALONE], found[CHECKED]
        rows += [
            figure(f"{mapper.name}: {way}, wall, median", median(samples.wall), unit="s")
            for way, samples in found.items()
        ]
        rows += [
            at_most(
                f"{mapper.name}: with checks / alone, wall",
                ratio(two.wall, one.wall),
                _TIMES_ALONE,
                unit="x",
            ),
            figure(f"{mapper.name}: with checks / alone, CPU", ratio(two.cpu, one.cpu), unit="x"),
        ]
        walls |= {f"{mapper.name}: {way}": samples.wall for way, samples in found.items()}
    return Report(f"counting: {pairs:,} pairs, {cores()} threads, to nowhere", rows, walls)


def to_nowhere(command: Sequence[str]) -> None:
    """Raises RuntimeError with what the command said."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace')}")
