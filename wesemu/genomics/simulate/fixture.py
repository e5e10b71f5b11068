"""Write fixtures with a known truth: a small diploid genome, its variants and paired reads."""

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from wesemu.errors import Conflict, InvalidRequest
from wesemu.genomics.simulate.genome import (
    RandomSource,
    apply_variants,
    build_contigs,
    place_variants,
    vcf_lines,
)
from wesemu.genomics.simulate.reads import Library, Pair, draw_fragments, sequence_pairs

_SUMMARY = "fixture.json"
_WRITTEN = ("reference.fa", "reads_1.fq.gz", "reads_2.fq.gz", "truth.vcf")

LINE_WIDTH = 60
INDEX_SEQUENCE = "ACGTACGT"


_LONGEST = 2**31 - 1
"""Positions in BAM files are 32-bit numbers with a sign."""


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
        self._require("length", self.length <= _LONGEST, f"{_LONGEST} at most")
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
