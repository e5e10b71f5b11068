"""Compare called variants with a truth set, by genotype and whatever their notation."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wesemu.errors import InputError
from wesemu.genomics.alleles import canonical
from wesemu.genomics.matching import Change, Verdict, match
from wesemu.genomics.vcf import Record, read_bed, read_fasta, read_vcf


@dataclass(frozen=True)
class Score:
    """Alleles found, invented and missed.

    `tp` counts alleles of the truth, `tp_calls` alleles of the calls that match them: the two
    differ where one side writes as two alleles what is one to the other. A wrong genotype is
    both an `fp` and an `fn`. Of nothing at all everything is right: a ratio of 0 to 0 is 1.
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
    """Scores by kind; `wrong_genotypes` counts the missed whose allele was called."""

    snps: Score
    indels: Score
    wrong_genotypes: int

    @property
    def all(self) -> Score:
        return self.snps + self.indels


def compare(
    truth: Path,
    calls: Path,
    reference: Path,
    *,
    bed: Path | None = None,
    min_quality: float = 20.0,
) -> Comparison:
    """Score the first sample of `calls` against the first sample of `truth`.

    VCFs are plain, gzip or bgzip; `reference` is a FASTA, plain or packed, of which one contig
    at a time is held. Calls below `min_quality` (Phred) are left out, those without a QUAL are
    not. With `bed`, only alleles that begin inside count, though others may match them.

    Raises InputError for a file that is cut or of another kind, and where alleles do not agree
    with the reference.
    """
    expected, found = read_vcf(truth), read_vcf(calls, min_quality)
    regions = None if bed is None else read_bed(bed)
    total = Comparison(Score(0, 0, 0, 0), Score(0, 0, 0, 0), 0)
    for contig, sequence in read_fasta(reference):
        verdict = match(
            sequence,
            _changes(sequence, expected.pop(contig, []), truth, reference),
            _changes(sequence, found.pop(contig, []), calls, reference),
        )
        if regions is not None:
            verdict = _restrict(verdict, regions.get(contig, []))
        total = Comparison(
            total.snps + _score(verdict, of_snps=True),
            total.indels + _score(verdict, of_snps=False),
            total.wrong_genotypes + len(verdict.wrong_genotypes()),
        )
    for path, left in ((truth, expected), (calls, found)):
        for contig, records in left.items():
            raise _disagreement(path, records[0], f"{reference.name} has no contig {contig}")
    return total


def _changes(sequence: str, records: Iterable[Record], path: Path, reference: Path) -> list[Change]:
    """Canonical changes of one contig, equal ones added up, substitutions cut into SNPs."""
    copies: dict[tuple[int, str, str], int] = {}
    for record in records:
        if sequence[record.start : record.start + len(record.ref)] != record.ref:
            raise _disagreement(path, record, f"REF is not what {reference.name} has there")
        for alt, count in record.alts:
            for part in _split(*canonical(sequence, record.start, record.ref, alt)):
                copies[part] = min(2, copies.get(part, 0) + count)
    return [Change(*allele, count) for allele, count in copies.items()]


def _split(start: int, ref: str, alt: str) -> list[tuple[int, str, str]]:
    if len(ref) != len(alt):
        return [(start, ref, alt)]
    pairs = enumerate(zip(ref, alt, strict=True), start)
    return [(place, old, new) for place, (old, new) in pairs if old != new]


def _disagreement(path: Path, record: Record, what: str) -> InputError:
    return InputError(
        f"{path.name}, line {record.line}: {what}; is this the right reference?",
        file=path.name,
        record=record.line,
    )


def _restrict(verdict: Verdict, intervals: Sequence[tuple[int, int]]) -> Verdict:
    """What begins inside the intervals (sorted, disjoint, half-open)."""
    starts = [start for start, _ in intervals]

    def inside(changes: Iterable[Change]) -> list[Change]:
        kept = []
        for change in changes:
            nearest = bisect_right(starts, change.start) - 1
            if nearest >= 0 and change.start < intervals[nearest][1]:
                kept.append(change)
        return kept

    return Verdict(
        inside(verdict.truth_matched),
        inside(verdict.calls_matched),
        inside(verdict.missed),
        inside(verdict.invented),
    )


def _score(verdict: Verdict, *, of_snps: bool) -> Score:
    def count(changes: Iterable[Change]) -> int:
        return sum(change.is_snp == of_snps for change in changes)

    return Score(
        count(verdict.truth_matched),
        count(verdict.calls_matched),
        count(verdict.invented),
        count(verdict.missed),
    )
