"""Mapping: real reads in, a whole BAM with the right figures out, or one clear sentence."""

import gzip
import json
from pathlib import Path

import pysam
import pytest


def test_real_reads_give_the_known_figures(workflow, real_config):
    mapped = workflow("mapping").succeed(real_config)
    flagstat = json.loads((mapped / "flagstat.json").read_text())["QC-passed reads"]
    assert flagstat["primary"] == 21014
    assert flagstat["primary mapped"] == 20937
    assert flagstat["primary mapped %"] == 99.63
    assert flagstat["properly paired"] == 20832
    assert flagstat["supplementary"] == 9
    assert flagstat["duplicates"] == 160
    assert json.loads((mapped / "markdup.json").read_text())["DUPLICATE TOTAL"] == 160
    counts = json.loads((mapped / "reads.json").read_text())
    assert (counts["total_reads"], counts["total_bases"]) == (21014, 3110072)
    assert pysam.flagstat(str(mapped / "aligned.bam")) == (mapped / "flagstat.txt").read_text()
    assert "SN\traw total sequences:\t21014" in (mapped / "stats.txt").read_text()


def test_the_bam_is_sorted_indexed_and_names_no_path(workflow, config):
    mapped = workflow("mapping").succeed(config | {"sample": "HG002"})
    with pysam.AlignmentFile(str(mapped / "aligned.bam")) as bam:
        header = str(bam.header)
        places = [read.reference_start for read in bam.fetch("sim2")]
    assert len(places) > 2000
    assert places == sorted(places)
    assert header.splitlines()[0] == "@HD\tVN:1.6\tSO:coordinate"
    assert "\tSM:HG002" in header
    assert header.count("@PG") == 1
    assert str(mapped.parent) not in header
    # and nothing is left beside the results
    left = {path.name for path in mapped.parent.iterdir()}
    assert left == {".snakemake", "config.yaml", "logs", "resources", "results"}


def test_the_bytes_do_not_depend_on_cores_or_directory(workflow, config):
    one = workflow("mapping", "one").succeed(config, cores=1)
    two = workflow("mapping", "some/where/else").succeed(config, cores=3)
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 7
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []


def test_without_markdup_and_with_the_wheels_alone(workflow, config):
    results = workflow("mapping").succeed(
        config | {"markdup": False, "tools": {"bwa": "wheel", "samtools": "wheel"}}
    )
    flagstat = json.loads((results / "flagstat.json").read_text())["QC-passed reads"]
    assert flagstat["duplicates"] == 0
    assert (results / "aligned.bam.bai").exists()
    assert not (results / "markdup.json").exists()


def test_duplicates_of_the_fixture_are_found(workflow, config, fixture_folder):
    results = workflow("mapping").succeed(config)
    truth = json.loads((fixture_folder / "fixture.json").read_text())
    counts = json.loads((results / "reads.json").read_text())
    assert (counts["total_reads"], counts["total_bases"]) == (truth["reads"], truth["bases"])
    found = json.loads((results / "markdup.json").read_text())["DUPLICATE TOTAL"]
    assert found == truth["duplicate_reads"]


def test_lanes_have_read_groups_of_their_own(workflow, config):
    lane = config["reads"][0]
    named = lane | {"read_group": "@RG\tID:other\tPL:ILLUMINA"}
    results = workflow("mapping").succeed(config | {"reads": [lane, named], "sample": "two"})
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        groups = bam.header["RG"]
    assert groups == [
        {"ID": "two.L1", "LB": "two", "PL": "ILLUMINA", "PU": "two.L1", "SM": "two"},
        {"ID": "other", "PL": "ILLUMINA", "SM": "two"},
    ]
    counts = json.loads((results / "reads.json").read_text())
    assert [entry["read_group"] for entry in counts["lanes"]] == ["two.L1", "other"]


def damaged(source: str, target: Path, damage) -> str:
    target.write_bytes(gzip.compress(damage(gzip.decompress(Path(source).read_bytes()))))
    return str(target)


@pytest.mark.parametrize("bwa", ["wheel", None])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-100], "cut"),
        (lambda data: b"\n".join(data.splitlines()[4:]), "out of step"),
        (lambda data: b"<html>", "HTML"),
        (lambda data: b"", "numbers of reads"),
    ],
)
def test_bad_reads_end_in_one_sentence_and_no_bam(workflow, config, tmp_path, damage, words, bwa):
    lane = dict(config["reads"][0])
    lane["second"] = damaged(lane["second"], tmp_path / "bad_2.fq.gz", damage)
    run = workflow("mapping")
    tools = {"tools": {"bwa": bwa}} if bwa else {}
    assert run.run(config | {"reads": [lane]} | tools).returncode != 0
    error = json.loads(run.read("input_error.json"))
    assert words in error["message"]
    assert error["file"] == lane["second"]
    assert list(run.directory.glob("results/*")) == []


def test_reads_of_another_organism_are_no_error(workflow, config, tmp_path):
    reference = tmp_path / "other.fa"
    reference.write_text(">other\n" + "ACCTTTGGAGTC" * 500 + "\n")
    results = workflow("mapping").succeed(config | {"reference": str(reference)})
    flagstat = json.loads((results / "flagstat.json").read_text())["QC-passed reads"]
    assert flagstat["mapped"] == 0
    assert flagstat["primary"] > 0


def test_a_contig_name_that_would_empty_the_vcf_is_refused(workflow, config, tmp_path):
    reference = tmp_path / "comma.fa"
    reference.write_text(">a,b\n" + "ACCTTTGGAGTC" * 500 + "\n")
    run = workflow("mapping")
    assert run.run(config | {"reference": str(reference)}).returncode != 0
    assert "'a,b'" in json.loads(run.read("input_error.json"))["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"reads": []},
        {"makdup": True},
        {"markdup": "yes"},
        {"sample": "a b"},
        {"tools": {"gatk": "x"}},
    ],
)
def test_a_wrong_configuration_is_refused_at_once(workflow, config, change):
    run = workflow("mapping")
    done = run.run(config | change)
    assert done.returncode != 0
    assert "Error validating config file" in done.stderr
    assert not (run.directory / "results").exists()
