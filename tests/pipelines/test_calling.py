"""Ploidy, targets and names of results, by plain Snakemake."""

import json
import shutil
from pathlib import Path

import pysam
import pytest
from support.parabricks import Doubles
from support.pipelines import check_summary, stand_in
from support.sample_s import SAMPLE_S, called

HETEROZYGOUS = {site for site, genotype in SAMPLE_S.sites.items() if genotype == "0/1"}
HOMOZYGOUS = set(SAMPLE_S.sites) - HETEROZYGOUS


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("calling")
    first, second = SAMPLE_S.write_reads(folder)
    return {
        "reads": [{"first": str(first), "second": str(second)}],
        "reference": str(SAMPLE_S.write_reference(folder / "ref.fa")),
        "slice_size_mb": 0.004,
    }


def header(vcf: Path) -> str:
    with pysam.VariantFile(str(vcf)) as file:
        return str(file.header)


def test_a_haploid_sample_has_no_heterozygous_calls(workflow, sample):
    """Of sites at which half of the reads differ, bcftools calls none."""
    run = workflow("wgs")
    results = run.succeed(sample | {"ploidy": 1, "gvcf": True})
    assert called(results / "calls.vcf.gz") == dict.fromkeys(HOMOZYGOUS, "1")
    for name in ("calls.vcf.gz", "calls.g.vcf.gz"):
        assert "##wesemu_ploidy=1\n" in header(results / name)
    variants = check_summary(run.snakefile, results)["variants"]
    assert variants["ploidy"] == 1
    assert (variants["snps"]["heterozygous"], variants["snps"]["homozygous"]) == (0, 0)
    assert variants["snps"]["haploid"] == len(HOMOZYGOUS)
    assert variants["snps"]["het_hom"] is None


@pytest.mark.native
@pytest.mark.parametrize(("ploidy", "homozygous"), [(1, "1"), (3, "1/1/1")])
def test_freebayes_calls_with_any_ploidy(workflow, sample, ploidy, homozygous):
    if not shutil.which("freebayes"):
        pytest.skip("no freebayes on PATH")
    run = workflow("wgs")
    results = run.succeed(sample | {"caller": "freebayes", "ploidy": ploidy})
    found = called(results / "calls.vcf.gz")
    assert {site for site in found if found[site] == homozygous} >= HOMOZYGOUS
    assert {len(genotype.split("/")) for genotype in found.values()} == {ploidy}
    assert f"##wesemu_ploidy={ploidy}\n" in header(results / "calls.vcf.gz")
    assert check_summary(run.snakefile, results)["variants"]["ploidy"] == ploidy


@pytest.mark.parametrize(
    "caller", ["bcftools", pytest.param("freebayes", marks=pytest.mark.native)]
)
@pytest.mark.parametrize("slices", [0.004, 1])
def test_ploidy_by_region_and_sex(workflow, sample, tmp_path, caller, slices):
    """c1 is X, c2 is Y: a man has one copy of either, but for an end of X; a woman no Y."""
    if caller == "freebayes" and not shutil.which("freebayes"):
        pytest.skip("no freebayes on PATH")
    file = tmp_path / "ploidy file.txt"
    file.write_text("c1 2000 6000 M 1\nc2 1 4001 M 1\nc2 1 4000 F 0\n* * * M 2\n* * * F 2\n")
    config = sample | {"caller": caller, "ploidy": str(file), "slice_size_mb": slices}
    men = workflow("wgs", "men")
    found = called(men.succeed(config | {"sex": "M"}) / "calls.vcf.gz")
    assert found["c1", 500] == "0/1"
    assert found["c1", 1200] == "1/1"
    assert (found["c1", 3400], found["c1", 5200], found["c2", 1900]) == ("1", "1", "1")
    summary = check_summary(men.snakefile, men.directory / "results")
    assert summary["variants"]["ploidy_regions"] == ["c1:2000-6000=1", "c2:1-4000=1"]
    assert summary["variants"]["snps"]["heterozygous"] == 1
    (warning,) = summary["warnings"]
    assert "The ploidy file has c2:1-4001, and the contig has 4,000 bases" in warning
    women = workflow("wgs", "women").succeed(config | {"sex": "F", "vcf": "calls.vcf"})
    found = called(women / "calls.vcf")
    assert found == {site: gt for site, gt in SAMPLE_S.sites.items() if site[0] == "c1"}
    with pysam.VariantFile(str(women / "calls.vcf")) as file:
        assert "c2" not in {record.contig for record in file}
    assert "##wesemu_ploidy=2,c2:1-4000=0\n" in header(women / "calls.vcf")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ploidy": 3}, "bcftools cannot call with ploidy 3; choose the caller freebayes or gatk"),
        ({"ploidy": "0"}, "whole number from 1 to 100"),
        ({"ploidy": 2, "sex": "M"}, "it chooses lines of a ploidy file"),
        ({"targets": "empty.bed"}, "empty.bed: it has no intervals"),
        ({"targets": "cut.bed"}, "cut.bed, line 1: 'c1 5' is not a BED interval"),
    ],
)
def test_what_cannot_be_ends_before_anything_runs(workflow, sample, more, words):
    run = workflow("wgs")
    run.directory.mkdir(parents=True)
    (run.directory / "empty.bed").touch()
    (run.directory / "cut.bed").write_text("c1\t5\n")
    done = run.run(sample | more)
    assert done.returncode != 0
    assert words in done.stderr
    assert not (run.directory / "results").exists()


@pytest.mark.native
def test_a_read_group_that_freebayes_misreads_ends_before_anything_runs(workflow, sample):
    if not shutil.which("freebayes"):
        pytest.skip("no freebayes on PATH")
    lane = sample["reads"][0] | {"read_group": "@RG\\tID:x\\tSM:NA 12"}
    run = workflow("wgs")
    done = run.run(sample | {"caller": "freebayes", "reads": [lane]})
    assert done.returncode != 0
    assert "freebayes cannot read" in done.stderr
    assert not (run.directory / "results").exists()


@pytest.mark.parametrize(
    ("key", "line", "words"),
    [
        ("targets", "chr1\t1\t9\n", "line 1: the reference has no contig 'chr1'; it has c1, c2."),
        ("targets", "c1\t1\t6001\n", "ends after the contig, which has 6000 bases"),
        ("ploidy", "X 1 9 M 1\n", "line 1: the reference has no contig 'X'; it has c1, c2."),
        ("ploidy", "c1 1 9 M 4\n", "bcftools cannot call with ploidy 4"),
    ],
)
def test_files_of_another_reference_end_the_run_before_the_mapping(
    workflow, sample, key, line, words
):
    run = workflow("wgs")
    run.directory.mkdir(parents=True)
    (run.directory / "file.txt").write_text(line)
    done = run.run(sample | {key: "file.txt"}, cores=1)
    assert done.returncode != 0
    fault = json.loads(run.read("input_error.json"))
    assert words in fault["message"]
    assert fault["file"] == "file.txt"
    assert not (run.directory / "results" / "aligned.bam").exists()


@pytest.mark.parametrize("caller", ["gatk", "deepvariant"])
def test_callers_that_cannot_be_installed_get_ploidy_and_targets(
    workflow, sample, tmp_path, caller
):
    targets = tmp_path / "targets.bed"
    targets.write_text("c2\t600\t2000\nc1\t400\t1300\n")
    more = {"caller": caller, "targets": str(targets), "slice_size_mb": 0.001}
    if caller == "gatk":
        more["ploidy"] = 4
    run = workflow("wgs")
    results = run.succeed(sample | stand_in(caller) | more)
    assert set(called(results / "calls.vcf.gz")) == {
        *(("c1", 500), ("c1", 1200), ("c2", 700), ("c2", 1900))
    }
    summary = check_summary(run.snakefile, results)
    assert summary["targets"]["bases"] == 2300
    assert summary["targets"]["percent_at_depth"]["10"] == 100


def test_the_depth_on_targets_is_samtools(workflow, sample, tmp_path):
    """Targets on a contig without reads count, too."""
    reference = SAMPLE_S.write_reference(tmp_path / "ref.fa")
    with reference.open("a") as file:
        file.write(">silent\n" + "ACGGTTCA" * 50 + "\n")
    targets = tmp_path / "targets.bed"
    targets.write_text("c1\t0\t50\nc1\t40\t1300\nsilent\t100\t300\n")
    run = workflow("wgs")
    results = run.succeed(sample | {"reference": str(reference), "targets": str(targets)})
    summary = check_summary(run.snakefile, results)["targets"]
    depths = pysam.depth("-a", "-J", "-r", "c1:1-1300", str(results / "aligned.bam")).split()[2::3]
    assert len(depths) == 1300
    assert summary["bases"] == 1500
    assert summary["mean_depth"] == round(sum(map(int, depths)) / 1500, 2)
    left = {path.name for path in results.iterdir()}
    assert not {"target_depths.txt", "target_reads.txt"} & left


@pytest.mark.parametrize("slices", [0.004, 1])
def test_a_plain_gvcf_has_no_index(workflow, sample, slices):
    more = {"gvcf": "calls.g.vcf", "slice_size_mb": slices}
    results = workflow("wgs").succeed(sample | more)
    assert (results / "calls.g.vcf").read_text().startswith("##fileformat=VCF")
    assert not (results / "calls.g.vcf.tbi").exists()
    assert not (results / "calls.g.vcf.gz").exists()
    assert (results / "calls.vcf.gz.tbi").exists()


def test_on_a_gpu_ploidy_and_targets_are_parabricks(workflow, sample, tmp_path, monkeypatch):
    """With a version that writes no .vcf.gz yet."""
    doubles = Doubles(tmp_path / "doubles", monkeypatch)
    doubles.install("pbrun")
    doubles.set("PBRUN_DOUBLE_VERSION", "4.4.0-1")
    targets = tmp_path / "targets.bed"
    targets.write_text("c1\t400\t6000\n")
    more = {"accelerator": "cuda", "ploidy": 1, "targets": str(targets), "gvcf": "calls.g.vcf"}
    run = workflow("wgs", "haploid")
    results = run.succeed(sample | more)
    assert called(results / "calls.vcf.gz") == {site: "1" for site in HOMOZYGOUS if site[0] == "c1"}
    assert "##wesemu_ploidy=1\n" in header(results / "calls.vcf.gz")
    calls = [call["words"] for call in doubles.calls if "haplotypecaller" in call["words"]]
    assert len(calls) == 2
    for words in calls:
        assert words[words.index("--ploidy") + 1] == "1"
        assert words[words.index("--interval-file") + 1].endswith("/resources/targets.bed")
    assert check_summary(run.snakefile, results)["targets"]["bases"] == 5600


def test_on_a_gpu_a_ploidy_that_parabricks_cannot_call_is_bcftools(
    workflow, sample, tmp_path, monkeypatch
):
    Doubles(tmp_path / "doubles", monkeypatch).install("pbrun")
    (tmp_path / "ploidy.txt").write_text("c2 1 4000 M 1\n")
    run = workflow("wgs")
    results = run.succeed(sample | {"accelerator": "cuda", "ploidy": str(tmp_path / "ploidy.txt")})
    assert check_summary(run.snakefile, results)["variants"]["caller"] == "bcftools"
