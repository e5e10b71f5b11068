"""Compare called variants with a truth set, by genotype and whatever their notation.

`compare` scores two VCF files. Below it: a canonical form for alleles, matching by haplotypes, and
readers for VCF and FASTA, plain or gzip.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

from wesemu.errors import InputError
from wesemu.genomics.regions import Interval, check_contigs, joined, read_lines, read_targets

# The canonical form of an allele: the same change always has the same form.


def canonical(sequence: str, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Trim the bases that `ref` and `alt` share, and move a pure indel as far left as possible.

    `start` is the 0-based position of `ref` in `sequence`. The result has no anchor base: an
    insertion has an empty `ref`, a deletion an empty `alt`, and no change has both empty. With an
    anchor it is the normal form of Tan et al. 2015 (doi 10.1093/bioinformatics/btv112).
    """
    start, ref, alt = _trimmed(start, ref, alt)
    if bool(ref) == bool(alt):
        return start, ref, alt
    changed = ref or alt
    shift = 0
    while start > shift and changed[-1 - shift % len(changed)] == sequence[start - 1 - shift]:
        shift += 1
    turn = shift % len(changed)
    changed = changed[len(changed) - turn :] + changed[: len(changed) - turn]
    return start - shift, changed if ref else "", changed if alt else ""


def _trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    shared = 0
    while ref[shared : shared + 1] == alt[shared : shared + 1] != "":
        shared += 1
    start, ref, alt = start + shared, ref[shared:], alt[shared:]
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    return start, ref, alt


def anchored(sequence: str, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Return the canonical form as in a VCF: indels begin with the base before them.

    A change before the first base has the base after it as its anchor (VCF 4.2, section 1.4.1).
    """
    start, ref, alt = canonical(sequence, start, ref, alt)
    if ref and alt:
        return start, ref, alt
    if start == 0:
        after = sequence[len(ref)]
        return start, ref + after, alt + after
    before = sequence[start - 1]
    return start - 1, before + ref, before + alt


# Match the alleles of two call sets by the haplotypes that they make.

WINDOW = 30  # bp: changes nearer to each other are matched together
MAX_HETEROZYGOUS = 8  # in one window: n of them have 2 ** (n - 1) phases


class HaplotypeChange(NamedTuple):
    """A canonical allele (see `canonical`) on `copies` (1, 2) haplotypes.

    `written` is the allele at its place in the file. Beside another change of the same haplotype,
    only this place makes the right sequence.
    """

    start: int
    ref: str
    alt: str
    copies: int
    written: tuple[int, str, str]

    @property
    def end(self) -> int:
        return self.start + len(self.ref)

    @property
    def reach(self) -> int:
        """The end of both forms; the canonical one never begins after the written one."""
        return max(self.end, self.written[0] + len(self.written[1]))

    @property
    def is_snp(self) -> bool:
        return len(self.ref) == len(self.alt)


@dataclass(frozen=True)
class Verdict:
    """Changes of one contig: matched on either side, `missed` of the truth, `invented` calls."""

    truth_matched: list[HaplotypeChange]
    calls_matched: list[HaplotypeChange]
    missed: list[HaplotypeChange]
    invented: list[HaplotypeChange]

    def wrong_genotypes(self) -> list[HaplotypeChange]:
        """Return the missed changes whose allele was called with another number of copies."""
        alleles = {change[:3] for change in self.invented}
        return [change for change in self.missed if change[:3] in alleles]


def match(
    sequence: str, truth: Iterable[HaplotypeChange], calls: Iterable[HaplotypeChange]
) -> Verdict:
    """Match the changes of one contig; with a wrong genotype both sides stay unmatched."""
    verdict = Verdict([], [], [], [])
    for expected, called in _windows(truth, calls):
        common = {change[:4] for change in expected} & {change[:4] for change in called}
        missed = [change for change in expected if change[:4] not in common]
        invented = [change for change in called if change[:4] not in common]
        if _same_haplotypes(sequence, expected, called) or _same_haplotypes(
            sequence, missed, invented
        ):
            missed, invented = [], []
        verdict.truth_matched.extend(change for change in expected if change not in missed)
        verdict.calls_matched.extend(change for change in called if change not in invented)
        verdict.missed.extend(missed)
        verdict.invented.extend(invented)
    return verdict


def _windows(
    truth: Iterable[HaplotypeChange], calls: Iterable[HaplotypeChange]
) -> Iterator[tuple[list[HaplotypeChange], list[HaplotypeChange]]]:
    """Yield the changes of both sides in groups that are more than WINDOW bp apart."""
    sides = sorted([(c, 0) for c in truth] + [(c, 1) for c in calls])
    window: tuple[list[HaplotypeChange], list[HaplotypeChange]] = ([], [])
    reach = 0
    for change, side in sides:
        if change.start > reach + WINDOW and any(window):
            yield window
            window = ([], [])
        window[side].append(change)
        reach = max(reach, change.reach)
    if any(window):
        yield window


def _same_haplotypes(
    sequence: str, truth: Sequence[HaplotypeChange], calls: Sequence[HaplotypeChange]
) -> bool:
    if not truth or not calls:
        return truth == calls
    start = min(truth[0].start, calls[0].start)
    end = max(change.reach for change in (*truth, *calls))
    possible = _haplotype_pairs(sequence, start, end, truth)
    return not possible.isdisjoint(_haplotype_pairs(sequence, start, end, calls))


def _haplotype_pairs(
    sequence: str, start: int, end: int, changes: Sequence[HaplotypeChange]
) -> set[tuple[str, str]]:
    """Return every pair of haplotypes, sorted, that some phase of the genotypes makes, with the
    changes in their canonical form and as written."""
    heterozygous = sum(change.copies == 1 for change in changes)
    if heterozygous > MAX_HETEROZYGOUS:
        return set()
    pairs: set[tuple[str, str]] = set()
    written = sorted(HaplotypeChange(*each.written, each.copies, each.written) for each in changes)
    phases = [*product((0, 1), repeat=max(0, heterozygous - 1))]
    for form, phase in product((changes, written), phases):
        sides = iter((0, *phase))
        carried: tuple[list[HaplotypeChange], list[HaplotypeChange]] = ([], [])
        for change in form:
            for side in (0, 1) if change.copies == 2 else (next(sides),):
                carried[side].append(change)
        first, second = (_apply(sequence, start, end, side) for side in carried)
        if first is not None and second is not None:
            pairs.add((min(first, second), max(first, second)))
    return pairs


def _apply(sequence: str, start: int, end: int, changes: Sequence[HaplotypeChange]) -> str | None:
    """Return the window with the changes applied; None where two of them conflict."""
    pieces: list[str] = []
    done, insertion = start, -1
    for change in changes:
        if change.start < done or change.start == insertion == change.end:
            return None
        pieces += (sequence[done : change.start], change.alt)
        done = change.end
        insertion = -1 if change.ref else change.start
    pieces.append(sequence[done:end])
    return "".join(pieces)


# Read VCF and FASTA files, plain or gzip.


class Record(NamedTuple):
    """The alleles of one VCF line that its first sample has, each with its copies (1, 2).

    `start` is 0-based, `line` counts from 1; alleles are in upper case.
    """

    start: int
    ref: str
    alts: tuple[tuple[str, int], ...]
    line: int


def read_vcf(path: Path, min_quality: float | None = None) -> dict[str, list[Record]]:
    """Return records by contig, without those of a lower QUAL or a reference genotype.

    Missing alleles (`./1`) count as reference; symbolic alleles, breakends and `*` are left out.
    Raises InputError for a file that is not a VCF with genotypes.
    """
    records: dict[str, list[Record]] = {}
    seen_header = False
    for number, line in read_lines(path):
        if number == 1 and not line.startswith("##fileformat=VCF"):
            raise InputError(f"{path.name} is not VCF: it begins {line[:30]!r}", file=path.name)
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
                f"{path.name}, line {number} is not a VCF record with a genotype: {error}",
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
    # VCF 4.4 allows a separator before the first allele
    genotype = values[keys.index("GT")].replace("|", "/").removeprefix("/").split("/")
    alleles = [allele.upper() for allele in (fields[3], *fields[4].split(","))]
    carried = [int(index) for index in genotype if index not in (".", "0")]
    copies = 2 if len(genotype) == 1 else 1  # haploid counts as homozygous
    alts = tuple(
        (alleles[index], min(2, copies * carried.count(index)))
        for index in sorted(set(carried))
        if alleles[index].isalpha()
    )
    return Record(int(fields[1]) - 1, alleles[0], alts, number)


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and upper-case sequence of each contig.

    Raises InputError where no header comes before the first base.
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
                f"{path.name} is not FASTA: it begins {line[:30]!r}", file=path.name, record=number
            )
        else:
            pieces.append(line.strip())
    if name is not None:
        yield name, "".join(pieces).upper()


# Score the calls.


@dataclass(frozen=True)
class Score:
    """Counts of alleles: found, invented and missed.

    `tp` counts alleles of the truth, `tp_calls` the alleles of the calls that match them. The two
    differ where one side writes one allele as two. A wrong genotype is both an `fp` and an `fn`.
    A ratio of 0 to 0 is 1.
    """

    tp: int
    tp_calls: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        return self.tp_calls / (self.tp_calls + self.fp) if self.tp_calls + self.fp else 1.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 1.0

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.tp + other.tp,
            self.tp_calls + other.tp_calls,
            self.fp + other.fp,
            self.fn + other.fn,
        )


@dataclass(frozen=True)
class Comparison:
    """Scores by kind; `wrong_genotypes` counts missed alleles called with other copies."""

    snps: Score
    indels: Score
    wrong_genotypes: int

    @property
    def all(self) -> Score:
        return self.snps + self.indels


def compare(
    truth: Path, calls: Path, reference: Path, *, bed: Path | None = None, min_quality: float = 20.0
) -> Comparison:
    """Score the first sample of `calls` against the first sample of `truth`.

    VCFs are plain, gzip or bgzip; `reference` is a FASTA, plain or gzip, and one contig at a time
    is in memory. Calls below `min_quality` (Phred) are left out; calls without a QUAL stay. With
    `bed`, only alleles that begin inside count, but alleles outside may match them.

    Raises InputError for a file that is cut or of another type, where alleles do not agree with the
    reference, and for a BED without any of its contigs.
    """
    total = Comparison(Score(0, 0, 0, 0), Score(0, 0, 0, 0), 0)
    for _, _, verdict in verdicts(truth, calls, reference, bed=bed, min_quality=min_quality):
        total = Comparison(
            total.snps + _score(verdict, of_snps=True),
            total.indels + _score(verdict, of_snps=False),
            total.wrong_genotypes + len(verdict.wrong_genotypes()),
        )
    return total


def verdicts(
    truth: Path, calls: Path, reference: Path, *, bed: Path | None = None, min_quality: float = 20.0
) -> Iterator[tuple[str, str, Verdict]]:
    """Yield name, sequence and verdict of each contig; arguments and errors as for `compare`."""
    expected, called = read_vcf(truth), read_vcf(calls, min_quality)
    intervals = [] if bed is None else sorted(read_targets(bed))
    regions = {contig: joined(each) for contig, each in groupby(intervals, lambda x: x.contig)}
    lengths = dict[str, int]()
    for contig, sequence in read_fasta(reference):
        lengths[contig] = len(sequence)
        verdict = match(
            sequence,
            _changes(sequence, expected.pop(contig, []), truth, reference),
            _changes(sequence, called.pop(contig, []), calls, reference),
        )
        if bed is not None:
            verdict = _restrict(verdict, regions.get(contig, []))
        yield contig, sequence, verdict
    if bed is not None and lengths.keys().isdisjoint(regions):
        check_contigs(intervals, lengths, bed.name)
    for path, left in ((truth, expected), (calls, called)):
        for contig, records in left.items():
            raise _disagreement(path, records[0], f"{reference.name} has no contig {contig}")


def _changes(
    sequence: str, records: Iterable[Record], path: Path, reference: Path
) -> list[HaplotypeChange]:
    """Return canonical changes of one contig: equal ones summed, substitutions split into SNPs."""
    copies: dict[tuple[int, str, str], int] = {}
    places: dict[tuple[int, str, str], tuple[int, str, str]] = {}
    for record in records:
        if not _agrees(sequence[record.start : record.start + len(record.ref)], record.ref):
            raise _disagreement(path, record, f"REF is not what {reference.name} has there")
        for alt, count in record.alts:
            written = _trimmed(record.start, record.ref, alt)
            for part in _split(*canonical(sequence, *written)):
                copies[part] = min(2, copies.get(part, 0) + count)
                places.setdefault(part, part if len(part[1]) == len(part[2]) else written)
    return [HaplotypeChange(*each, count, places[each]) for each, count in copies.items()]


def _agrees(sequence: str, ref: str) -> bool:
    """Return whether REF is this part of the reference.

    VCF has no IUPAC codes for ambiguous bases: N or one of the bases stands for them.
    """
    if sequence == ref:
        return True
    return len(sequence) == len(ref) and all(
        base == letter or base not in "ACGT" for base, letter in zip(sequence, ref, strict=True)
    )


def _split(start: int, ref: str, alt: str) -> list[tuple[int, str, str]]:
    if len(ref) != len(alt):
        return [(start, ref, alt)]
    pairs = enumerate(zip(ref, alt, strict=True), start)
    return [(position, old, new) for position, (old, new) in pairs if old != new]


def _disagreement(path: Path, record: Record, what: str) -> InputError:
    return InputError(
        f"{path.name}, line {record.line}: {what}; is this the right reference?",
        file=path.name,
        record=record.line,
    )


def _restrict(verdict: Verdict, intervals: Sequence[Interval]) -> Verdict:
    """Return the changes that begin inside the intervals (sorted, disjoint)."""
    starts = [each.start for each in intervals]

    def inside(changes: Iterable[HaplotypeChange]) -> list[HaplotypeChange]:
        kept = []
        for change in changes:
            nearest = bisect_right(starts, change.start) - 1
            if nearest >= 0 and change.start < intervals[nearest].end:
                kept.append(change)
        return kept

    return Verdict(
        inside(verdict.truth_matched),
        inside(verdict.calls_matched),
        inside(verdict.missed),
        inside(verdict.invented),
    )


def _score(verdict: Verdict, *, of_snps: bool) -> Score:
    def count(changes: Iterable[HaplotypeChange]) -> int:
        return sum(change.is_snp == of_snps for change in changes)

    return Score(
        count(verdict.truth_matched),
        count(verdict.calls_matched),
        count(verdict.invented),
        count(verdict.missed),
    )
