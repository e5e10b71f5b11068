"""Write fixtures with a known truth: a small diploid genome, its variants and paired reads.

The simulated sequencing run has fragments, PCR duplicates, binned qualities and errors.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple, Self

from wesemu.errors import Conflict, InvalidRequest
from wesemu.genomics.simulate.genome import (
    COMPLEMENT,
    Haplotype,
    RandomSource,
    SimulatedContig,
    apply_variants,
    build_contigs,
    place_variants,
    vcf_lines,
)

# The sequencing run

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
    """Return qualities below the top by 0-based cycle: more often late, and in read 2."""
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


# The files

_SUMMARY = "fixture.json"
_WRITTEN = ("reference.fa", "reads_1.fq.gz", "reads_2.fq.gz", "truth.vcf")

LINE_WIDTH = 60
INDEX_SEQUENCE = "ACGTACGT"


@dataclass(frozen=True)
class FixtureSettings:
    """What to simulate.

    `length` is that of the whole reference in bp. `depth` counts all reads, duplicates included.
    `snps` and `indels` are exact numbers (None: one SNP for each kb, one indel for each 3 kb).
    `duplicates` is the share of PCR duplicates among the pairs. Insert sizes are in bp, between the
    outer ends.

    Raises InvalidRequest for a value outside its range.
    """

    seed: int = 1
    length: int = 100_000
    contigs: int = 2
    depth: float = 30.0
    snps: int | None = None
    indels: int | None = None
    duplicates: float = 0.08
    read_length: int = 150
    insert_mean: float = 400.0
    insert_sd: float = 50.0

    def __post_init__(self) -> None:
        self._require("seed", 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")
        self._require("contigs", self.contigs >= 1, "at least 1")
        self._require("depth", 0 < self.depth <= 1000, "more than 0 and at most 1000")
        self._require("snps", self.snps is None or self.snps >= 0, "0 or more")
        self._require("indels", self.indels is None or self.indels >= 0, "0 or more")
        self._require("duplicates", 0 <= self.duplicates <= 0.9, "from 0 to 0.9")
        self._require("read_length", 50 <= self.read_length <= 300, "from 50 to 300")
        self._require("insert_sd", 0 <= self.insert_sd <= 500, "from 0 to 500")
        self._require(
            "insert_mean",
            self.read_length <= self.insert_mean <= 2000,
            "from the read length to 2000",
        )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InvalidRequest(
                f"{name} is {getattr(self, name)}, but must be {expected}", field=name
            )

    @property
    def snp_count(self) -> int:
        return self.length // 1000 if self.snps is None else self.snps

    @property
    def indel_count(self) -> int:
        return self.length // 3000 if self.indels is None else self.indels

    @property
    def pairs(self) -> int:
        return max(1, round(self.length * self.depth / (2 * self.read_length)))

    def command(self) -> str:
        """Return the command line that makes this fixture again."""
        flags = [
            f"--{field.name.replace('_', '-')} {str(value).removesuffix('.0')}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default or field.name == "seed"
        ]
        return " ".join(["wesemu fixture DIR", *flags])


@dataclass(frozen=True)
class FixtureSummary:
    """The exact figures of a fixture, as in `fixture.json`.

    `reads` and `bases` count both files together. `duplicate_reads` counts the reads that a
    duplicate marker has to flag. `contigs` has lengths in bp. `sha256` is that of each file's
    uncompressed text: two builds of zlib may compress the same text differently.
    """

    command: str
    seed: int
    contigs: dict[str, int]
    pairs: int
    reads: int
    bases: int
    read_length: int
    duplicate_reads: int
    snps: int
    indels: int
    heterozygous: int
    homozygous: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Fixture:
    """The files of a fixture and its figures."""

    reference: Path
    reads_1: Path
    reads_2: Path
    truth: Path
    summary: FixtureSummary


class _TextFile:
    """Writes ASCII text to a file, as gzip if its name ends in .gz, and hashes the plain text.

    The file appears when it is complete.
    The gzip header has no name, no time and no operating system, so equal text gives equal bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.part")
        self._file = self._partial.open("wb")
        self._hash = hashlib.sha256()
        self._gzip: _Gzip | None = _Gzip() if path.suffix == ".gz" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            with self._file:
                if self._gzip and kind is None:
                    self._file.write(self._gzip.finish())
            if kind is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        data = text.encode("ascii")
        self._hash.update(data)
        self._file.write(self._gzip.compress(data) if self._gzip else data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class _Gzip:
    """One gzip member (RFC 1952), tuned for bases: Z_FILTERED avoids the shortest matches."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_FILTERED)
        self._header = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
        self._crc = self._size = 0

    def compress(self, data: bytes) -> bytes:
        header, self._header = self._header, b""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        return header + self._deflate.compress(data)

    def finish(self) -> bytes:
        size = self._size & 0xFFFFFFFF
        trailer = self._crc.to_bytes(4, "little") + size.to_bytes(4, "little")
        return self.compress(b"") + self._deflate.flush() + trailer


def _refuse_overwriting(directory: Path) -> None:
    if (directory / _SUMMARY).is_file():
        return
    present = [name for name in _WRITTEN if (directory / name).exists()]
    if present:
        raise Conflict(
            f"{directory / present[0]} exists already and does not belong to a fixture; choose "
            "another folder, or move the file away"
        )


def write_fixture(directory: Path, settings: FixtureSettings) -> Fixture:
    """Simulate and write reference.fa, reads_1.fq.gz, reads_2.fq.gz, truth.vcf, fixture.json.

    The same settings give the same text on every Python and platform. The genome depends on
    `seed`, `length` and `contigs` only. The variants also depend on their numbers. So another depth
    gives other reads of the same sample.

    Replaces an earlier fixture in `directory`. Raises InvalidRequest if the variants or the reads
    do not fit into the reference, Conflict if the directory has such files of another origin.
    """
    _refuse_overwriting(directory)
    contigs = build_contigs(RandomSource(settings.seed, 1), settings.length, settings.contigs)
    variants = place_variants(
        RandomSource(settings.seed, 2), contigs, settings.snp_count, settings.indel_count
    )
    library = Library(
        pairs=settings.pairs,
        duplicate_pairs=round(settings.pairs * settings.duplicates),
        read_length=settings.read_length,
        insert_mean=settings.insert_mean,
        insert_deviation=settings.insert_sd,
    )
    haplotypes = apply_variants(contigs, variants)
    fragments = draw_fragments(RandomSource(settings.seed, 3), contigs, haplotypes, library)
    pairs = sequence_pairs(RandomSource(settings.seed, 4), fragments, settings.read_length)

    directory.mkdir(parents=True, exist_ok=True)
    # marks the files as a fixture, also if this call is interrupted
    (directory / _SUMMARY).write_text("{}\n")
    reference, truth = directory / "reference.fa", directory / "truth.vcf"
    reads_1, reads_2 = directory / "reads_1.fq.gz", directory / "reads_2.fq.gz"
    hashes = {
        reference.name: _write_lines(
            reference, (line for c in contigs for line in _fasta_lines(c.name, c.sequence))
        ),
        truth.name: _write_lines(truth, vcf_lines(contigs, variants)),
    }
    hashes[reads_1.name], hashes[reads_2.name] = _write_reads(reads_1, reads_2, pairs)
    homozygous = sum(variant.is_homozygous for variant in variants)
    summary = FixtureSummary(
        command=settings.command(),
        seed=settings.seed,
        contigs={contig.name: len(contig.sequence) for contig in contigs},
        pairs=library.pairs,
        reads=2 * library.pairs,
        bases=2 * library.pairs * library.read_length,
        read_length=library.read_length,
        duplicate_reads=2 * library.duplicate_pairs,
        snps=settings.snp_count,
        indels=settings.indel_count,
        heterozygous=len(variants) - homozygous,
        homozygous=homozygous,
        sha256=hashes,
    )
    text = json.dumps(asdict(summary), indent=2) + "\n"
    (directory / _SUMMARY).write_text(text, encoding="ascii", newline="\n")
    return Fixture(reference, reads_1, reads_2, truth, summary)


def _fasta_lines(name: str, sequence: str) -> Iterable[str]:
    yield f">{name}"
    for start in range(0, len(sequence), LINE_WIDTH):
        yield sequence[start : start + LINE_WIDTH]


def _write_lines(path: Path, lines: Iterable[str]) -> str:
    with _TextFile(path) as file:
        for line in lines:
            file.write(line + "\n")
        return file.sha256


def _write_reads(path_1: Path, path_2: Path, pairs: Iterable[Pair]) -> tuple[str, str]:
    with _TextFile(path_1) as file_1, _TextFile(path_2) as file_2:
        for name, bases, qualities in pairs:
            for mate, file in enumerate((file_1, file_2)):
                file.write(
                    f"@{name} {mate + 1}:N:0:{INDEX_SEQUENCE}\n{bases[mate]}\n+\n"
                    f"{qualities[mate]}\n"
                )
        return file_1.sha256, file_2.sha256
