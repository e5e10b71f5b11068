"""The genome of a fixture: contigs with repeats, a diploid sample, and its truth VCF.

`RandomSource` gives draws that are the same on every Python and platform.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from wesemu.errors import InvalidRequest
from wesemu.genomics.compare import anchored

T = TypeVar("T")


class RandomSource:
    """A seeded stream of random draws; the streams of one seed are independent.

    Built on `Random.random` alone: Python promises to keep that method and integer seeding
    (documentation of `random`, "Notes on reproducibility"), not `choice`, `shuffle` or `gauss`.
    Functions of the C mathematics library are avoided: platforms differ in the last bit.
    """

    def __init__(self, seed: int, stream: int) -> None:
        self.uniform = Random((seed << 8) | stream).random  # noqa: S311 - no secret

    def below(self, limit: int) -> int:
        """Return an integer from 0 to limit - 1."""
        return int(self.uniform() * limit)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def normal(self, mean: float, deviation: float) -> float:
        """Return a nearly normal number within six deviations: a sum of twelve uniform draws."""
        total = 0.0
        for _ in range(12):  # not sum(): it compensates rounding errors since Python 3.12
            total += self.uniform()
        return mean + deviation * (total - 6.0)

    def shuffle(self, items: list[T]) -> None:
        """Shuffle in place (Fisher-Yates)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def bases(self, length: int, gc: float = 0.5) -> str:
        """Return independent bases; `gc` is the share of G and C."""
        half = gc / 2
        return "".join(
            "G" if u < half else "C" if u < gc else "A" if u < 0.5 + half else "T"
            for u in (self.uniform() for _ in range(length))
        )


SAMPLE = "SIM"
EDGE = 500  # bp at the ends of a contig, where the depth rises and falls
SPACING = 120  # bp between variants, and between a variant and a repeat
SHORTEST_CONTIG = 10_000
INSERTIONS = (1, 2, 10, 1, 4, 20, 3, 1, 16, 6, 2, 14, 5, 12, 8, 18)  # longer ones need luck
DELETIONS = (1, 2, 10, 1, 4, 20, 3, 1, 30, 6, 2, 15, 5, 12, 8, 25)
LONGEST_TANDEM = 10
TANDEMS = (("CA", 18), ("AAAG", 11), ("GAA", 13), ("A", 12), ("T", 15), ("G", 9))
TRANSITIONS = {"A": "G", "G": "A", "C": "T", "T": "C"}
TRANSVERSIONS = {"A": "CT", "G": "CT", "C": "AG", "T": "AG"}
COMPLEMENT = str.maketrans("ACGT", "TGCA")


@dataclass(frozen=True)
class SimulatedContig:
    """One sequence of the reference; `repeats` are half-open 0-based intervals, sorted."""

    name: str
    sequence: str
    repeats: tuple[tuple[int, int], ...]

    def mask(self, margin: int = 0) -> bytearray:
        """Return one byte for each base: 1 within `margin` bp of a repeat, else 0."""
        mask = bytearray(len(self.sequence))
        for start, end in self.repeats:
            start, end = max(0, start - margin), min(len(mask), end + margin)
            mask[start:end] = b"\1" * (end - start)
        return mask


@dataclass(frozen=True)
class Variant:
    """A left-normalised VCF record: 0-based `start`, the allele on each of the two haplotypes."""

    contig: str
    start: int
    ref: str
    alt: str
    genotype: tuple[int, int]

    @property
    def is_snp(self) -> bool:
        return len(self.ref) == len(self.alt)

    @property
    def is_homozygous(self) -> bool:
        return self.genotype == (1, 1)


class Haplotype:
    """One copy of a contig with its variants applied; maps positions back to the reference."""

    def __init__(self, contig: SimulatedContig, variants: Sequence[Variant]) -> None:
        pieces: list[str] = []
        self._starts, self._references = [0], [0]
        done = length = 0
        for variant in variants:
            pieces += (contig.sequence[done : variant.start], variant.alt)
            length += variant.start - done + len(variant.alt)
            done = variant.start + len(variant.ref)
            if not variant.is_snp:
                self._starts.append(length)
                self._references.append(done)
        pieces.append(contig.sequence[done:])
        self.sequence = "".join(pieces)

    def lift(self, place: int) -> int:
        """Return the 0-based reference position of a base; inserted bases count from their left."""
        block = bisect_right(self._starts, place) - 1
        return self._references[block] + place - self._starts[block]


def build_contigs(draws: RandomSource, length: int, count: int) -> list[SimulatedContig]:
    """Make `count` contigs of `length` bp in all, each shorter than the one before.

    A unique background has dispersed repeats (two families, copies 3 % from their consensus, never
    46 bp without a difference), short tandem repeats, one longer tandem and homopolymers.

    Raises InvalidRequest if a contig is too short for its repeats.
    """
    shares = count * (count + 1) // 2
    lengths = [length * (count - i) // shares for i in range(1, count)]
    lengths.insert(0, length - sum(lengths))
    if lengths[-1] < SHORTEST_CONTIG:
        needed = SHORTEST_CONTIG * shares
        raise InvalidRequest(
            f"a reference of {length} bp is too short for {count} contig(s) with repeats: "
            f"ask for {needed} bp or more, or for fewer contigs",
            field="length",
        )
    short, long = draws.bases(300, 0.55), draws.bases(900, 0.4)
    return [
        _build_contig(draws, f"sim{number}", size, short, long)
        for number, size in enumerate(lengths, start=1)
    ]


def _build_contig(
    draws: RandomSource, name: str, length: int, short: str, long: str
) -> SimulatedContig:
    repeats = [_diverged_copy(draws, short) for _ in range(max(2, length // 12_000))]
    repeats += [_diverged_copy(draws, long) for _ in range(length // 16_000)]
    repeats += [unit * copies for unit, copies in TANDEMS]
    repeats.append(draws.bases(24) * 5)
    draws.shuffle(repeats)
    sequence = draws.bases(length, 0.41)
    slot = (length - 2 * EDGE) // len(repeats)
    places: list[tuple[int, int]] = []
    for number, repeat in enumerate(repeats):
        start = EDGE + number * slot + draws.below(slot - len(repeat))
        end = start + len(repeat)
        sequence = sequence[:start] + repeat + sequence[end:]
        places.append((start, end))
    return SimulatedContig(name, sequence, tuple(places))


def _diverged_copy(draws: RandomSource, consensus: str) -> str:
    bases = list(consensus)
    place = draws.below(30)
    while place < len(bases):
        bases[place] = draws.pick("ACGT".replace(bases[place], ""))
        place += 15 + draws.below(31)
    copy = "".join(bases)
    return copy.translate(COMPLEMENT)[::-1] if draws.chance(0.5) else copy


def place_variants(
    draws: RandomSource, contigs: Sequence[SimulatedContig], snps: int, indels: int
) -> list[Variant]:
    """Place exactly `snps` SNPs and `indels` indels in unique sequence, in reference order.

    Two of three SNPs are transitions. Two of three variants of each kind are heterozygous.
    Insertions and deletions alternate, and half of the short insertions are tandem copies.

    Raises InvalidRequest if they do not fit.
    """
    sites = _choose_sites(draws, contigs, snps + indels)
    draws.shuffle(sites)
    variants = [
        _make_snp(draws, *site, number, genotype)
        for number, (site, genotype) in enumerate(
            zip(sites[:snps], _genotypes(draws, snps), strict=True)
        )
    ]
    variants += [
        _make_indel(draws, *site, number, genotype)
        for number, (site, genotype) in enumerate(
            zip(sites[snps:], _genotypes(draws, indels), strict=True)
        )
    ]
    order = {contig.name: number for number, contig in enumerate(contigs)}
    return sorted(variants, key=lambda variant: (order[variant.contig], variant.start))


def _choose_sites(
    draws: RandomSource, contigs: Sequence[SimulatedContig], count: int
) -> list[tuple[SimulatedContig, int]]:
    masks = [contig.mask(SPACING) for contig in contigs]
    for mask in masks:
        mask[:EDGE] = mask[-EDGE:] = b"\1" * EDGE
    total = sum(map(len, masks))
    sites: list[tuple[SimulatedContig, int]] = []
    attempts = 1000 + 200 * count if count * SPACING <= total else 0
    for _ in range(attempts):
        if len(sites) == count:
            return sites
        which, place = 0, draws.below(total)
        while place >= len(masks[which]):
            place -= len(masks[which])
            which += 1
        if not masks[which][place]:
            sites.append((contigs[which], place))
            start, end = place - SPACING, place + SPACING
            masks[which][start:end] = b"\1" * (end - start)
    raise InvalidRequest(
        f"{count} SNPs and indels do not fit into {total} bp at {SPACING} bp from each other "
        "and from repeats: ask for fewer, or for a longer reference",
        field="snps",
    )


def _genotypes(draws: RandomSource, count: int) -> list[tuple[int, int]]:
    genotypes = [(1, 1) if number % 3 == 2 else (0, 1) for number in range(count)]
    draws.shuffle(genotypes)
    return [(b, a) if draws.chance(0.5) else (a, b) for a, b in genotypes]


def _make_snp(
    draws: RandomSource, contig: SimulatedContig, start: int, number: int, genotype: tuple[int, int]
) -> Variant:
    ref = contig.sequence[start]
    alt = draws.pick(TRANSVERSIONS[ref]) if number % 3 == 2 else TRANSITIONS[ref]
    return Variant(contig.name, start, ref, alt, genotype)


def _make_indel(
    draws: RandomSource, contig: SimulatedContig, start: int, number: int, genotype: tuple[int, int]
) -> Variant:
    sizes = DELETIONS if number % 2 else INSERTIONS
    size = sizes[number // 2 % len(sizes)]
    here = contig.sequence[start : start + size]
    if number % 2:
        change = (here, "")
    elif number % 4 and size <= LONGEST_TANDEM:
        change = ("", here)
    else:
        change = ("", draws.bases(size))
    return Variant(contig.name, *anchored(contig.sequence, start, *change), genotype)


def apply_variants(
    contigs: Sequence[SimulatedContig], variants: Sequence[Variant]
) -> list[tuple[Haplotype, Haplotype]]:
    """Return the two haplotypes of each contig; `variants` are in reference order."""

    def carried(contig: SimulatedContig, copy: int) -> list[Variant]:
        return [v for v in variants if v.contig == contig.name and v.genotype[copy]]

    return [
        (Haplotype(contig, carried(contig, 0)), Haplotype(contig, carried(contig, 1)))
        for contig in contigs
    ]


def vcf_lines(contigs: Sequence[SimulatedContig], variants: Sequence[Variant]) -> Iterator[str]:
    """Yield the lines of a VCF 4.2 with phased genotypes, without a date or a path."""
    yield "##fileformat=VCFv4.2"
    yield '##FILTER=<ID=PASS,Description="All filters passed">'
    for contig in contigs:
        yield f"##contig=<ID={contig.name},length={len(contig.sequence)}>"
    yield '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">'
    yield f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{SAMPLE}"
    for v in variants:
        genotype = f"{v.genotype[0]}|{v.genotype[1]}"
        yield f"{v.contig}\t{v.start + 1}\t.\t{v.ref}\t{v.alt}\t.\tPASS\t.\tGT\t{genotype}"
