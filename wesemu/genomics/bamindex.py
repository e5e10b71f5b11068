"""`samtools idxstats` out of a BAI or CSI: the index alone tells it.

Formats: SAM specification 5.2, CSIv1.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

from wesemu.genomics.gzipped import open_gzip
from wesemu.genomics.sniff import GZIP_MAGIC

_PSEUDO_BIN_OF_BAI = 37450
_CHUNK = struct.Struct("<QQ")
_BAI_BIN = struct.Struct("<Ii")
_CSI_BIN = struct.Struct("<IQi")
_CSI_HEAD = struct.Struct("<4siii")
_NUMBER = struct.Struct("<i")
_COUNT = struct.Struct("<Q")


def idxstats(index: Path, contigs: Sequence[tuple[str, str]]) -> str:
    """Name, length (as text), mapped and unmapped records of each contig; last those nowhere.

    Raises ValueError for a file that is no BAI or CSI, or one of other contigs.
    """
    data = index.read_bytes()
    if data[:2] == GZIP_MAGIC:
        with open_gzip(index) as file:
            data = file.read()
    if data[:4] == b"CSI\x01":
        _, _, depth, extra = _CSI_HEAD.unpack_from(data)
        position = _CSI_HEAD.size + extra
        reader = _Reader(data, _CSI_BIN, ((1 << 3 * (depth + 1)) - 1) // 7 + 1)
    else:
        position = 4
        reader = _Reader(data, _BAI_BIN, _PSEUDO_BIN_OF_BAI)
    is_index = data[:4] in (b"BAI\x01", b"CSI\x01")
    if not is_index or _NUMBER.unpack_from(data, position)[0] != len(contigs):
        raise ValueError(f"{index} is not the BAI or CSI of a BAM with {len(contigs)} contigs")
    position += _NUMBER.size
    lines = []
    for name, length in contigs:
        position, mapped, unmapped = reader.contig(position)
        lines.append(f"{name}\t{length}\t{mapped}\t{unmapped}\n")
    nowhere = _COUNT.unpack_from(data, position)[0] if position < len(data) else 0
    return "".join([*lines, f"*\t0\t0\t{nowhere}\n"])


class _Reader:
    """Reads an index whose counts are in the chunks of one bin of each contig, `pseudo_bin`."""

    def __init__(self, data: bytes, bin_head: struct.Struct, pseudo_bin: int) -> None:
        self._data = data
        self._bin_head = bin_head
        self._pseudo_bin = pseudo_bin

    def contig(self, position: int) -> tuple[int, int, int]:
        """Where the next contig begins, and this one's mapped and unmapped records."""
        mapped = unmapped = 0
        (bins,) = _NUMBER.unpack_from(self._data, position)
        position += _NUMBER.size
        for _ in range(bins):
            number, *_, chunks = self._bin_head.unpack_from(self._data, position)
            position += self._bin_head.size
            if number == self._pseudo_bin:
                mapped, unmapped = _CHUNK.unpack_from(self._data, position + _CHUNK.size)
            position += chunks * _CHUNK.size
        if self._bin_head is _BAI_BIN:
            (intervals,) = _NUMBER.unpack_from(self._data, position)
            position += _NUMBER.size + intervals * _COUNT.size
        return position, mapped, unmapped
