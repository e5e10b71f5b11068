"""A simulated sequencing run: fragments, PCR duplicates, binned qualities and errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wesemu.errors import InvalidRequest
from wesemu.genomics.simulate.genome import COMPLEMENT, Haplotype, RandomSource, SimulatedContig

TOP = "F"  # Q37, the highest of the four bins of current machines
ERROR_RATES = {"#": 0.631, "-": 0.0631, "8": 0.00501, TOP: 0.0002}  # Q2, Q12, Q23, Q37
OTHER_BASES = {"A": "CGT", "C": "AGT", "G": "ACT", "T": "ACG"}
WELL_STEP, ROW_STEP, ROW_END = 18, 16, 32_000  # the grid of a patterned flow cell


@dataclass(frozen=True)
class Library:
    """What to sequence: lengths are in bp; `pairs` includes `duplicate_pairs`."""

    pairs: int
    duplicate_pairs: int
    read_length: int
    insert_mean: float
    insert_deviation: float


class Fragment(NamedTuple):
    """A piece of one haplotype; `start` is 0-based. `flipped`: the first read is the right end."""

    haplotype: Haplotype
    start: int
    size: int
    flipped: bool


class Pair(NamedTuple):
    """A name without `@` and mate number; bases and qualities of both reads."""

    name: str
    bases: tuple[str, str]
    qualities: tuple[str, str]


def draw_fragments(
    draws: RandomSource,
    contigs: Sequence[SimulatedContig],
    haplotypes: Sequence[tuple[Haplotype, Haplotype]],
    library: Library,
) -> list[Fragment]:
    """Return fragments in random order, duplicates included.

    Two fragments that are not duplicates never share both outer ends on the reference, whatever
    their haplotypes, and however an aligner treats an indel near an end. Duplicates are copies of
    fragments whose reads touch neither an indel nor a repeat. So a duplicate marker has to find
    exactly `duplicate_pairs` of them.

    Raises InvalidRequest if the reference is too small.
    """
    total = sum(len(contig.sequence) for contig in contigs)
    masks = [contig.mask() for contig in contigs]
    seen: set[tuple[int, int, int]] = set()
    fragments: list[Fragment] = []
    unambiguous: list[Fragment] = []
    wanted = library.pairs - library.duplicate_pairs
    for _ in range(1000 + 5 * wanted):
        if len(fragments) == wanted:
            break
        which, place = 0, draws.below(total)
        while place >= len(contigs[which].sequence):
            place -= len(contigs[which].sequence)
            which += 1
        fragment = _draw_fragment(draws, haplotypes[which], place, library)
        if fragment is None:
            continue
        ends = {(which, *pair) for pair in _possible_ends(fragment, library.read_length)}
        if not seen.isdisjoint(ends):
            continue
        seen |= ends
        fragments.append(fragment)
        if len(ends) == 1 and _is_unique(fragment, masks[which], library.read_length):
            unambiguous.append(fragment)
    if len(fragments) < wanted or (library.duplicate_pairs and not unambiguous):
        raise InvalidRequest(
            f"{total} bp are too few for {library.pairs} pairs that differ: "
            "ask for less depth, or for a longer reference",
            field="depth",
        )
    fragments += [draws.pick(unambiguous) for _ in range(library.duplicate_pairs)]
    draws.shuffle(fragments)
    return fragments


def _draw_fragment(
    draws: RandomSource, haplotypes: tuple[Haplotype, Haplotype], place: int, library: Library
) -> Fragment | None:
    """Return a fragment that begins at `place`; None if it would cross the end of the contig."""
    haplotype = draws.pick(haplotypes)
    size = round(draws.normal(library.insert_mean, library.insert_deviation))
    size = max(size, library.read_length)
    if place + size > len(haplotype.sequence):
        return None
    return Fragment(haplotype, place, size, draws.chance(0.5))


def _possible_ends(fragment: Fragment, read_length: int) -> set[tuple[int, int]]:
    """Return the outer ends that aligners may find: they align through an indel, or clip there."""
    lift = fragment.haplotype.lift
    inside = read_length - 1
    first, last = fragment.start, fragment.start + fragment.size - 1
    return {
        (left, right)
        for left in (lift(first), lift(first + inside) - inside)
        for right in (lift(last), lift(last - inside) + inside)
    }


def _is_unique(fragment: Fragment, mask: bytearray, read_length: int) -> bool:
    """Return whether neither read touches a repeat."""
    lift = fragment.haplotype.lift
    first, last = fragment.start, fragment.start + fragment.size - 1
    reads = ((first, first + read_length - 1), (last - read_length + 1, last))
    return all(mask.find(1, lift(start), lift(end) + 1) < 0 for start, end in reads)


def sequence_pairs(
    draws: RandomSource, fragments: Sequence[Fragment], read_length: int
) -> Iterator[Pair]:
    """Read each fragment from both ends, with new qualities and errors for each read."""
    many = _error_counts(read_length)
    tile, row, well = 1101, 1000, 1000
    for fragment in fragments:
        well += WELL_STEP
        if well > ROW_END:
            row, well = row + ROW_STEP, 1000
        if row > ROW_END:
            tile, row = tile + 1, 1000
        haplotype, start, size, flipped = fragment
        piece = haplotype.sequence[start : start + size]
        left, right = piece[:read_length], piece[-read_length:].translate(COMPLEMENT)[::-1]
        ends = (right, left) if flipped else (left, right)
        reads = [_sequence_read(draws, end, many, mate) for mate, end in enumerate(ends)]
        yield Pair(
            f"A00001:1:HSIM1DSXX:1:{tile}:{well}:{row}",
            (reads[0][0], reads[1][0]),
            (reads[0][1], reads[1][1]),
        )


def _error_counts(length: int) -> list[float]:
    """Return cumulative probabilities of 0, 1, 2, … errors in `length` bases of top quality."""
    rate = ERROR_RATES[TOP]
    term = 1.0
    for _ in range(length):
        term *= 1 - rate
    cumulative = [term]
    for count in range(1, 5):
        term *= (length - count + 1) / count * rate / (1 - rate)
        cumulative.append(cumulative[-1] + term)
    return cumulative


def _sequence_read(
    draws: RandomSource, bases: str, many: list[float], mate: int
) -> tuple[str, str]:
    """Return the bases with errors, and their qualities."""
    low = _draw_low_qualities(draws, len(bases), mate)
    wrong = {place for place, quality in low.items() if draws.chance(ERROR_RATES[quality])}
    u = draws.uniform()
    wrong |= {draws.below(len(bases)) for least in many if u > least}
    if not low and not wrong:
        return bases, TOP * len(bases)
    read, qualities = list(bases), [TOP] * len(bases)
    for place, quality in low.items():
        qualities[place] = quality
    for place in sorted(wrong):
        read[place] = draws.pick(OTHER_BASES[read[place]])
    return "".join(read), "".join(qualities)


def _draw_low_qualities(draws: RandomSource, length: int, mate: int) -> dict[int, str]:
    """Return the low qualities by 0-based cycle. Late cycles and second mates have more."""
    low: dict[int, str] = {}
    while draws.chance(0.25 + 0.1 * mate):  # a short dip
        start = max(draws.below(length), draws.below(length))
        quality = "8" if draws.chance(0.7) else "-"
        for place in range(start, min(length, start + 1 + draws.below(3))):
            low[place] = quality
    if draws.chance(0.04 + 0.04 * mate):  # a tail that fades
        place = length - 10 - draws.below(length // 4)
        while place < length:
            end = min(length, place + 2 + draws.below(8))
            quality = draws.pick("88-" + TOP)
            low.update(dict.fromkeys(range(place, end), quality))
            place = end
    if draws.chance(0.005 + 0.01 * mate):  # an end without signal
        low.update(dict.fromkeys(range(length - 3 - draws.below(length // 12), length), "#"))
    return low
