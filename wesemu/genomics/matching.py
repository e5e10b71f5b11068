"""Which alleles of two call sets are the same change, whatever their notation.

What differs allele by allele is compared by the pairs of haplotypes that the genotypes of each
side can make within a small window, as vcfeval does (Cleary et al. 2015, doi 10.1101/023754).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

WINDOW = 30  # bp: changes nearer to each other than this are looked at together
MAX_HETEROZYGOUS = 8  # in one window; n of them have 2 ** (n - 1) phases


class Change(NamedTuple):
    """A canonical allele (see `alleles.canonical`) on `copies` (1, 2) haplotypes."""

    start: int
    ref: str
    alt: str
    copies: int

    @property
    def end(self) -> int:
        return self.start + len(self.ref)

    @property
    def is_snp(self) -> bool:
        return len(self.ref) == len(self.alt)


@dataclass(frozen=True)
class Verdict:
    """Changes of one contig: those of either side that matched, and those that did not."""

    truth_matched: list[Change]
    calls_matched: list[Change]
    missed: list[Change]
    invented: list[Change]

    def wrong_genotypes(self) -> list[Change]:
        """The missed changes whose allele was called with another number of copies."""
        alleles = {change[:3] for change in self.invented}
        return [change for change in self.missed if change[:3] in alleles]


def match(sequence: str, truth: Iterable[Change], calls: Iterable[Change]) -> Verdict:
    """Match the changes of one contig; a wrong genotype leaves both sides unmatched."""
    verdict = Verdict([], [], [], [])
    for expected, found in _windows(truth, calls):
        common = set(expected) & set(found)
        missed = [change for change in expected if change not in common]
        invented = [change for change in found if change not in common]
        if _same_haplotypes(sequence, expected, found) or _same_haplotypes(
            sequence, missed, invented
        ):
            missed, invented = [], []
        verdict.truth_matched.extend(change for change in expected if change not in missed)
        verdict.calls_matched.extend(change for change in found if change not in invented)
        verdict.missed.extend(missed)
        verdict.invented.extend(invented)
    return verdict


def _windows(
    truth: Iterable[Change], calls: Iterable[Change]
) -> Iterator[tuple[list[Change], list[Change]]]:
    """Changes of both sides, cut where more than WINDOW bp lie between two."""
    sides = sorted([(c, 0) for c in truth] + [(c, 1) for c in calls])
    window: tuple[list[Change], list[Change]] = ([], [])
    reach = 0
    for change, side in sides:
        if change.start > reach + WINDOW and any(window):
            yield window
            window = ([], [])
        window[side].append(change)
        reach = max(reach, change.end)
    if any(window):
        yield window


def _same_haplotypes(sequence: str, truth: Sequence[Change], calls: Sequence[Change]) -> bool:
    if truth == calls:
        return True
    if not truth or not calls:
        return False
    start = min(truth[0].start, calls[0].start)
    end = max(change.end for change in (*truth, *calls))
    possible = _haplotype_pairs(sequence, start, end, truth)
    return not possible.isdisjoint(_haplotype_pairs(sequence, start, end, calls))


def _haplotype_pairs(
    sequence: str, start: int, end: int, changes: Sequence[Change]
) -> set[tuple[str, str]]:
    """Every pair, in alphabetical order, that some phase of the genotypes makes of a window."""
    heterozygous = sum(change.copies == 1 for change in changes)
    if heterozygous > MAX_HETEROZYGOUS:
        return set()
    pairs: set[tuple[str, str]] = set()
    for phase in product((0, 1), repeat=max(0, heterozygous - 1)):
        sides = iter((0, *phase))
        carried: tuple[list[Change], list[Change]] = ([], [])
        for change in changes:
            for side in (0, 1) if change.copies == 2 else (next(sides),):
                carried[side].append(change)
        first, second = (_apply(sequence, start, end, side) for side in carried)
        if first is not None and second is not None:
            pairs.add((min(first, second), max(first, second)))
    return pairs


def _apply(sequence: str, start: int, end: int, changes: Sequence[Change]) -> str | None:
    """The window with the changes made; None where two of them exclude each other."""
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
