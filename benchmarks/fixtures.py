"""Simulated samples, which the work folder keeps."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

from benchmarks.rounds import say
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.simulate.fixture import FixtureSettings, write_fixture

BUCKET = "bench"
REFERENCE = "bench"
_MANY_PAIRS = 400_000
_LETTERS = (b"ACGT", b"TCGA", b"AGCT", b"TGCA", b"CATG", b"CTAG", b"GATC", b"GTAC")


def sample(work: Path, pairs: int) -> Path:
    """Return a folder with reference.fa, reads_1.fq.gz and reads_2.fq.gz, at a depth of 30."""
    settings = FixtureSettings()
    length = round(2 * settings.read_length * pairs / settings.depth)
    folder = work / "fixtures" / f"{pairs}-pairs"
    if not (folder / "fixture.json").is_file():
        say(f"simulating {pairs:,} pairs of a genome of {length:,} bp")
        write_fixture(folder, replace(settings, length=length))
    return folder


def sample_of(work: Path, pairs: int) -> Path:
    """Return `sample` or `large_sample`, the faster of the two."""
    return large_sample(work, pairs) if pairs >= _MANY_PAIRS else sample(work, pairs)


def large_sample(work: Path, pairs: int) -> Path:
    """Return a sample of millions of pairs, made in seconds.

    Copy a sample of an eighth of the size eight times, with other letters for the four bases.
    No two contigs or reads are equal. Complements stay complements, so reads of both strands
    still match the reference.
    """
    part = sample(work, pairs // len(_LETTERS))
    folder = work / "fixtures" / f"{pairs}-pairs-in-parts"
    if not (folder / "reference.fa").is_file():
        say(f"copying them to {pairs:,} pairs")
        folder.mkdir(parents=True, exist_ok=True)
        for mate in (1, 2):
            name = f"reads_{mate}.fq.gz"
            _recode_reads(part / name, folder / name)
        _recode_contigs(part / "reference.fa", folder / "reference.fa")
    return folder


def _recode_reads(source: Path, target: Path) -> None:
    with gzip.open(source) as file:
        lines = file.read().splitlines()
    names, bases, qualities = lines[::4], b"\n".join(lines[1::4]), lines[3::4]
    with gzip.open(target, "wb", compresslevel=1) as file:
        for number, letters in enumerate(_LETTERS):
            recoded = bases.translate(bytes.maketrans(b"ACGT", letters)).split(b"\n")
            file.writelines(
                b"@%d.%b\n%b\n+\n%b\n" % (number, name[1:], read, quality)
                for name, read, quality in zip(names, recoded, qualities, strict=True)
            )


def _recode_contigs(source: Path, target: Path) -> None:
    lines = source.read_bytes().splitlines()
    with target.open("wb") as file:
        for number, letters in enumerate(_LETTERS):
            table = bytes.maketrans(b"ACGT", letters)
            for line in lines:
                is_name = line.startswith(b">")
                file.write(
                    b">%d.%b\n" % (number, line[1:]) if is_name else line.translate(table) + b"\n"
                )


def small_real_sample() -> Path | None:
    """Return 10,507 real pairs of HG002, or None without `../shared/data`."""
    source = Path(__file__).resolve().parents[2] / "shared" / "data" / "hg002_chr20_10mb"
    return source if source.is_dir() else None


def real_sample(work: Path) -> Path | None:
    """Return 19 copies of 10,507 real pairs of HG002, or None without `../shared/data`.

    Each copy cuts one more base at the start of both reads, so copies are not duplicates.
    """
    source = small_real_sample()
    if source is None:
        return None
    folder = work / "fixtures" / "hg002-19-times"
    if not (folder / "reference.fa").is_file():
        say("copying 21,014 real reads to 399,266")
        folder.mkdir(parents=True, exist_ok=True)
        for mate in (1, 2):
            _repeat_reads(source / f"reads_{mate}.fq.gz", folder / f"reads_{mate}.fq.gz", 19)
        shutil.copyfile(source / "reference.fa", folder / "reference.fa")
    return folder


def _repeat_reads(source: Path, target: Path, times: int) -> None:
    with gzip.open(source) as file:
        lines = file.read().splitlines()
    with gzip.open(target, "wb", compresslevel=4) as file:
        for cut in range(times):
            file.writelines(
                b"@%d.%b\n%b\n+\n%b\n" % (cut, head.split()[0][1:], read[cut:], quality[cut:])
                for head, read, quality in zip(lines[::4], lines[1::4], lines[3::4], strict=True)
            )


def counted(folder: Path) -> tuple[int, int]:
    """Return the numbers of reads and bases of a sample."""
    summary = json.loads((folder / "fixture.json").read_text())
    return int(summary["reads"]), int(summary["bases"])


def stock(data: Path, folder: Path, mapper: str = "bwa") -> Path:
    """Copy a sample to a server's bucket and register its reference for bwa and `mapper`.

    Return the FASTA.
    """
    bucket = data / "buckets" / BUCKET
    bucket.mkdir(parents=True, exist_ok=True)
    for mate in (1, 2):
        name = f"reads_{mate}.fq.gz"
        (bucket / name).unlink(missing_ok=True)
        shutil.copyfile(folder / name, bucket / name)
    references = ReferenceStore(data / "references", data / "cache")
    fasta = references.add(REFERENCE, folder / "reference.fa")
    references.add(REFERENCE, folder / "reference.fa", mapper)
    _write_dictionary(fasta)
    return fasta


def _write_dictionary(fasta: Path) -> None:
    """Write the sequence dictionary that pybwa needs beside an index."""
    lines = ["@HD\tVN:1.6\tSO:unsorted"]
    for line in fasta.with_name(f"{fasta.name}.fai").read_text().splitlines():
        name, length, *_ = line.split("\t")
        lines.append(f"@SQ\tSN:{name}\tLN:{length}")
    fasta.with_suffix(".dict").write_text("\n".join(lines) + "\n")


def params(mapper: str = "bwa") -> dict[str, object]:
    """Return the parameters of `mapping` and `wgs` for the sample in the bucket."""
    reads = {mate: f"oss://{BUCKET}/reads_{n}.fq.gz" for n, mate in ((1, "first"), (2, "second"))}
    return {"reads": [reads], "reference": REFERENCE, "mapper": mapper}
