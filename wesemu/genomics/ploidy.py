"""Ploidy of a sample: a number, or a file in the format of `bcftools call --ploidy-file`.

Lines are CHROM, FROM, TO (1-based, both included), SEX, PLOIDY. `* * * SEX PLOIDY` gives the ploidy
of all other bases, which is 2 without such a line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from wesemu.errors import InputError, InvalidRequest
from wesemu.genomics.regions import NUMBER, Interval, check_contigs, other_naming, rows

DIPLOID = 2
HIGHEST = 100
_LARGEST_DIFFERENCE = 1.1
"""The lengths of a chromosome in two assemblies differ less; a region that ends further behind its
contig is meant to end with it."""

_ABLE: Mapping[str, tuple[int, bool]] = {
    "bcftools": (2, True),
    "freebayes": (HIGHEST, True),
    "gatk": (HIGHEST, False),
    "haplotypecaller": (2, False),
}
"""By caller: the highest ploidy, and whether the caller takes a ploidy by region."""


@dataclass(frozen=True, slots=True)
class Ploidy:
    """`default` copies of every base outside `regions`, which do not overlap.

    `warnings` are sentences about the file.
    """

    default: int
    regions: tuple[tuple[Interval, int], ...] = ()
    warnings: tuple[str, ...] = ()

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
        warnings: list[str] = []
        if contigs is not None:
            kept = self._known(regions, contigs)
            warnings += _warnings(kept, contigs)
            regions = [
                (interval._replace(end=min(interval.end, contigs[interval.contig])), copies)
                for interval, copies in kept
            ]
        return Ploidy(default[-1] if default else DIPLOID, tuple(regions), tuple(warnings))

    def _line(self, number: int, fields: list[str]) -> _Line:
        if len(fields) != 5 or not NUMBER.fullmatch(fields[4]):
            raise self._refused(
                number, f"{' '.join(fields)[:60]!r} is not CHROM FROM TO SEX PLOIDY."
            )
        contig, start, end, sex, copies = fields
        if contig == start == end == "*":
            return _Line(None, sex, int(copies), number)
        if not NUMBER.fullmatch(start) or not NUMBER.fullmatch(end) or int(start) < 1:
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

    def _known(
        self, regions: list[tuple[Interval, int]], contigs: Mapping[str, int]
    ) -> list[tuple[Interval, int]]:
        """Return the regions, which begin within their contigs.

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
        return kept

    def _refused(self, number: int, problem: str) -> InputError:
        return InputError(f"{self._name}, line {number}: {problem}", file=self._name, record=number)


def _warnings(regions: Iterable[tuple[Interval, int]], contigs: Mapping[str, int]) -> Iterator[str]:
    """Warn about regions that end a little behind their contigs: of another assembly."""
    for interval, _ in regions:
        length = contigs[interval.contig]
        if length < interval.end <= _LARGEST_DIFFERENCE * length:
            yield (
                f"The ploidy file has {_text_of(interval)}, and the contig has {length:,} bases: "
                "is the file for another assembly? Then its other regions are wrong, too."
            )


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
