"""Cost of checking and counting the reads before the mapper."""

import subprocess
from collections.abc import Sequence
from functools import partial

from benchmarks import fixtures
from benchmarks.figures import median, ratio
from benchmarks.machine import cores
from benchmarks.mappers import select_mappers
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
    for mapper in select_mappers(options):
        if mapper.parameter != "bwa":
            continue  # this mapper always runs with the checks
        alone = mapper.by_hand(fasta, folder)
        checked = mapper.checked(fasta, folder, options.work)
        variants = {
            ALONE: partial(discard_output, alone),
            CHECKED: partial(discard_output, checked),
        }
        samples_by_variant = in_turns(variants, options.rounds or _ROUNDS, warm_up=0)
        alone_samples, checked_samples = samples_by_variant[ALONE], samples_by_variant[CHECKED]
        rows += [
            figure(f"{mapper.name}: {variant}, wall, median", median(samples.wall), unit="s")
            for variant, samples in samples_by_variant.items()
        ]
        rows += [
            at_most(
                f"{mapper.name}: with checks / alone, wall",
                ratio(checked_samples.wall, alone_samples.wall),
                _TIMES_ALONE,
                unit="x",
            ),
            figure(
                f"{mapper.name}: with checks / alone, CPU",
                ratio(checked_samples.cpu, alone_samples.cpu),
                unit="x",
            ),
        ]
        walls |= {
            f"{mapper.name}: {variant}": samples.wall
            for variant, samples in samples_by_variant.items()
        }
    return Report(f"counting: {pairs:,} pairs, {cores()} threads, output discarded", rows, walls)


def discard_output(command: Sequence[str]) -> None:
    """Run a command and discard its stdout. Raise RuntimeError with its stderr if it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace')}")
