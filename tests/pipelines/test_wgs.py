"""`wgs`: the known variants at the right positions, and the same bytes every time."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from wesemu.genomics.compare import Comparison, compare


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


def text_of(vcf: Path) -> str:
    return (gzip.decompress(vcf.read_bytes()) if vcf.suffix == ".gz" else vcf.read_bytes()).decode()
