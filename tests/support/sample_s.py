"""Sample "S": a genome of 10 kb with nine SNPs and 1,200 read pairs.

It is small enough to write in every test. bcftools and freebayes find all nine SNPs and no others.

Usage::

    from support.sample_s import SAMPLE_S, called

    reference = SAMPLE_S.write_reference(folder / "ref.fa")    # width=70: other lines
    first, second = SAMPLE_S.write_reads(folder)               # reads_1.fq.gz, reads_2.fq.gz
    ... run wgs ...
    assert called(folder / "results/calls.vcf.gz") == SAMPLE_S.sites   # QUAL >= 20

Variations: `write_reads(folder, "lane2", pairs=SAMPLE_S.pairs[:600])` writes some of the pairs.
`rename=lambda number, name: f"M00123 run=12 read={number}"` sets other names (number from 0,
without "@"), `quality="?"` another base quality, `compress=False` plain text. `fastq(...)` returns
the same as two byte strings. With `alternate=True`, `write_reference` adds the contig `c1_alt`, a
copy of c1:2001-3000, and writes `ref.fa.alt` beside the FASTA. Without that file callers miss the
SNP at c1:2500, because the reads there map twice. `contigs` and `haplotypes` are plain strings.

The reads have no duplicates and no sequencing errors. Everything comes from one seed.
"""

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pysam

from wesemu.genomics.simulate.genome import RandomSource

READ_LENGTH = 100
PAIRS_OF = {"c1": 720, "c2": 480}
_LENGTHS = {"c1": 6_000, "c2": 4_000}
_GENOTYPES = {
    "c1": {500: "0/1", 1200: "1/1", 2500: "0/1", 3400: "1/1", 4300: "0/1", 5200: "1/1"},
    "c2": {700: "0/1", 1900: "1/1", 3000: "0/1"},
}
_ALTERNATE = ("c1", 2_000, 3_000)
_NEXT_BASE = str.maketrans("ACGT", "CGTA")
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_SEED = 20_260_101


class Snp(NamedTuple):
    """One SNP. `position` is 1-based, `genotype` is 0/1 or 1/1."""

    contig: str
    position: int
    reference: str
    alternate: str
    genotype: str


class Pair(NamedTuple):
    """The name and the sequences of both mates, as in FASTQ."""

    name: str
    first: str
    second: str


Rename = Callable[[int, str], str]


@dataclass(frozen=True)
class SampleS:
    """The sample. There are two `haplotypes` per contig; `pairs` come from both."""

    contigs: Mapping[str, str]
    haplotypes: Mapping[str, tuple[str, str]]
    snps: tuple[Snp, ...]
    pairs: tuple[Pair, ...]

    @property
    def sites(self) -> dict[tuple[str, int], str]:
        """The true genotypes by contig and position, in the form of `called`."""
        return {(snp.contig, snp.position): snp.genotype for snp in self.snps}

    def write_reference(self, path: Path, *, width: int = 60, alternate: bool = False) -> Path:
        contigs = dict(self.contigs)
        if alternate:
            contig, start, end = _ALTERNATE
            contigs["c1_alt"] = contigs[contig][start:end]
            line = ("c1_alt", 0, contig, start + 1, 60, f"{end - start}M", "*", 0, 0, "*", "*")
            Path(f"{path}.alt").write_text("\t".join(map(str, line)) + "\n")
        path.write_text(fasta(contigs, width))
        return path

    def fastq(
        self,
        pairs: Sequence[Pair] | None = None,
        *,
        rename: Rename = lambda _, name: name,
        quality: str = "I",
    ) -> tuple[bytes, bytes]:
        """Return the content of both FASTQ files."""
        qualities = quality * READ_LENGTH
        mates: tuple[list[str], list[str]] = ([], [])
        for number, pair in enumerate(self.pairs if pairs is None else pairs):
            name = rename(number, pair.name)
            for mate, bases in zip(mates, (pair.first, pair.second), strict=True):
                mate.append(f"@{name}\n{bases}\n+\n{qualities[: len(bases)]}\n")
        return "".join(mates[0]).encode(), "".join(mates[1]).encode()

    def write_reads(
        self,
        folder: Path,
        stem: str = "reads",
        pairs: Sequence[Pair] | None = None,
        *,
        rename: Rename = lambda _, name: name,
        quality: str = "I",
        compress: bool = True,
    ) -> tuple[Path, Path]:
        """Write both FASTQ files and return their paths. Create the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        ending = "fq.gz" if compress else "fq"
        paths = (folder / f"{stem}_1.{ending}", folder / f"{stem}_2.{ending}")
        texts = self.fastq(pairs, rename=rename, quality=quality)
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(gzip.compress(text, 1, mtime=0) if compress else text)
        return paths


def fasta(contigs: Mapping[str, str], width: int = 60) -> str:
    lines = []
    for name, bases in contigs.items():
        lines.append(f">{name}")
        lines += (bases[start : start + width] for start in range(0, len(bases), width))
    return "\n".join(lines) + "\n"


def called(vcf: Path, least: float = 20) -> dict[tuple[str, int], str]:
    """Return the genotypes of a VCF by contig and position, from the quality `least` on.

    Alleles are sorted: 0|1 and 1/0 are 0/1. A haploid call keeps its single allele.
    """
    with pysam.VariantFile(str(vcf)) as records:
        return {
            (record.contig, record.pos): "/".join(map(str, sorted(_alleles(record))))
            for record in records
            if record.qual is not None and record.qual >= least and record.alts
        }


def _alleles(record: pysam.VariantRecord) -> Iterable[int]:
    genotype = record.samples[0]["GT"]
    return [-1 if allele is None else allele for allele in genotype]


def _make() -> SampleS:
    contigs = {
        name: RandomSource(_SEED, number).bases(length)
        for number, (name, length) in enumerate(_LENGTHS.items())
    }
    snps: list[Snp] = []
    haplotypes: dict[str, tuple[str, str]] = {}
    for name, genotypes in _GENOTYPES.items():
        first, second = list(contigs[name]), list(contigs[name])
        for position, genotype in genotypes.items():
            old = contigs[name][position - 1]
            new = old.translate(_NEXT_BASE)
            snps.append(Snp(name, position, old, new, genotype))
            second[position - 1] = new
            if genotype == "1/1":
                first[position - 1] = new
        haplotypes[name] = ("".join(first), "".join(second))
    return SampleS(contigs, haplotypes, tuple(snps), tuple(_draw_pairs(haplotypes)))


def _draw_pairs(haplotypes: Mapping[str, tuple[str, str]]) -> list[Pair]:
    """Return pairs of fragments at different positions, so none looks like a duplicate."""
    rng = RandomSource(_SEED, 2)
    fragments: list[tuple[str, int, int, int]] = []
    for name, wanted in PAIRS_OF.items():
        taken: set[tuple[int, int]] = set()
        while len(taken) < wanted:
            size = round(rng.normal(300, 30))
            start = rng.below(len(haplotypes[name][0]) - size)
            if (start, size) not in taken:
                taken.add((start, size))
                fragments.append((name, start, size, rng.below(4)))
    rng.shuffle(fragments)
    pairs = []
    for number, (name, start, size, side) in enumerate(fragments, 1):
        fragment = haplotypes[name][side % 2][start : start + size]
        backwards = fragment.translate(_COMPLEMENT)[::-1]
        mates = (fragment[:READ_LENGTH], backwards[:READ_LENGTH])
        pairs.append(Pair(f"s{number:04}", *(mates if side < 2 else mates[::-1])))
    return pairs


SAMPLE_S = _make()
