"""Index files of bwa, bwa-mem2 and bwa-mem3 beside a FASTA: contigs, completeness, names.

`fingerprint` identifies the content of any input file.

Formats: bwa 0.7.17, `bntseq.c` (.ann, .pac) and `bwt.c` (.bwt, .sa). The three programs share
.amb, .ann and .pac, so all their indexes can lie beside one FASTA.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from wesemu.errors import InputError

WHOLE_UP_TO = 4 << 20
"""Bytes. `fingerprint` reads a file of up to this size completely."""


def fingerprint(path: str | Path) -> str:
    """Return a text that differs for different contents; "missing" if there is no such file.

    A small file gives its SHA-256, whatever its times, as Snakemake's own checksums do. A large
    file gives its size, its modification time and the SHA-256 of its first and last mebibyte. So a
    change in the middle that keeps size and time goes unnoticed.
    """
    import hashlib

    file = Path(path)
    if not file.is_file():
        return "missing"
    status = file.stat()
    digest = hashlib.sha256()
    with file.open("rb") as content:
        if status.st_size <= WHOLE_UP_TO:
            digest.update(content.read())
            return digest.hexdigest()
        digest.update(content.read(1 << 20))
        content.seek(-(1 << 20), 2)
        digest.update(content.read())
    return f"{status.st_size} {status.st_mtime_ns} {digest.hexdigest()}"


SHARED_SUFFIXES = (".amb", ".ann", ".pac")
"""Files that all three indexes share."""

SUFFIXES = (".amb", ".ann", ".bwt", ".pac", ".sa")
SUFFIXES_OF = {
    "bwa": SUFFIXES,
    "bwa-mem2": (".amb", ".ann", ".pac", ".0123", ".bwt.2bit.64"),
    "bwa-mem3": (".amb", ".ann", ".pac", ".bwt.2bit.64"),
}
"""Files by program; `PROGRAM index FASTA` makes them."""

_SMALL = 50_000_000
_BYTES_OF_SMALL, _BYTES_OF_LARGE = 11, 1.6
"""Memory of `bwa index` for each base: measured 42 MiB for 4 Mbp; an estimate beyond _SMALL."""
_BYTES_OF_BWA_MEM2 = 28
_BYTES_OF_BWA_MEM3, _MORE_OF_BWA_MEM3 = 3.1, 300_000_000
"""For each base: bwa's transform and the suffix array. In all: one chunk that is being written."""

_SUFFIX_ARRAY_INTERVAL = 32
# SAM specification 1.2.1, without the characters that bcftools and region strings cannot handle
_CONTIG_NAME = re.compile(r"[0-9A-Za-z!$%&+./:;?@^_|~-][0-9A-Za-z!#$%&*+./:;=?@^_|~-]*")


class Contig(NamedTuple):
    """A reference sequence: `length` in bases; the .alt file lists `alternate` ones."""

    name: str
    length: int
    alternate: bool = False


def read_contigs(reference: str) -> list[Contig]:
    """Return the contigs of an indexed FASTA in file order.

    Raises OSError, ValueError, IndexError, StopIteration for a file that is cut.
    """
    alternates = _read_alternates(Path(reference + ".alt"))
    with Path(reference + ".ann").open(encoding="utf-8", errors="surrogateescape") as lines:
        count = int(next(lines).split()[1])
        contigs = []
        for _ in range(count):
            name = next(lines).split(maxsplit=2)[1]
            length = int(next(lines).split()[1])
            contigs.append(Contig(name, length, name in alternates))
    return contigs


def _read_alternates(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            return {line.split("\t", 1)[0].strip() for line in lines if not line.startswith("@")}
    except FileNotFoundError:
        return set()


def read_fai(reference: str) -> list[tuple[str, str]]:
    """Return names and lengths (as text) from the .fai of a FASTA. Raises OSError, ValueError."""
    with Path(reference + ".fai").open(encoding="utf-8", errors="surrogateescape") as lines:
        fields = [line.split("\t") for line in lines]
    return [(name, length) for name, length, _offset, _bases, _width in fields]


def index_fault(reference: str, indexer: str = "bwa") -> str | None:
    """Return why the .fai and the index of `reference` cannot be used, or None if they can.

    Compares sizes and names only, which is cheap and finds a cut or half-built index;
    `reference_records.index_mismatch` compares contents.
    """
    try:
        contigs = read_contigs(reference)
        listed = read_fai(reference)
        if listed != [(contig.name, str(contig.length)) for contig in contigs]:
            return f"{reference}.fai and {reference}.ann name different sequences"
        bases = sum(contig.length for contig in contigs)
        for suffix in SUFFIXES_OF[indexer]:
            if _is_cut(indexer, suffix, Path(reference + suffix).stat().st_size, bases):
                return f"{reference}{suffix} is incomplete"
    except (OSError, ValueError, IndexError, StopIteration) as error:
        return f"{reference} has no complete index ({error})"
    return None


def _is_cut(indexer: str, suffix: str, size: int, bases: int) -> bool:
    """Return whether a file is too short. For bwa-mem2's own files only a lower bound is known: one
    byte for each base of both strands."""
    if indexer == "bwa-mem2" and suffix in (".0123", ".bwt.2bit.64"):
        return size < 2 * bases
    exact = _index_sizes(bases).get(suffix)
    return exact is not None and size != exact


def _index_sizes(bases: int) -> dict[str, int]:
    """Return the exact bytes of each binary file; the BWT covers both strands."""
    both = 2 * bases
    occurrence_blocks = (both + 127) // 128 + 1
    samples = (both + _SUFFIX_ARRAY_INTERVAL) // _SUFFIX_ARRAY_INTERVAL - 1
    return {
        ".pac": (bases + 3) // 4 + (bases % 4 == 0) + 1,
        ".bwt": 40 + 4 * ((both + 15) // 16 + 8 * occurrence_blocks),
        ".sa": 56 + 8 * samples,
        # the layout that `fm_index.write_index` writes
        ".bwt.2bit.64": 56 + 64 * ((both + 1) // 64 + 1) + 5 * ((both + 1) // 8 + 1),
    }


def indexing_memory_mb(indexer: str, size: int) -> int:
    """Return the MiB that indexing a FASTA of `size` bytes takes."""
    needed = max(min(size, _SMALL) * _BYTES_OF_SMALL, size * _BYTES_OF_LARGE)
    if indexer == "bwa-mem2":
        needed = size * _BYTES_OF_BWA_MEM2
    elif indexer == "bwa-mem3":
        needed = max(needed, size * _BYTES_OF_BWA_MEM3 + _MORE_OF_BWA_MEM3)
    return math.ceil(needed / 2**20)


def check_names(names: Iterable[str], file: str) -> None:
    """Raise `InputError` for names that are not allowed in SAM, or occur twice.

    SAM allows a # at the start, but such lines are comments in VCF and BED files.
    """
    seen: dict[str, int] = {}
    for record, name in enumerate(names, 1):
        if not _CONTIG_NAME.fullmatch(name):
            raise InputError(
                f"{file}: the sequence name {name!r} (number {record}) is not allowed in SAM "
                "and VCF: its variants would be lost. Rename it: no commas, brackets, quotes or "
                "backslashes, and no *, = or # at the start.",
                file=file,
                record=record,
            )
        if name in seen:
            raise InputError(
                f"{file}: two sequences are named {name!r} (numbers {seen[name]} and {record}). "
                "Rename or remove one.",
                file=file,
                record=record,
            )
        seen[name] = record
