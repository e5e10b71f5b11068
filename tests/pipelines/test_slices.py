"""A genome called in many slices has the records of one call of the whole genome."""

import gzip
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pysam
import pytest

SLICE = 400
"""Bases, of the genome: contigs end to end."""
CONTIGS = {"long": 4_000, "short": 170, "other": 3_430}
Lane = dict[str, str]

# edits around a cut, by their distance from it: (bases to take out, bases to put in)
CLUSTERS: tuple[dict[int, tuple[int, str]], ...] = (
    {-1: (1, "?"), 0: (1, "?")},
    {-2: (2, "??"), 1: (1, "?"), 3: (1, "?")},
    {-4: (6, "")},
    {0: (0, "ACGTAC")},
    {-3: (1, "?"), -1: (3, ""), 4: (1, "?")},
    {-1: (0, "TT"), 1: (1, "?"), 2: (1, "?")},
    {0: (1, "?")},
    {-1: (1, "?")},
)
_OTHER = str.maketrans("ACGT", "CGTA")


def edited(bases: str, cuts: Iterator[int]) -> str:
    """`bases` with a cluster at each of `cuts`, which are in order."""
    parts, done = [], 0
    for number, cut in enumerate(cuts):
        for distance, (length, new) in CLUSTERS[number % len(CLUSTERS)].items():
            start = cut + distance
            old = bases[start : start + length]
            parts += [bases[done:start], old.translate(_OTHER) if "?" in new else new]
            done = start + length
    return "".join([*parts, bases[done:]])


def pairs(drawn: random.Random, haplotype: str, number: int) -> Iterator[tuple[str, str]]:
    complement = str.maketrans("ACGT", "TGCA")
    for _ in range(number):
        length = drawn.randint(240, 320)
        start = drawn.randrange(max(1, len(haplotype) - length))
        fragment = haplotype[start : start + length]
        yield fragment[:100], fragment[-100:].translate(complement)[::-1]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Clusters of variants at every cut, every second one on one haplotype only."""
    folder = tmp_path_factory.mktemp("slices")
    drawn = random.Random(8)
    mates: tuple[list[str], list[str]] = ([], [])
    letters, done = [], 0
    for name, length in CONTIGS.items():
        bases = "".join(drawn.choices("ACGT", k=length))
        letters.append(f">{name}\n{bases}\n")
        first = -done % SLICE or SLICE
        cuts = [cut for cut in range(first, length - 20, SLICE) if cut > 20]
        done += length
        for number, chosen in enumerate((cuts, cuts[::2])):
            haplotype = edited(bases, iter(chosen))
            for pair in pairs(drawn, haplotype, length // 10):
                for mate, read in zip(mates, pair, strict=True):
                    title = f"@{name}.{number}.{len(mate)}"
                    mate.append(f"{title}\n{read}\n+\n{'I' * len(read)}\n")
    (folder / "ref.fa").write_text("".join(letters))
    files = []
    for number, mate in enumerate(mates, 1):
        files.append(folder / f"reads_{number}.fq.gz")
        files[-1].write_bytes(gzip.compress("".join(mate).encode(), 1, mtime=0))
    first, second = map(str, files)
    return {
        "reads": [{"first": first, "second": second}],
        "reference": str(folder / "ref.fa"),
    }


def records(vcf: Path) -> list[list[str]]:
    lines = gzip.decompress(vcf.read_bytes()).decode().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def text(vcf: Path) -> str:
    return gzip.decompress(vcf.read_bytes()).decode()


def test_bcftools_has_the_same_text_and_every_base_of_the_gvcf_once(workflow, sample):
    config = sample | {"gvcf": True}
    whole = workflow("wgs", "whole").succeed(config)
    sliced = workflow("wgs", "sliced").succeed(config | {"slice_size_mb": SLICE / 1e6})
    assert len(records(whole / "calls.vcf.gz")) >= 20
    assert text(sliced / "calls.vcf.gz") == text(whole / "calls.vcf.gz")
    assert bases(sliced / "calls.g.vcf.gz") == bases(whole / "calls.g.vcf.gz")


def bases(gvcf: Path) -> list[tuple[str, int]]:
    """Those of the blocks, each as often as it is in one, and the places of the variants."""
    found = []
    with pysam.VariantFile(str(gvcf)) as file:
        for record in file:
            last = record.start + 1 if record.alts else record.stop
            found += [(record.contig, base) for base in range(record.start, last)]
    return found


@pytest.mark.native
@pytest.mark.parametrize("size", [SLICE, 90])
def test_freebayes_has_every_cluster_once_and_whole(workflow, sample, size):
    if not shutil.which("freebayes"):
        pytest.skip("no freebayes on PATH")
    config = sample | {"caller": "freebayes"}
    whole = records(workflow("wgs", "whole").succeed(config) / "calls.vcf.gz")
    run = workflow("wgs", "sliced")
    sliced = records(run.succeed(config | {"slice_size_mb": size / 1e6}) / "calls.vcf.gz")
    assert any(len(record[3]) > 2 for record in whole)
    assert [compared(record) for record in sliced] == [compared(record) for record in whole]
    assert len(whole) > 15


def compared(record: list[str]) -> list[str]:
    """Alleles, genotype and depths. QUAL and GQ differ: freebayes weighs a site by the length of
    the haplotype that it built last, however far away that was."""
    values = dict(zip(record[8].split(":"), record[9].split(":"), strict=True))
    return [*record[:5], values["GT"], values["DP"], values["AD"]]


@pytest.mark.native
def test_targets_cut_within_clusters_keep_what_begins_in_them(workflow, sample, tmp_path):
    """In slices as well, and by both callers: the records of the whole, and no others."""
    if not shutil.which("freebayes"):
        pytest.skip("no freebayes on PATH")
    targets = tmp_path / "targets.bed"
    targets.write_text("long\t395\t1201\nlong\t2000\t2001\nother\t600\t3000\nshort\t0\t170\n")
    inside = {("long", 395, 1201), ("long", 2000, 2001), ("other", 600, 3000), ("short", 0, 170)}
    for caller in ("bcftools", "freebayes"):
        config = sample | {"caller": caller}
        whole = records(workflow("wgs", f"{caller} whole").succeed(config) / "calls.vcf.gz")
        expected = [
            compared(record)
            for record in whole
            if any(
                record[0] == contig and start < int(record[1]) <= end
                for contig, start, end in inside
            )
        ]
        more = {"targets": str(targets), "slice_size_mb": 0.0007, "gvcf": caller == "bcftools"}
        found = workflow("wgs", f"{caller} targets").succeed(config | more)
        assert [compared(each) for each in records(found / "calls.vcf.gz")] == expected
        if more["gvcf"]:
            for name, base in bases(found / "calls.g.vcf.gz"):
                assert any(name == each[0] and each[1] <= base < each[2] for each in inside)
        assert 8 < len(expected) < len(whole)
