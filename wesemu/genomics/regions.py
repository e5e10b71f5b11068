"""Read and check files of genomic intervals: BED with targets, and lines of ploidy files.

Intervals are checked against the contigs of the reference, because bcftools and freebayes skip
unknown contigs and end with an empty VCF.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from wesemu.errors import InputError
from wesemu.genomics.bwa_index import read_fai
from wesemu.genomics.fastq_file import GZIP_FAULTS, GZIP_MAGIC, open_gzip

NUMBER = re.compile(r"[0-9]{1,12}")
"""A position, or a ploidy, in a file of regions."""

_BLANKS = re.compile(r"[ \t]+")
_SHOWN = 60


class Interval(NamedTuple):
    """`start` is 0-based, `end` is after the last base; `line` counts from 1."""

    contig: str
    start: int
    end: int
    line: int = 0


def read_targets(path: Path, name: str | None = None) -> list[Interval]:
    """Return the intervals of a BED file, plain or gzip, in file order.

    Error messages call the file `name`. Comments, header lines, blank lines, CRLF and a byte order
    mark are skipped; intervals of 0 bases are left out. Raises InputError for other lines that are
    not BED, and for a file without a base.
    """
    name = name or path.name
    intervals = []
    for line, fields in rows(path, name):
        if fields[0] in ("track", "browser"):
            continue
        intervals.append(_interval(fields, line, name))
    kept = [interval for interval in intervals if interval.end > interval.start]
    if not kept:
        reason = "all its intervals are of 0 bases" if intervals else "it has no intervals"
        raise InputError(f"{name}: {reason}; name a BED file with targets.", file=name)
    return kept


def _interval(fields: Sequence[str], line: int, name: str) -> Interval:
    def refuse(problem: str) -> InputError:
        return InputError(f"{name}, line {line}: {problem}", file=name, record=line)

    if fields[0].startswith("@"):
        raise refuse("this is a Picard interval list; convert it to BED (contig, start, end).")
    if len(fields) < 3 or not all(map(NUMBER.fullmatch, fields[1:3])):
        shown = " ".join(fields)[:_SHOWN]
        raise refuse(
            f"{shown!r} is not a BED interval; write contig, start (from 0) and end, with tabs."
        )
    start, end = int(fields[1]), int(fields[2])
    if end < start:
        raise refuse(f"the interval ends at {end}, before its start {start}.")
    return Interval(fields[0], start, end, line)


def rows(path: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield numbered lines as fields, without comments and blank lines."""
    for number, text in read_lines(path):
        line = text.removeprefix("\ufeff") if number == 1 else text
        if "\0" in line or (number == 1 and "\ufffd" in line):
            raise InputError(
                f"{name}, line {number}: this is not text in UTF-8; save the file as plain text.",
                file=name,
                record=number,
            )
        if line.strip() and not line.startswith("#"):
            yield number, _BLANKS.split(line.strip())


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of a text file; gzip and bgzip are recognised by content.

    Raises InputError for data that is cut or damaged.
    """
    number = 0
    with path.open("rb") as raw:
        compressed = raw.peek(2)[:2] == GZIP_MAGIC
        stream = open_gzip(raw) if compressed else raw
        with TextIOWrapper(stream, encoding="utf-8", errors="replace") as text:
            try:
                for number, line in enumerate(text, start=1):
                    yield number, line.rstrip("\r\n")
            except GZIP_FAULTS as error:
                raise InputError(
                    f"{path.name} is damaged after line {number}: {error}", file=path.name
                ) from error


def contig_lengths(fasta: Path) -> dict[str, int]:
    """Return lengths by name, in the order of the .fai. Raises OSError, ValueError."""
    return {name: int(length) for name, length in read_fai(str(fasta))}


def check_contigs(intervals: Iterable[Interval], contigs: Mapping[str, int], file: str) -> None:
    """Raise InputError for a contig that the reference does not have."""
    lines: dict[str, int] = {}
    for each in intervals:
        if each.contig not in contigs:
            lines.setdefault(each.contig, each.line)
    if not lines:
        return
    name, line = next(iter(lines.items()))
    more = f" ({len(lines):,} names are unknown)" if len(lines) > 1 else ""
    known = f"{', '.join(list(contigs)[:5])}{', …' if len(contigs) > 5 else ''}"
    right = min(other_naming(name) & contigs.keys(), default=None)
    hint = f" The reference names it {right!r}." if right else ""
    raise InputError(
        f"{file}, line {line}: the reference has no contig {name!r}{more}; it has {known}.{hint} "
        "Use a file made for this reference.",
        file=file,
        record=line,
    )


def other_naming(contig: str) -> set[str]:
    """Return the names of a contig in other assemblies: 1 and chr1, MT and chrM."""
    bare = contig.removeprefix("chr")
    names = {bare, f"chr{bare}"}
    if bare in ("M", "MT"):
        names |= {"M", "MT", "chrM", "chrMT"}
    return names - {contig}


def normalized(
    intervals: Iterable[Interval], contigs: Mapping[str, int], file: str
) -> list[Interval]:
    """Return intervals in the order of the reference; overlapping and touching ones are joined.

    Raises InputError for a contig that the reference does not have, and for an interval that ends
    after its contig: such a file belongs to another reference.
    """
    ordered = list(intervals)
    check_contigs(ordered, contigs, file)
    for each in ordered:
        if each.end > contigs[each.contig]:
            raise InputError(
                f"{file}, line {each.line}: the interval {each.contig}:{each.start}-{each.end} "
                f"ends after the contig, which has {contigs[each.contig]} bases. Use a file made "
                "for this reference.",
                file=file,
                record=each.line,
            )
    rank = {name: number for number, name in enumerate(contigs)}
    return joined(sorted(ordered, key=lambda each: (rank[each.contig], each.start, each.end)))


def joined(ordered: Iterable[Interval]) -> list[Interval]:
    """Join sorted intervals that overlap or touch."""
    result: list[Interval] = []
    for each in ordered:
        last = result[-1] if result else None
        if last is not None and last.contig == each.contig and each.start <= last.end:
            result[-1] = last._replace(end=max(last.end, each.end))
        else:
            result.append(each)
    return result


def count_bases(intervals: Iterable[Interval]) -> int:
    """Count the bases of intervals in any order; a base in two of them counts once."""
    return sum(each.end - each.start for each in joined(sorted(intervals)))


def bed(intervals: Iterable[Interval]) -> str:
    return "".join(f"{each.contig}\t{each.start}\t{each.end}\n" for each in intervals)
