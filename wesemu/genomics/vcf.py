"""Read what a comparison needs from VCF, BED and FASTA files, plain or packed."""

from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from wesemu.errors import InputError
from wesemu.genomics.gzipped import GZIP_FAULTS, open_gzip

GZIP_MAGIC = b"\x1f\x8b"


class Record(NamedTuple):
    """Alleles of one VCF line that its first sample carries, each with its copies (1, 2).

    `start` is 0-based, `line` counts from 1; alleles are in upper case.
    """

    start: int
    ref: str
    alts: tuple[tuple[str, int], ...]
    line: int


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, gzip and bgzip recognised by content.

    Raises InputError for data that is cut or cannot be unpacked.
    """
    number = 0
    with path.open("rb") as raw:
        packed = raw.peek(2)[:2] == GZIP_MAGIC
        stream = open_gzip(raw) if packed else raw
        with TextIOWrapper(stream, encoding="utf-8", errors="replace") as text:
            try:
                for number, line in enumerate(text, start=1):
                    yield number, line.rstrip("\r\n")
            except GZIP_FAULTS as error:
                raise InputError(
                    f"{path.name} is damaged after line {number}: {error}", file=path.name
                ) from error


def read_vcf(path: Path, min_quality: float | None = None) -> dict[str, list[Record]]:
    """Records by contig, without those of a lower QUAL or whose genotype is all reference.

    Missing alleles (`./1`) count as reference; symbolic alleles, breakends and `*` are left out.

    Raises InputError for what is no VCF with genotypes.
    """
    records: dict[str, list[Record]] = {}
    seen_header = False
    for number, line in read_lines(path):
        if number == 1 and not line.startswith("##fileformat=VCF"):
            raise InputError(f"{path.name} is no VCF: it begins {line[:30]!r}", file=path.name)
        if line.startswith("#"):
            seen_header = seen_header or line.startswith("#CHROM")
            continue
        if not line:
            continue
        fields = line.split("\t")
        try:
            if min_quality is not None and fields[5] != "." and float(fields[5]) < min_quality:
                continue
            record = _parse_record(fields, number)
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{path.name}, line {number} is no VCF record with a genotype: {error}",
                file=path.name,
                record=number,
            ) from error
        if record.alts:
            records.setdefault(fields[0], []).append(record)
    if not seen_header:
        raise InputError(f"{path.name} has no #CHROM line: it is cut or empty", file=path.name)
    return records


def _parse_record(fields: list[str], number: int) -> Record:
    keys, values = fields[8].split(":"), fields[9].split(":")
    genotype = values[keys.index("GT")].replace("|", "/").split("/")
    alleles = [allele.upper() for allele in (fields[3], *fields[4].split(","))]
    carried = [int(index) for index in genotype if index not in (".", "0")]
    copies = 2 if len(genotype) == 1 else 1  # haploid: as on both
    alts = tuple(
        (alleles[index], min(2, copies * carried.count(index)))
        for index in sorted(set(carried))
        if alleles[index].isalpha()
    )
    return Record(int(fields[1]) - 1, alleles[0], alts, number)


def read_bed(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Half-open 0-based intervals by contig, sorted, overlapping ones joined.

    Raises InputError for a line that is no interval.
    """
    intervals: dict[str, list[tuple[int, int]]] = {}
    for number, line in read_lines(path):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        try:
            contig, start, end = line.split()[:3]
            intervals.setdefault(contig, []).append((int(start), int(end)))
        except ValueError as error:
            raise InputError(
                f"{path.name}, line {number} is no BED interval: {line[:60]!r}",
                file=path.name,
                record=number,
            ) from error
    return {contig: _join(found) for contig, found in intervals.items()}


def _join(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            start, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((start, end))
    return joined


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Name and upper-case sequence of one contig after the other.

    Raises InputError where there is no header before the first base.
    """
    name: str | None = None
    pieces: list[str] = []
    for number, line in read_lines(path):
        if line.startswith(">"):
            if name is not None:
                yield name, "".join(pieces).upper()
            name, pieces = (line[1:].split() or [""])[0], []
        elif name is None:
            raise InputError(
                f"{path.name} is no FASTA: it begins {line[:30]!r}", file=path.name, record=number
            )
        else:
            pieces.append(line.strip())
    if name is not None:
        yield name, "".join(pieces).upper()
