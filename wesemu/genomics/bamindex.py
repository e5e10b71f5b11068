"""`samtools idxstats` out of a BAI: the index alone tells it. SAM specification 5.2."""

import struct
from collections.abc import Sequence
from pathlib import Path

_PSEUDO_BIN = 37450
_CHUNK = struct.Struct("<QQ")
_BIN = struct.Struct("<Ii")
_NUMBER = struct.Struct("<i")
_COUNT = struct.Struct("<Q")


def idxstats(index: Path, contigs: Sequence[tuple[str, str]]) -> str:
    """Name, length (as text), mapped and unmapped records of each contig; last those nowhere.

    Raises ValueError for a file that is no BAI, or one of other contigs.
    """
    data = index.read_bytes()
    if data[:4] != b"BAI\x01" or _NUMBER.unpack_from(data, 4)[0] != len(contigs):
        raise ValueError(f"{index} is not the BAI of a BAM with {len(contigs)} contigs")
    lines = []
    position = 8
    for name, length in contigs:
        position, mapped, unmapped = _contig(data, position)
        lines.append(f"{name}\t{length}\t{mapped}\t{unmapped}\n")
    nowhere = _COUNT.unpack_from(data, position)[0] if position < len(data) else 0
    return "".join([*lines, f"*\t0\t0\t{nowhere}\n"])


def _contig(data: bytes, position: int) -> tuple[int, int, int]:
    """Where the next contig begins, and this one's mapped and unmapped records."""
    mapped = unmapped = 0
    (bins,) = _NUMBER.unpack_from(data, position)
    position += _NUMBER.size
    for _ in range(bins):
        number, chunks = _BIN.unpack_from(data, position)
        position += _BIN.size
        if number == _PSEUDO_BIN:
            mapped, unmapped = _CHUNK.unpack_from(data, position + _CHUNK.size)
        position += chunks * _CHUNK.size
    (intervals,) = _NUMBER.unpack_from(data, position)
    return position + _NUMBER.size + intervals * _COUNT.size, mapped, unmapped
