"""Files of genomic intervals: BED with targets, and the ploidy of a sample.

Intervals are checked against the contigs of the reference, because bcftools and freebayes skip
unknown contigs and end with an empty VCF.

Ploidy is a number, or a file in the format of `bcftools call --ploidy-file`. Its lines are CHROM,
FROM, TO (1-based, both included), SEX, PLOIDY. `* * * SEX PLOIDY` gives the ploidy of all other
bases, which is 2 without such a line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from wesemu.errors import InputError, InvalidRequest
from wesemu.genomics.bwa_index import read_fai
from wesemu.genomics.compare import read_lines

# Intervals

_NUMBER = re.compile(r"[0-9]{1,12}")
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
    if len(fields) < 3 or not all(map(_NUMBER.fullmatch, fields[1:3])):
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


# Ploidy

DIPLOID = 2
HIGHEST = 100

_ABLE: Mapping[str, tuple[int, bool]] = {
    "bcftools": (2, True),
    "freebayes": (HIGHEST, True),
    "gatk": (HIGHEST, False),
    "haplotypecaller": (2, False),
}
"""By caller: the highest ploidy, and whether the caller takes a ploidy by region."""


@dataclass(frozen=True, slots=True)
class Ploidy:
    """`default` copies of every base outside `regions`, which do not overlap."""

    default: int
    regions: tuple[tuple[Interval, int], ...] = ()

    @property
    def text(self) -> str:
        """The text in the header of the VCF: "2,X:1-60000=1", positions from 1."""
        parts = [str(self.default)]
        parts += [f"{_text_of(interval)}={copies}" for interval, copies in self.regions]
        return ",".join(parts)


def _text_of(interval: Interval) -> str:
    return f"{interval.contig}:{interval.start + 1}-{interval.end}"


def parse_ploidy(value: int | str) -> int | str:
    """Return a number (text is converted), or the name of a file. Raises InvalidRequest."""
    text = str(value).strip()
    if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", text):
        return text
    if not text.isdecimal() or not 1 <= int(text) <= HIGHEST:
        raise InvalidRequest(
            f"{text} is not possible; write a whole number from 1 to {HIGHEST}, or name a "
            "ploidy file",
            field="ploidy",
        )
    return int(text)


def check_ploidy(caller: str, ploidy: int | str, sex: str | None) -> None:
    """Raise InvalidRequest for a ploidy that `caller` does not take, or a sex without a file."""
    if sex is not None and isinstance(ploidy, int):
        raise InvalidRequest(
            "it chooses lines of a ploidy file; name the file as ploidy, or leave sex out",
            field="sex",
        )
    highest, by_region = _ABLE.get(caller, (0, False))
    if ploidy == DIPLOID:
        return
    if isinstance(ploidy, str) and not by_region:
        raise _unable(f"{caller} cannot call with a ploidy by region", "bcftools or freebayes")
    if isinstance(ploidy, int) and ploidy > highest:
        others = "freebayes or gatk" if ploidy > DIPLOID else "bcftools, freebayes or gatk"
        raise _unable(f"{caller} cannot call with ploidy {ploidy}", others)


def can_call(caller: str, ploidy: int | str) -> bool:
    """Return whether the caller takes the request's parameter `ploidy`."""
    try:
        check_ploidy(caller, parse_ploidy(ploidy), None)
    except InvalidRequest:
        return False
    return True


def _unable(problem: str, others: str) -> InvalidRequest:
    return InvalidRequest(f"{problem}; choose the caller {others}", field="ploidy")


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a ploidy file; the `interval` None stands for all other bases."""

    interval: Interval | None
    sex: str
    copies: int
    number: int


class PloidyFile:
    """A ploidy file that has been read; error messages call it `name`."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Raise InputError, with the line, for a file that is not a ploidy file."""
        self._name = name or path.name
        self._lines = [self._line(number, fields) for number, fields in rows(path, self._name)]
        if not self._lines:
            raise InputError(
                f"{self._name}: it has no lines; write CHROM FROM TO SEX PLOIDY.", file=self._name
            )

    def of(self, sex: str | None, contigs: Mapping[str, int] | None, caller: str) -> Ploidy:
        """Return the ploidy of a sample of that sex; None selects the only sex of the file.

        Regions end at the ends of their contigs. Without `contigs` they are not checked. Raises
        InputError.
        """
        chosen = self._chosen(sex)
        self._check_copies(chosen, caller)
        default = [line.copies for line in chosen if line.interval is None]
        regions = [(line.interval, line.copies) for line in chosen if line.interval is not None]
        self._check_overlaps(regions)
        if contigs is not None:
            regions = self._inside(regions, contigs)
        return Ploidy(default[-1] if default else DIPLOID, tuple(regions))

    def _line(self, number: int, fields: list[str]) -> _Line:
        if len(fields) != 5 or not _NUMBER.fullmatch(fields[4]):
            raise self._refused(
                number, f"{' '.join(fields)[:_SHOWN]!r} is not CHROM FROM TO SEX PLOIDY."
            )
        contig, start, end, sex, copies = fields
        if contig == start == end == "*":
            return _Line(None, sex, int(copies), number)
        if not _NUMBER.fullmatch(start) or not _NUMBER.fullmatch(end) or int(start) < 1:
            raise self._refused(number, f"{start} and {end} are not positions, counted from 1.")
        if int(end) < int(start):
            raise self._refused(number, f"the region ends at {end}, before its start {start}.")
        return _Line(Interval(contig, int(start) - 1, int(end), number), sex, int(copies), number)

    def _chosen(self, sex: str | None) -> list[_Line]:
        known = list(dict.fromkeys(line.sex for line in self._lines))
        if sex is None and len(known) > 1:
            raise InputError(
                f"{self._name}: it has lines for {' and '.join(known)}; name one of them as sex.",
                file=self._name,
            )
        chosen = [line for line in self._lines if sex is None or line.sex == sex]
        if not chosen:
            raise InputError(
                f"{self._name}: it has no line for the sex {sex!r}, only for "
                f"{' and '.join(known)}.",
                file=self._name,
            )
        return chosen

    def _check_copies(self, chosen: list[_Line], caller: str) -> None:
        highest, _ = _ABLE.get(caller, (HIGHEST, True))
        for line in chosen:
            if line.copies > highest:
                raise self._refused(
                    line.number,
                    f"{caller} cannot call with ploidy {line.copies}, {highest} at most.",
                )
            if line.interval is None and line.copies == 0:
                raise self._refused(
                    line.number, "the ploidy of all bases is 0, so nothing would be called."
                )

    def _check_overlaps(self, regions: list[tuple[Interval, int]]) -> None:
        for (one, _), (two, _) in pairwise(sorted(regions)):
            if one.contig == two.contig and two.start < one.end:
                raise self._refused(
                    max(one.line, two.line), f"{_text_of(one)} and {_text_of(two)} overlap."
                )

    def _inside(
        self, regions: list[tuple[Interval, int]], contigs: Mapping[str, int]
    ) -> list[tuple[Interval, int]]:
        """Return the regions, cut at the ends of their contigs.

        A region is left out if its contig has the name of another assembly and the file has the
        reference's name too: bcftools' own files have both.
        """
        names = {interval.contig for interval, _ in regions}
        kept = [
            (interval, copies)
            for interval, copies in regions
            if interval.contig in contigs
            or not other_naming(interval.contig) & names & contigs.keys()
        ]
        check_contigs((interval for interval, _ in kept), contigs, self._name)
        for interval, _ in kept:
            if interval.start >= contigs[interval.contig]:
                raise self._refused(
                    interval.line,
                    f"{_text_of(interval)} begins after the contig, which has "
                    f"{contigs[interval.contig]} bases.",
                )
        return [
            (interval._replace(end=min(interval.end, contigs[interval.contig])), copies)
            for interval, copies in kept
        ]

    def _refused(self, number: int, problem: str) -> InputError:
        return InputError(f"{self._name}, line {number}: {problem}", file=self._name, record=number)


def for_bcftools(ploidy: Ploidy) -> str:
    """Return a ploidy file with one sex, so that bcftools needs no file with the sex of samples."""
    lines = [
        f"{interval.contig}\t{interval.start + 1}\t{interval.end}\tM\t{copies}\n"
        for interval, copies in ploidy.regions
    ]
    return "".join([*lines, f"*\t*\t*\tM\t{ploidy.default}\n"])


def for_freebayes(ploidy: Ploidy, sample: str) -> str:
    """Return a map of copy numbers for `--cnv-map`."""
    return "".join(
        f"{interval.contig}\t{interval.start}\t{interval.end}\t{sample}\t{copies}\n"
        for interval, copies in ploidy.regions
    )
