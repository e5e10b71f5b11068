"""Histograms of the bases and qualities of reads, in all and by cycle, counted by numpy."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wesemu.genomics.fastq_file import FastqFile, Unreadable

VALUES = 256
"""Bins of a histogram: one for each byte."""

_PHRED = 33
_ALPHABET: Any = np.frombuffer(b"ACGTN", np.uint8)
_SHARES = (0.29, 0.21, 0.21, 0.289, 0.001)
_CHUNK = 50_000

Array = Any


@dataclass(frozen=True, slots=True)
class Reads:
    """All reads, end to end.

    `bases` are letters and `qualities` Phred scores (uint8, one for each base). Read i is from
    `starts[i]` to `starts[i + 1]` (int64).
    """

    bases: Array
    qualities: Array
    starts: Array

    @property
    def count(self) -> int:
        return len(self.starts) - 1

    @property
    def longest(self) -> int:
        return int(np.diff(self.starts).max(initial=0))


@dataclass(frozen=True, slots=True)
class Histograms:
    """int64 counts: of each letter and each quality (256 bins), and by cycle (from 0) the number of
    bases and the sum of their qualities."""

    bases: Array
    qualities: Array
    cycle_bases: Array
    cycle_qualities: Array

    def differences(self, other: "Histograms") -> list[str]:
        """Return one text for each table that differs: its name and first different bin."""
        texts = []
        for name in ("bases", "qualities", "cycle_bases", "cycle_qualities"):
            mine, theirs = getattr(self, name), getattr(other, name)
            wrong = np.flatnonzero(mine != theirs)
            if len(wrong):
                bin_ = int(wrong[0])
                texts.append(f"{name}[{bin_}]: {int(mine[bin_])}, {int(theirs[bin_])}")
        return texts


def load(path: Path) -> Reads:
    """Load all reads of a FASTQ, plain or gzip. Raises InputError."""
    file = FastqFile(str(path))
    bases, qualities, starts = bytearray(), bytearray(), [0]
    try:
        for record in file.records():
            bases += record[1]
            qualities += record[2]
            starts.append(len(bases))
    except Unreadable as error:
        raise error.located(len(starts) - 1) from error
    finally:
        file.close()
    return Reads(
        np.frombuffer(bytes(bases), np.uint8),
        np.frombuffer(bytes(qualities), np.uint8) - np.uint8(_PHRED),
        np.array(starts, np.int64),
    )


def count(reads: Reads) -> Histograms:
    """Count with numpy on the CPU."""
    cycles = np.arange(len(reads.bases)) - np.repeat(reads.starts[:-1], np.diff(reads.starts))
    sums: Array = np.zeros(reads.longest, np.int64)
    np.add.at(sums, cycles, reads.qualities)
    return Histograms(
        np.bincount(reads.bases, minlength=VALUES),
        np.bincount(reads.qualities, minlength=VALUES),
        np.bincount(cycles, minlength=reads.longest),
        sums,
    )


def write_random(path: Path, reads: int, length: int = 150, seed: int = 1) -> None:
    """Write a FASTQ with letters and qualities like a sequencer's; the same for the same seed."""
    draws = np.random.default_rng(seed)
    with path.open("wb") as file:
        for first in range(0, reads, _CHUNK):
            file.writelines(_records(draws, first, min(_CHUNK, reads - first), length))


def _records(draws: Any, first: int, reads: int, length: int) -> Iterator[bytes]:
    letters = draws.choice(_ALPHABET, (reads, length), p=_SHARES).astype(np.uint8)
    falling: Array = 37 - np.arange(length) * 12 // max(1, length)
    scores = np.clip(falling + draws.integers(-6, 4, (reads, length)), 2, 40) + _PHRED
    scores = scores.astype(np.uint8)
    for number in range(reads):
        sequence, quality = letters[number].tobytes(), scores[number].tobytes()
        yield b"@r%d\n%b\n+\n%b\n" % (first + number, sequence, quality)
