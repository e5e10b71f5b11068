"""The BAI or CSI of a BAM: counts of records, and the places that have records.

Formats: SAM specification 5.2 (BAI), and the CSI specification of htslib.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wesemu.genomics.fastq_file import GZIP_MAGIC, open_gzip

_CHUNK = struct.Struct("<QQ")
_BAI_BIN = struct.Struct("<Ii")
_CSI_BIN = struct.Struct("<IQi")
_CSI_HEAD = struct.Struct("<4siii")
_NUMBER = struct.Struct("<i")
_COUNT = struct.Struct("<Q")

_BAI_SHIFT, _BAI_DEPTH = 14, 5
"""The smallest bins of a BAI have 2 ** 14 bases, and each of 5 levels above has 8 times as many."""


class ContigIndex(NamedTuple):
    """`mapped` and `unmapped` count the records of one contig. `bins` are ranges from 0, without
    their end, that together hold every record; large bins contain smaller ones."""

    mapped: int
    unmapped: int
    bins: list[tuple[int, int]]


class BamIndex(NamedTuple):
    """`contigs` by number; `unplaced` counts the records without a contig."""

    contigs: list[ContigIndex]
    unplaced: int


def read_bam_index(path: Path, contigs: int) -> BamIndex:
    """Read the index of a BAM with so many contigs.

    Raises ValueError for a file that is not a BAI or CSI, or has another number of contigs.
    """
    data = path.read_bytes()
    if data[:2] == GZIP_MAGIC:
        with open_gzip(path) as file:
            data = file.read()
    if data[:4] == b"CSI\x01":
        _, shift, depth, extra = _CSI_HEAD.unpack_from(data)
        reader = _Reader(data, _CSI_HEAD.size + extra, _CSI_BIN, shift, depth)
    elif data[:4] == b"BAI\x01":
        reader = _Reader(data, 4, _BAI_BIN, _BAI_SHIFT, _BAI_DEPTH)
    else:
        raise ValueError(f"{path} is not a BAI or CSI")
    if (found := reader.number()) != contigs:
        raise ValueError(f"{path} belongs to a BAM with {found} contigs, not {contigs}")
    found_contigs = [reader.contig() for _ in range(contigs)]
    return BamIndex(found_contigs, reader.unplaced())


class _Reader:
    """Reads an index from its first number on."""

    def __init__(
        self, data: bytes, position: int, bin_head: struct.Struct, shift: int, depth: int
    ) -> None:
        self._data = data
        self._position = position
        self._bin_head = bin_head
        # number of the first bin, and bases of each bin, by level; the smallest bins first
        self._levels = [
            (((1 << 3 * level) - 1) // 7, 1 << shift + 3 * (depth - level))
            for level in range(depth, -1, -1)
        ]
        # a bin with an impossible number has the counts in its chunks
        self._pseudo_bin = ((1 << 3 * (depth + 1)) - 1) // 7 + 1

    def number(self) -> int:
        number: int = self._take(_NUMBER)[0]
        return number

    def contig(self) -> ContigIndex:
        mapped = unmapped = 0
        bins = []
        for _ in range(self.number()):
            number, *_, chunks = self._take(self._bin_head)
            if number == self._pseudo_bin:
                mapped, unmapped = _CHUNK.unpack_from(self._data, self._position + _CHUNK.size)
            else:
                bins.append(self._range(number))
            self._position += chunks * _CHUNK.size
        if self._bin_head is _BAI_BIN:  # the linear index follows
            offsets = self.number()
            self._position += offsets * _COUNT.size
        return ContigIndex(mapped, unmapped, bins)

    def unplaced(self) -> int:
        """Return the count at the end of the file, which old indexes lack."""
        count: int = self._take(_COUNT)[0] if self._position < len(self._data) else 0
        return count

    def _range(self, number: int) -> tuple[int, int]:
        first, size = next(level for level in self._levels if number >= level[0])
        return (number - first) * size, (number - first + 1) * size

    def _take(self, what: struct.Struct) -> tuple[int, ...]:
        values = what.unpack_from(self._data, self._position)
        self._position += what.size
        return values


def idxstats(path: Path, contigs: Sequence[tuple[str, str]]) -> str:
    """Return the text of `samtools idxstats`: name, length, mapped and unmapped records of each
    contig; last, records without one. Raises what `read_bam_index` raises."""
    return "".join(_idxstats_lines(read_bam_index(path, len(contigs)), contigs))


def _idxstats_lines(index: BamIndex, contigs: Sequence[tuple[str, str]]) -> Iterator[str]:
    for (name, length), contig in zip(contigs, index.contigs, strict=True):
        yield f"{name}\t{length}\t{contig.mapped}\t{contig.unmapped}\n"
    yield f"*\t0\t0\t{index.unplaced}\n"
