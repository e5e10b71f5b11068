"""Which index a BAM or VCF gets. BAI and TBI number positions up to 2^29 (SAM specification 5.2);
CSI has no such limit. The choice depends on the longest contig alone.
"""

from pathlib import Path
from typing import Literal

from wesemu.errors import InputError
from wesemu.genomics.bwaindex import index_fault, read_fai
from wesemu.genomics.fasta import is_gzip
from wesemu.genomics.reference_records import ReferenceRecords

IndexFormat = Literal["bai", "csi"]

LONGEST_IN_BAI = (1 << 29) - 1
"""Bases of a contig."""

CALLERS_WITH_CSI = ("bcftools", "freebayes")
"""Those that read such a BAM and whose VCF is indexed here."""

_MOST_IN_A_BYTE = 1032
"""Bytes that one byte of gzip data can stand for, at most."""


def may_need_csi(fasta: Path) -> bool:
    """Whether a contig may be too long for BAI, by the file's size alone."""
    try:
        most = fasta.stat().st_size * (_MOST_IN_A_BYTE if is_gzip(fasta) else 1)
    except (OSError, InputError):  # told when the file is needed
        return False
    return most > LONGEST_IN_BAI


def listed_index_format(fasta: Path) -> IndexFormat | None:
    """What the file's size or the .fai beside it tells; None if neither does. Quick."""
    if not may_need_csi(fasta):
        return "bai"
    if is_gzip(fasta) or index_fault(str(fasta)) is not None:
        return None
    return _format_for(max(int(length) for _, length in read_fai(str(fasta))))


def index_format(fasta: Path, records: Path) -> IndexFormat:
    """`csi` if a contig is too long for BAI. Where nothing else tells, the FASTA is read, once.

    Raises `InputError`.
    """
    listed = listed_index_format(fasta)
    return listed or _format_for(ReferenceRecords(records).facts(fasta).longest)


def _format_for(longest: int) -> IndexFormat:
    return "csi" if longest > LONGEST_IN_BAI else "bai"
