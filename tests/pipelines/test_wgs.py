"""`wgs`: the known variants at the right positions, and the same bytes every time."""

import gzip
import json
import shutil
from pathlib import Path

import pysam
import pytest
from support.sample_s import SAMPLE_S, Pair, called

from wesemu.genomics.compare import Comparison, compare
from wesemu.genomics.simulate.genome import RandomSource


def test_the_fixtures_variants_are_found(workflow, config, fixture_folder):
    results = workflow("wgs").succeed(config)
    verdict = compare(
        fixture_folder / "truth.vcf",
        results / "calls.vcf.gz",
        fixture_folder / "reference.fa",
    )
    assert verdict.all.f1 > 0.95
    assert (results / "calls.vcf.gz.tbi").exists()
    assert "number of SNPs" in (results / "variants.txt").read_text()


@pytest.mark.parametrize(
    ("mapper", "more", "logs"),
    [
        # whatever the cores: too few reads for a second slice
        pytest.param("bwa", {}, ["call.log"], id="bwa"),
        pytest.param(
            "bwa-mem3", {"slice_size_mb": 0.2}, [f"{n}.log" for n in range(1, 7)], id="bwa-mem3"
        ),
    ],
)
def test_real_variants_are_found(workflow, real_config, shared_data, mapper, more, logs):
    run = workflow("wgs")
    results = run.succeed(real_config | {"mapper": mapper} | more)
    found = [*run.directory.glob("logs/call/*.log"), *run.directory.glob("logs/call.log")]
    assert sorted(log.name for log in found) == logs
    verdict = compare_with_truth(shared_data, results)
    # 229 of 231 alleles, every genotype right, nothing false
    assert verdict.all.f1 >= 0.995
    assert verdict.wrong_genotypes == 0
    variants = json.loads((results / "summary.json").read_text())["variants"]
    assert variants["snps"]["records"] == 249
    assert variants["snps"]["ti_tv"] == 1.98


@pytest.mark.native
def test_real_variants_are_found_by_freebayes(workflow, real_config, shared_data):
    if not shutil.which("freebayes"):
        pytest.skip("no freebayes on PATH")
    results = workflow("wgs").succeed(real_config | {"caller": "freebayes"})
    assert compare_with_truth(shared_data, results).all.f1 >= 0.997


def compare_with_truth(shared_data: Path, results: Path) -> Comparison:
    folder = shared_data / "hg002_chr20_10mb"
    return compare(
        folder / "truth.vcf.gz",
        results / "calls.vcf.gz",
        folder / "reference.fa",
        bed=folder / "truth.bed",
    )


def test_the_bytes_do_not_depend_on_cores_or_directory(workflow, config):
    config |= {"slice_size_mb": 0.02}
    one = workflow("wgs", "one").succeed(config, cores=1)
    two = workflow("wgs", "some/where/else").succeed(config, cores=3)
    names = sorted(path.name for path in one.iterdir())
    assert "calls.vcf.gz" in names
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []


def test_the_vcf_names_the_sample_and_no_path(workflow, config):
    run = workflow("wgs")
    done = run.run(config | {"sample": "NA12878", "vcf": "calls.vcf"})
    assert done.returncode == 0, done.stderr
    # what a lease on the node's memory is taken for
    assert "mem_mb=300" in done.stderr
    results = run.directory / "results"
    text = (results / "calls.vcf").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header[-1].endswith("\tFORMAT\tNA12878")
    assert "##reference=file://resources/genome.fa" in header
    assert str(run.directory) not in text
    assert "##bcftoolsCommand=mpileup -Ou -X illumina -F 0.1 -a AD,DP" in text
    assert "Date=" not in text
    assert not (results / "calls.vcf.gz").exists()


def test_a_genome_in_slices_gives_the_same_text(workflow, config):
    """Header included: it has one command, without a slice's region."""
    whole = text_of(workflow("wgs", "whole").succeed(config | {"gvcf": True}) / "calls.vcf.gz")
    assert "##bcftoolsCommand=mpileup -Ou -X illumina -F 0.1 -a AD,DP" in whole
    for name in ("calls.vcf.gz", "calls.vcf"):
        run = workflow("wgs", f"sliced {name}")
        sliced = run.succeed(config | {"slice_size_mb": 0.015, "vcf": name, "gvcf": True})
        assert text_of(sliced / name) == whole
        assert ".bed" not in text_of(sliced / "calls.g.vcf.gz")
        assert not (sliced / "slices").exists() or not list((sliced / "slices").iterdir())
        assert (sliced / f"{name}.tbi").exists() == name.endswith(".gz")


def test_deep_reads_are_all_counted_and_show_their_indels(workflow, tmp_path):
    """Of 1,100 reads at a base, bcftools's defaults would count 250, and find no indel."""
    rng = RandomSource(7, 0)
    reference = rng.bases(600)
    changed = reference[:200] + "ACGT"[(("ACGT".index(reference[200])) + 1) % 4]
    changed += reference[201:399] + reference[401:]  # a SNP at 201, a deletion of 400-401
    pairs = []
    for number in range(3300):
        bases = (reference, changed)[number % 2]
        size = 200 + rng.below(100)
        start = rng.below(len(bases) - size)
        fragment = bases[start : start + size]
        backwards = fragment.translate(str.maketrans("ACGT", "TGCA"))[::-1]
        pairs.append(Pair(f"p{number}", fragment[:100], backwards[:100]))
    first, second = SAMPLE_S.write_reads(tmp_path, pairs=pairs)
    (tmp_path / "ref.fa").write_text(f">mt\n{reference}\n")
    results = workflow("wgs").succeed(
        {
            "reads": [{"first": str(first), "second": str(second)}],
            "reference": str(tmp_path / "ref.fa"),
            "markdup": False,
        }
    )
    assert called(results / "calls.vcf.gz").keys() == {("mt", 201), ("mt", 399)}
    with pysam.VariantFile(str(results / "calls.vcf.gz")) as records:
        depths = [sum(record.samples[0]["AD"]) for record in records]
    assert min(depths) > 1000
    coverage = json.loads((results / "summary.json").read_text())["coverage"]
    assert coverage["mean_depth"] == pytest.approx(6600 * 100 / 600, rel=0.01)


def text_of(vcf: Path) -> str:
    return (gzip.decompress(vcf.read_bytes()) if vcf.suffix == ".gz" else vcf.read_bytes()).decode()
