"""`mapping` with real reads: a complete BAM with the right figures, or one clear error."""

import json
import subprocess
from pathlib import Path

import pysam
import pytest

from wesemu.genomics.tools import resolve


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
    assert not is_stored(mapped / "aligned.bam")
    assert header.splitlines()[0] == "@HD\tVN:1.6\tSO:coordinate"
    assert "\tSM:HG002" in header
    programs = [line.split("\t") for line in header.splitlines() if line.startswith("@PG")]
    mapper = resolve().mapper("bwa").name
    assert [fields[1] for fields in programs] == [f"ID:{mapper}", "ID:samtools"]
    assert programs[1][3] == f"PP:{mapper}"
    assert programs[1][5].endswith("samtools markdup -l 1000")
    assert "/" not in header
    # and nothing is left beside the results
    left = {path.name for path in mapped.parent.iterdir()}
    assert left == {".snakemake", "config.yaml", "logs", "resources", "results"}


def test_the_bytes_do_not_depend_on_cores_or_directory(workflow, config, tmp_path):
    """Nor on blanks, quotes and letters outside ASCII in any path."""
    odd = tmp_path / "Präparat 1's «Daten»"
    odd.mkdir()
    lane = config["reads"][0]
    moved = {"reads": [{}], "reference": str(odd / "Genom von Größe 1.fa")}
    for mate, path in lane.items():
        moved["reads"][0][mate] = str(odd / Path(path).name)
        (odd / Path(path).name).symlink_to(path)
    Path(moved["reference"]).symlink_to(config["reference"])
    for suffix in ("", "indexed "):  # the second time with an index beside the FASTA
        one = workflow("mapping", f"{suffix}one").succeed(config, cores=1)
        two = workflow("mapping", f"Läufe/{suffix}zweiter Lauf, 3 µm").succeed(moved, cores=3)
        names = sorted(path.name for path in one.iterdir())
        assert len(names) == 9
        different = [
            name for name in names if (one / name).read_bytes() != (two / name).read_bytes()
        ]
        assert different == []
        index_beside(Path(moved["reference"]))


def index_beside(fasta: Path) -> None:
    tools = resolve()
    for words in ([*tools.samtools.command, "faidx"], [*tools.bwa.command, "index"]):
        subprocess.run([*words, str(fasta)], check=True, capture_output=True)


def test_without_markdup_and_with_the_wheels_alone(workflow, config):
    results = workflow("mapping").succeed(
        config | {"markdup": False, "tools": {"bwa": "wheel", "samtools": "wheel"}, "bam_level": 0}
    )
    assert is_stored(results / "aligned.bam")
    flagstat = json.loads((results / "flagstat.json").read_text())["QC-passed reads"]
    assert flagstat["duplicates"] == 0
    assert (results / "aligned.bam.bai").exists()
    assert not (results / "markdup.json").exists()


def is_stored(bam: Path) -> bool:
    """Whether its first block is not compressed: RFC 1951, 3.2.3."""
    return bam.read_bytes()[18] & 0b111 == 0b001


def test_duplicates_of_the_fixture_are_found(workflow, config, fixture_folder):
    results = workflow("mapping").succeed(config | {"bam_level": 0})
    assert is_stored(results / "aligned.bam")
    truth = json.loads((fixture_folder / "fixture.json").read_text())
    counts = json.loads((results / "reads.json").read_text())
    assert (counts["total_reads"], counts["total_bases"]) == (truth["reads"], truth["bases"])
    found = json.loads((results / "markdup.json").read_text())["DUPLICATE TOTAL"]
    assert found == truth["duplicate_reads"]


def test_lanes_have_read_groups_of_their_own(workflow, config, copied_lane):
    lane = config["reads"][0]
    swapped = {"first": copied_lane["second"], "second": copied_lane["first"]}
    named = copied_lane | swapped | {"read_group": "@RG\tID:other\tPL:ILLUMINA"}
    results = workflow("mapping").succeed(config | {"reads": [lane, named], "sample": "two"})
    with pysam.AlignmentFile(str(results / "aligned.bam")) as bam:
        groups = bam.header["RG"]
    assert groups == [
        {"ID": "two.L1", "LB": "two", "PL": "ILLUMINA", "PU": "two.L1", "SM": "two"},
        {"ID": "other", "PL": "ILLUMINA", "SM": "two"},
    ]
    counts = json.loads((results / "reads.json").read_text())
    assert [entry["read_group"] for entry in counts["lanes"]] == ["two.L1", "other"]
    warnings = json.loads((results / "summary.json").read_text())["warnings"]
    assert [text for text in warnings if "second mates" in text] == [warnings[-2]]
    assert warnings[-2].startswith("The first file of the lane other holds second mates")
    assert warnings[-1].startswith(
        "The lanes two.L1 and other hold as many reads and bases and end"
    )


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
        {"bam_level": 10},
        {"markdup": "yes"},
        {"sample": "a b"},
        {"tools": {"bowtie": "x"}},
    ],
)
def test_a_wrong_configuration_is_refused_at_once(workflow, config, change):
    run = workflow("mapping")
    done = run.run(config | change)
    assert done.returncode != 0
    assert "Error validating config file" in done.stderr
    assert not (run.directory / "results").exists()
