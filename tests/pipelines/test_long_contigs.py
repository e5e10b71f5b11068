"""Contigs over 512 Mb get CSI indexes; this is decided before anything runs."""

import shutil

import pysam
import pytest
from support.long_reference import write_long_reference
from support.sample_s import SAMPLE_S, called


@pytest.mark.parametrize(
    "caller", ["bcftools", pytest.param("freebayes", marks=pytest.mark.native)]
)
def test_all_steps_work_with_csi(workflow, tmp_path, caller):
    if caller != "bcftools" and shutil.which(caller) is None:
        pytest.skip(f"no {caller} on PATH")
    first, second = SAMPLE_S.write_reads(tmp_path / "reads")
    config = {
        "reads": [{"first": str(first), "second": str(second)}],
        "reference": str(SAMPLE_S.write_reference(tmp_path / "ref.fa")),
        "caller": caller,
        "gvcf": caller == "bcftools",
        "slice_size_mb": 0.004,
        "index_format": "csi",
    }
    results = workflow("wgs").succeed(config)
    assert called(results / "calls.vcf.gz") == SAMPLE_S.sites
    made = {path.name for path in results.iterdir()}
    assert {"aligned.bam.csi", "calls.vcf.gz.csi"} <= made
    assert ("calls.g.vcf.gz.csi" in made) == (caller == "bcftools")
    assert not any(name.endswith((".bai", ".tbi")) for name in made)
    assert (results / "idxstats.txt").read_text() == pysam.idxstats(str(results / "aligned.bam"))


@pytest.fixture
def long_config(tmp_path) -> dict[str, object]:
    first, second = SAMPLE_S.write_reads(tmp_path / "reads", pairs=SAMPLE_S.pairs[:1])
    lane = {"first": str(first), "second": str(second)}
    reference = write_long_reference(tmp_path / "long.fa", 600_000_000)
    return {"reads": [lane], "reference": str(reference)}


def test_a_long_contig_chooses_csi_before_anything_runs(workflow, long_config):
    told = workflow("wgs").run(long_config, "--dry-run").stdout
    assert "results/aligned.bam.csi" in told
    assert "results/calls.vcf.gz.csi" in told
    assert ".bai" not in told
    cram = workflow("mapping").run(long_config | {"alignment": "aligned.cram"}, "--dry-run").stdout
    assert "results/aligned.cram.crai" in cram


def test_what_cannot_index_long_contigs_is_refused_before_anything_runs(
    workflow, long_config, tmp_path
):
    gatk = tmp_path / "gatk"
    gatk.write_text("#!/bin/sh\necho 'The Genome Analysis Toolkit (GATK) v4.6.0.0'\n")
    gatk.chmod(0o755)
    config = long_config | {"caller": "gatk", "tools": {"gatk": str(gatk)}}
    run = workflow("wgs").run(config, "-n")
    assert run.returncode != 0
    assert "gatk cannot index contigs of over 536,870,911 bases" in run.stdout + run.stderr
