"""Options of the configuration: formats, callers, mappers; the figures of the summary."""

import gzip
import json
import shutil
from pathlib import Path

import pysam
import pytest
from support.pipelines import check_summary

from wesemu.genomics.compare import compare
from wesemu.genomics.tools import resolve


@pytest.mark.parametrize(
    ("mapper", "a_base", "a_thread"), [("bwa", 1.75, 50), ("bwa-mem3", 3.35, 300)]
)
def test_the_memory_of_the_mapping_is_requested_before_it_is_used(
    workflow, config, fixture_folder, mapper, a_base, a_thread
):
    if resolve().mapper(mapper).name != mapper:
        pytest.skip("bwa-mem3 maps in place of bwa here")
    bases = (fixture_folder / "reference.fa").stat().st_size
    kept = sum(16 * Path(path).stat().st_size for path in config["reads"][0].values()) >> 20
    done = workflow("mapping").run(
        config | {"sort_memory_mb": 2048, "mapper": mapper}, "--dry-run", "--quiet", "host"
    )
    expected = round(a_base * bases / 2**20) + max(2 * 64, kept) + 2 * a_thread + 400
    assert f"mem_mb={expected}" in done.stdout + done.stderr


def test_interleaved_phred64_reads_to_cram_with_a_gvcf(workflow, config, fixture_folder, tmp_path):
    """Many options at once: the calls are those of the plain run."""
    lines = [
        gzip.decompress(Path(path).read_bytes()).splitlines()
        for path in config["reads"][0].values()
    ]
    plus31 = bytes(byte + 31 if 33 <= byte <= 95 else byte for byte in range(256))
    with gzip.open(tmp_path / "old.fq.gz", "wb", compresslevel=1) as file:
        for start in range(0, len(lines[0]), 4):
            for mate in lines:
                *record, quality = mate[start : start + 4]
                file.write(b"\n".join([*record, quality.translate(plus31)]) + b"\n")
    run = workflow("wgs")
    results = run.succeed(
        {
            "reads": [{"first": str(tmp_path / "old.fq.gz"), "interleaved": True}],
            "reference": config["reference"],
            "quality_offset": 64,
            "optical_distance": 100,
            "alignment": "aligned.cram",
            "gvcf": True,
            "vcf": "calls.vcf",
            "slice_size_mb": 0.02,
        }
    )
    check_calls(fixture_folder, results / "calls.vcf")
    check_gvcf(results)
    reference = str(run.directory / "resources" / "genome.fa")
    with pysam.AlignmentFile(str(results / "aligned.cram"), reference_filename=reference) as cram:
        header = str(cram.header)
        reads = list(cram.fetch("sim2"))
    assert len(reads) > 2000
    assert max(max(read.query_qualities) for read in reads) == 37
    assert "samtools markdup -l 1000 -d 100" in header
    assert "UR:" not in header
    assert not (results / "aligned.bam").exists()
    assert (results / "aligned.cram.crai").exists()


def check_calls(fixture_folder: Path, calls: Path) -> None:
    verdict = compare(fixture_folder / "truth.vcf", calls, fixture_folder / "reference.fa")
    assert verdict.all.f1 == 1.0


def check_gvcf(results: Path) -> None:
    """Every called variant is in it, and blocks cover almost all of the rest."""
    with pysam.VariantFile(str(results / "calls.vcf")) as vcf:
        called = {(record.contig, record.pos, record.alts) for record in vcf}
    with pysam.VariantFile(str(results / "calls.g.vcf.gz")) as gvcf:
        records = list(gvcf.fetch())
    variants = {(record.contig, record.pos, record.alts) for record in records if record.alts}
    assert called <= variants
    assert sum(record.stop - record.start for record in records if not record.alts) > 49_000


def test_the_summary_tells_what_the_tools_report(workflow, real_config):
    run = workflow("wgs")
    results = run.succeed(real_config)
    summary = check_summary(run.snakefile, results)
    assert summary["sample"] == "HG002"
    mapper = resolve().mapper("bwa")
    assert {mapper.name, "samtools", "bcftools"} == set(summary["tools"])
    assert summary["notes"] == ([mapper.note] if mapper.note else [])
    assert summary["reads"]["bases"] == 3110072
    assert summary["alignment"]["mapped_percent"] == 99.63
    assert summary["duplicates"]["reads"] == 160
    assert summary["insert_size"] == {"mean": 564.5, "median": 568, "standard_deviation": 147.7}
    coverage = summary["coverage"]
    depths = pysam.depth("-a", "-J", str(results / "aligned.bam")).split()[2::3]
    assert coverage["genome_bases"] == len(depths)
    assert coverage["percent_at_depth"]["1"] == pytest.approx(
        100 * sum(depth != "0" for depth in depths) / len(depths), abs=0.1
    )
    assert summary["variants"]["indels"]["records"] == 68
    assert summary["warnings"] == []
    # what MultiQC looks for in each file's beginning
    heads = {
        "stats.txt": "# This file was produced by samtools stats",
        "variants.txt": "# This file was produced by bcftools stats",
    }
    for name, head in heads.items():
        assert (results / name).read_text().startswith(head)
    bam = str(results / "aligned.bam")
    assert (results / "idxstats.txt").read_text() == pysam.idxstats(bam)


@pytest.mark.native
def test_freebayes_calls_where_it_is_installed(workflow, config, fixture_folder):
    if not shutil.which("freebayes"):
        pytest.skip("no freebayes on PATH")
    run = workflow("wgs", "whole")
    results = run.succeed(config | {"caller": "freebayes"})
    verdict = compare(
        fixture_folder / "truth.vcf", results / "calls.vcf.gz", fixture_folder / "reference.fa"
    )
    assert verdict.all.f1 > 0.95
    assert check_summary(run.snakefile, results)["variants"]["caller"] == "freebayes"
    sliced = workflow("wgs", "sliced").succeed(
        config | {"caller": "freebayes", "slice_size_mb": 0.015, "vcf": "calls.vcf"}
    )
    assert str(sliced.parent) not in (sliced / "calls.vcf").read_text()


@pytest.mark.native
def test_minimap2_maps_where_it_is_installed(workflow, config):
    if not shutil.which("minimap2"):
        pytest.skip("no minimap2 on PATH")
    run = workflow("mapping")
    results = run.succeed(config | {"mapper": "minimap2"})
    summary = check_summary(run.snakefile, results)
    assert summary["alignment"]["properly_paired_percent"] > 95
    assert summary["duplicates"]["reads"] > 800
    assert set(summary["tools"]) == {"minimap2", "samtools"}
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        assert bam.header["PG"][0]["CL"] == "minimap2 -a -x sr -K 10000000 -Y"
        assert bam.header["RG"][0]["SM"] == "sample"


@pytest.mark.native
def test_an_empty_read_for_minimap2_is_named(workflow, config, tmp_path):
    if not shutil.which("minimap2"):
        pytest.skip("no minimap2 on PATH")
    for mate, bases in (("first", "ACGT"), ("second", "")):
        lane = tmp_path / f"{mate}.fq"
        lane.write_text(f"@r\n{bases}\n+\n{'I' * len(bases)}\n")
        config["reads"][0][mate] = str(lane)
    run = workflow("mapping")
    assert run.run(config | {"mapper": "minimap2"}).returncode != 0
    fault = json.loads(run.read("input_error.json"))
    assert (fault["file"], fault["record"]) == (str(tmp_path / "second.fq"), 1)


@pytest.mark.parametrize("workflow_name", ["mapping", "wgs"])
def test_a_tool_that_is_not_there_is_reported(workflow, config, workflow_name):
    tool = {"mapping": ("mapper", "minimap2"), "wgs": ("caller", "freebayes")}[workflow_name]
    done = workflow(workflow_name).run(
        config | dict([tool]) | {"tools": {tool[1]: "/nonexistent/tool"}}
    )
    assert done.returncode != 0
    assert f"tools.{tool[1]}" in done.stderr
