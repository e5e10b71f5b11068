"""Command lines of programs that cannot be installed here, checked by strict stand-ins."""

import gzip
import json
import shutil

import pysam
import pytest
from support.pipelines import COMMANDS, stand_in

from wesemu.genomics.compare import compare


@pytest.mark.parametrize("caller", ["gatk", "deepvariant"])
def test_a_caller_is_called_slice_by_slice(workflow, config, fixture_folder, caller):
    run = workflow("wgs", "with blänks")
    more = {"caller": caller, "gvcf": True, "slice_size_mb": 0.03}
    results = run.succeed(config | stand_in(caller) | more)
    reference = fixture_folder / "reference.fa"
    verdict = compare(fixture_folder / "truth.vcf", results / "calls.vcf.gz", reference)
    assert verdict.all.f1 > 0.95
    summary = json.loads((results / "summary.json").read_text())
    assert summary["variants"]["caller"] == caller
    assert summary["tools"][caller] == COMMANDS[caller][1]
    text = gzip.decompress((results / "calls.vcf.gz").read_bytes()).decode()
    assert "\tRefCall\t" not in text
    assert ".bed" not in text
    with pysam.VariantFile(str(results / "calls.g.vcf.gz")) as gvcf:
        blocks = [record for record in gvcf.fetch("sim2") if not record.alts]
    assert sum(record.stop - record.start for record in blocks) > 10_000
    assert [path.name for path in results.iterdir() if path.is_dir()] in ([], ["slices"])
    assert not list(results.glob("slices/*"))


@pytest.mark.parametrize("caller", ["gatk", "deepvariant"])
def test_a_caller_calls_a_genome_in_one_piece(workflow, config, fixture_folder, caller):
    more = {"caller": caller, "vcf": "calls.vcf"}
    results = workflow("wgs").succeed(config | stand_in(caller) | more)
    reference = fixture_folder / "reference.fa"
    assert compare(fixture_folder / "truth.vcf", results / "calls.vcf", reference).all.f1 > 0.95
    assert not (results / "calls.vcf.scratch").exists()


@pytest.mark.native
def test_bwa_mem2_indexes_and_maps(workflow, config):
    if not shutil.which("bwa"):
        pytest.skip("no bwa on PATH")
    first = workflow("mapping", "first")
    results = first.succeed(config | stand_in("bwa-mem2") | {"mapper": "bwa-mem2"})
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        program = bam.header["PG"][0]
        records = [record.to_string() for record in bam]
    assert program["CL"] == "bwa-mem2 mem -K 10000000 -Y"
    summary = json.loads((results / "summary.json").read_text())
    assert set(summary["tools"]) == {"bwa-mem2", "samtools"}
    assert summary["tools"]["bwa-mem2"] == "2.2.1"
    own = {path.name for path in (first.directory / "resources").iterdir()}
    assert {"genome.fa.0123", "genome.fa.bwt.2bit.64"} <= own
    assert "genome.fa.bwt" not in own
    # with the index that is there now, linked; and by bwa
    indexed = first.directory / "resources" / "genome.fa"
    second = workflow("mapping", "second")
    second.succeed(
        config | stand_in("bwa-mem2") | {"mapper": "bwa-mem2", "reference": str(indexed)}
    )
    assert (second.directory / "resources" / "genome.fa.bwt.2bit.64").is_symlink()
    plain = workflow("mapping", "plain").succeed(config | {"tools": {"bwa": "bwa"}})
    for other in (second.directory / "results", plain):
        with pysam.AlignmentFile(str(other / "aligned.bam")) as bam:
            assert [record.to_string() for record in bam] == records
