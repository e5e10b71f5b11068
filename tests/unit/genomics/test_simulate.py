"""Fixtures are reproducible, and their truth is right."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from wesemu.errors import Conflict, InvalidRequest
from wesemu.genomics.compare import anchored, read_fasta
from wesemu.genomics.simulate.fixture import Fixture, FixtureSettings, write_fixture
from wesemu.genomics.simulate.genome import (
    COMPLEMENT,
    EDGE,
    SPACING,
    Haplotype,
    RandomSource,
    SimulatedContig,
    Variant,
    apply_variants,
    build_contigs,
    place_variants,
)
from wesemu.genomics.simulate.reads import Library, draw_fragments

TESTDATA = Path(__file__).resolve().parents[3] / "testdata" / "diploid"
COMMITTED = FixtureSettings(seed=1, length=50_000, depth=25, snps=60, indels=24, duplicates=0.1)
SMALL = FixtureSettings(seed=7, length=30_000, depth=8, duplicates=0.2)
FILES = ("reference.fa", "reads_1.fq.gz", "reads_2.fq.gz", "truth.vcf", "fixture.json")


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def read_truth(path: Path) -> list[Variant]:
    variants = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            contig, start, _, ref, alt, *_, genotype = line.split("\t")
            first, second = map(int, genotype.split("|"))
            variants.append(Variant(contig, int(start) - 1, ref, alt, (first, second)))
    return variants


def read_fastq(path: Path) -> Iterator[tuple[str, str, str]]:
    lines = iter(gzip.decompress(path.read_bytes()).decode().splitlines())
    for name, bases, plus, qualities in zip(lines, lines, lines, lines, strict=True):
        assert name.startswith("@")
        assert plus == "+"
        yield name[1:], bases, qualities


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return write_fixture(tmp_path_factory.mktemp("small"), SMALL)


def test_the_committed_test_data_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    write_fixture(tmp_path, COMMITTED)
    for name in FILES:
        assert unpacked(tmp_path / name) == unpacked(TESTDATA / name), name


def test_the_manifest_names_the_command_of_the_test_data() -> None:
    command = json.loads((TESTDATA / "fixture.json").read_text())["command"]
    manifest = (TESTDATA.parent / "MANIFEST.md").read_text()
    assert command == COMMITTED.command()
    assert command.replace("DIR", "testdata/diploid") in manifest


def test_the_same_seed_gives_the_same_bytes(small: Fixture, tmp_path: Path) -> None:
    write_fixture(tmp_path, SMALL)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (small.reference.parent / name).read_bytes()


def test_another_seed_gives_other_bytes(small: Fixture, tmp_path: Path) -> None:
    other = write_fixture(tmp_path, FixtureSettings(seed=8, length=30_000, depth=8, duplicates=0.2))
    assert not set(other.summary.sha256.values()) & set(small.summary.sha256.values())


def test_another_depth_reads_the_same_sample(small: Fixture, tmp_path: Path) -> None:
    deeper = write_fixture(tmp_path, FixtureSettings(seed=7, length=30_000, depth=9))
    assert deeper.reference.read_bytes() == small.reference.read_bytes()
    assert deeper.truth.read_bytes() == small.truth.read_bytes()


def test_packed_reads_carry_no_time_and_no_name(small: Fixture) -> None:
    for path in (small.reads_1, small.reads_2):
        assert path.read_bytes()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"


def test_a_fastq_file_of_the_default_fixture_stays_small(tmp_path: Path) -> None:
    fixture = write_fixture(tmp_path, FixtureSettings())
    assert fixture.summary.reads == 20_000
    for path in (fixture.reads_1, fixture.reads_2):
        # 375 kB are the bases alone, at two bits each
        assert path.stat().st_size < 550_000


def test_the_summary_counts_what_the_files_hold(small: Fixture) -> None:
    reads = [*read_fastq(small.reads_1), *read_fastq(small.reads_2)]
    variants = read_truth(small.truth)
    summary = small.summary
    assert summary.reads == len(reads) == 2 * summary.pairs
    assert summary.bases == sum(len(bases) for _, bases, _ in reads)
    assert summary.contigs == {name: len(bases) for name, bases in read_fasta(small.reference)}
    assert summary.snps == sum(variant.is_snp for variant in variants) == 30
    assert summary.indels == sum(not variant.is_snp for variant in variants) == 10
    assert summary.homozygous == sum(variant.is_homozygous for variant in variants)
    assert summary.heterozygous + summary.homozygous == len(variants)
    assert json.loads((small.truth.parent / "fixture.json").read_text()) == vars(summary)


def test_reads_are_named_as_by_a_sequencer_and_mates_agree(small: Fixture) -> None:
    pairs = list(zip(read_fastq(small.reads_1), read_fastq(small.reads_2), strict=True))
    names = [first[0].split()[0] for first, _ in pairs]
    assert len(set(names)) == len(names)
    assert {len(name.split(":")) for name in names} == {7}
    for first, second in pairs:
        assert first[0].replace(" 1:N:0:", " 2:N:0:") == second[0]


def test_qualities_have_four_bins_and_fall_towards_the_end(small: Fixture) -> None:
    early, late = Counter[str](), Counter[str]()
    for path in (small.reads_1, small.reads_2):
        for _, bases, qualities in read_fastq(path):
            assert len(bases) == len(qualities) == SMALL.read_length
            early.update(qualities[:50])
            late.update(qualities[-50:])
    assert set(early + late) == set("#-8F")
    assert early["F"] > late["F"] > 0.9 * late.total()


def test_every_reference_allele_is_what_the_reference_has() -> None:
    sequences = dict(read_fasta(TESTDATA / "reference.fa"))
    for variant in read_truth(TESTDATA / "truth.vcf"):
        sequence = sequences[variant.contig]
        assert sequence[variant.start :].startswith(variant.ref)
        assert variant.ref != variant.alt
        normal = anchored(sequence, variant.start, variant.ref, variant.alt)
        assert normal == (variant.start, variant.ref, variant.alt)


def test_variants_keep_their_distance_and_their_proportions() -> None:
    contigs = build_contigs(RandomSource(3, 1), 200_000, 2)
    variants = place_variants(RandomSource(3, 2), contigs, 300, 100)
    for before, after in pairwise(variants):
        if before.contig == after.contig:
            assert after.start - before.start > SPACING / 2
    masks = {contig.name: contig.mask(EDGE // 10) for contig in contigs}
    assert not any(masks[variant.contig][variant.start] for variant in variants)
    transitions = ({"A", "G"}, {"C", "T"})
    snps = [variant for variant in variants if variant.is_snp]
    assert sum({variant.ref, variant.alt} in transitions for variant in snps) == 200
    assert sum(variant.is_homozygous for variant in snps) == 100
    sizes = {len(variant.alt) - len(variant.ref) for variant in variants}
    assert {-30, -10, -1, 1, 10, 20} <= sizes


def test_the_truth_explains_every_read(small: Fixture) -> None:
    contigs = [SimulatedContig(name, bases, ()) for name, bases in read_fasta(small.reference)]
    copies = [
        copy.sequence for pair in apply_variants(contigs, read_truth(small.truth)) for copy in pair
    ]
    places: dict[str, list[tuple[int, int]]] = {}
    for which, copy in enumerate(copies):
        for place in range(len(copy) - 24):
            places.setdefault(copy[place : place + 25], []).append((which, place))

    def fewest_errors(bases: str) -> int:
        fewest = len(bases)
        for read in (bases, bases.translate(COMPLEMENT)[::-1]):
            for offset in (0, 40, 80, 120):
                for which, place in places.get(read[offset : offset + 25], ()):
                    piece = copies[which][place - offset :][: len(read)]
                    fewest = min(fewest, sum(map(str.__ne__, piece, read)))
        return fewest

    errors = [
        fewest_errors(bases)
        for path in (small.reads_1, small.reads_2)
        for _, bases, _ in read_fastq(path)
    ]
    assert max(errors) < 20
    assert 0 < sum(errors) < 0.002 * small.summary.bases
    assert errors.count(0) > 0.75 * len(errors)


def test_copied_fragments_are_as_many_as_asked_and_no_others_coincide() -> None:
    contigs = build_contigs(RandomSource(5, 1), 30_000, 2)
    haplotypes = apply_variants(contigs, place_variants(RandomSource(5, 2), contigs, 30, 20))
    library = Library(3000, 700, 150, 400.0, 50.0)
    fragments = draw_fragments(RandomSource(5, 3), contigs, haplotypes, library)
    assert len(fragments) == 3000
    assert len(set(fragments)) == 2300
    which = {id(copy): number for number, pair in enumerate(haplotypes) for copy in pair}
    ends = {
        (
            which[id(fragment.haplotype)],
            fragment.haplotype.lift(fragment.start),
            fragment.haplotype.lift(fragment.start + fragment.size - 1),
        )
        for fragment in fragments
    }
    assert len(ends) == 2300


def test_a_haplotype_leads_back_to_the_reference() -> None:
    contig = SimulatedContig("c", "ACGTACGTAC", ())
    variants = [Variant("c", 1, "C", "CTT", (1, 0)), Variant("c", 5, "CGT", "C", (1, 0))]
    haplotype = Haplotype(contig, variants)
    assert haplotype.sequence == "ACTTGTACAC"
    assert [haplotype.lift(place) for place in (0, 1, 4, 7, 8, 9)] == [0, 1, 2, 5, 8, 9]


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("seed", {"seed": -1}),
        ("contigs", {"contigs": 0}),
        ("depth", {"depth": 0}),
        ("duplicates", {"duplicates": 1.0}),
        ("read_length", {"read_length": 20}),
        ("insert_mean", {"insert_mean": 100}),
        ("indels", {"indels": -1}),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, settings: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match=field) as refusal:
        FixtureSettings(**settings)  # type: ignore[arg-type]
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("length", FixtureSettings(length=20_000)),
        ("snps", FixtureSettings(length=30_000, snps=1000)),
        ("depth", FixtureSettings(length=10_000, contigs=1, depth=400, insert_sd=0)),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    field: str, settings: FixtureSettings, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        write_fixture(tmp_path / "fixture", settings)
    assert refusal.value.field == field
    assert not (tmp_path / "fixture").exists()


def test_a_fixture_replaces_a_fixture_and_nothing_else(tmp_path: Path) -> None:
    write_fixture(tmp_path, SMALL)
    write_fixture(tmp_path, SMALL)
    (tmp_path / "fixture.json").unlink()
    before = (tmp_path / "reference.fa").read_bytes()
    with pytest.raises(Conflict, match=r"reference\.fa"):
        write_fixture(tmp_path, FixtureSettings(seed=99, length=30_000))
    assert (tmp_path / "reference.fa").read_bytes() == before
