"""Whole-genome calling: the known variants, at the right places, the same bytes every time."""

import gzip

import pysam
import pytest

from wesemu.genomics.compare import compare


def calls(path) -> dict[tuple[str, int, str, str], str]:
    """Genotypes of the calls with QUAL >= 20, by place and alleles."""
    with pysam.VariantFile(str(path)) as vcf:
        return {
            (record.contig, record.pos, record.ref, record.alts[0]): "/".join(
                map(str, sorted(record.samples[0]["GT"]))
            )
            for record in vcf
            if record.qual >= 20
        }


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


def test_real_variants_are_found(workflow, real_config, shared_data):
    folder = shared_data / "hg002_chr20_10mb"
    results = workflow("wgs").succeed(real_config)
    verdict = compare(
        folder / "truth.vcf.gz",
        results / "calls.vcf.gz",
        folder / "reference.fa",
        bed=folder / "truth.bed",
    )
    assert verdict.all.f1 > 0.98


def test_the_bytes_do_not_depend_on_cores_or_directory(workflow, config):
    one = workflow("wgs", "one").succeed(config, cores=1)
    two = workflow("wgs", "some/where/else").succeed(config, cores=3)
    names = sorted(path.name for path in one.iterdir())
    assert "calls.vcf.gz" in names
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []


def test_the_vcf_names_the_sample_and_no_path(workflow, config):
    run = workflow("wgs")
    results = run.succeed(config | {"sample": "NA12878", "vcf": "calls.vcf"})
    text = (results / "calls.vcf").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header[-1].endswith("\tFORMAT\tNA12878")
    assert "##reference=file://resources/genome.fa" in header
    assert str(run.directory) not in text
    assert "bcftools_" not in text
    assert not (results / "calls.vcf.gz").exists()


@pytest.mark.parametrize("name", ["calls.vcf.gz", "calls.vcf"])
def test_a_genome_in_slices_gives_the_same_calls(workflow, config, name):
    whole = workflow("wgs", "whole").succeed(config)
    sliced = workflow("wgs", "sliced").succeed(config | {"slice_size_mb": 0.015, "vcf": name})
    assert calls(sliced / name) == calls(whole / "calls.vcf.gz")
    assert not (sliced / "slices").exists() or not list((sliced / "slices").iterdir())
    assert (sliced / f"{name}.tbi").exists() == name.endswith(".gz")


def test_no_variant_is_a_result_too(workflow, config, tmp_path):
    reference = tmp_path / "other.fa"
    reference.write_text(">HLA-A*01:01:01:01\n" + "ACCTTTGGAGTC" * 500 + "\n")
    results = workflow("wgs").succeed(config | {"reference": str(reference)})
    with gzip.open(results / "calls.vcf.gz", "rt") as vcf:
        lines = vcf.read().splitlines()
    assert lines[-1].startswith("#CHROM")
    assert "number of records:\t0" in (results / "variants.txt").read_text()
