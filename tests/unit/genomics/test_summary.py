"""Warnings of the summary: for unusual figures only."""

import json
from pathlib import Path

import pysam
import pytest

from wesemu.genomics.align import ReadCounter
from wesemu.genomics.fastq import PairedReader
from wesemu.genomics.fastq_file import BGZF_END
from wesemu.genomics.mappers import Lane
from wesemu.genomics.summary import main, summarize_mapping, summarize_targets, summarize_variants

STATS = """\
# This file was produced by samtools stats
SN\tmaximum length:\t150
SN\taverage quality:\t35.2
SN\treads MQ0:\t3\t# mapped and MQ=0
SN\terror rate:\t6.0e-03\t# mismatches / bases mapped (cigar)
SN\tinsert size average:\t400.5
SN\tinsert size standard deviation:\t50.1
IS\t399\t10\t10\t0\t0
IS\t400\t10\t10\t0\t0
IS\t420\t5\t5\t0\t0
COV\t[1-1]\t1\t100
COV\t[10-10]\t10\t300
COV\t[1000<]\t1000\t1
"""
VARIANTS = """\
SN\t0\tnumber of records:\t4
SN\t0\tnumber of SNPs:\t3
SN\t0\tnumber of indels:\t1
SN\t0\tnumber of multiallelic sites:\t0
TSTV\t0\t2\t1\t2.00\t2\t1\t2.00
QUAL\t0\t.\t1\t1\t0\t0
QUAL\t0\t19.9\t1\t1\t0\t0
QUAL\t0\t20.0\t1\t0\t1\t1
PSC\t0\ts\t0\t1\t2\t2\t1\t1\t27.7\t4\t0\t0\t0
PSI\t0\ts\t0\t0\t0\t0.00\t1\t0\t0\t0
"""


def flagstat(mapped: int, proper: int) -> dict[str, dict[str, int | float | None]]:
    passed = {"primary mapped": mapped, "properly paired": proper, "supplementary": 2}
    return {"QC-passed reads": passed, "QC-failed reads": dict.fromkeys(passed, 0)}


@pytest.fixture
def stats(tmp_path: Path) -> Path:
    (tmp_path / "stats.txt").write_text(STATS)
    return tmp_path / "stats.txt"


def summarize(
    stats: Path,
    *,
    mapped: int = 980,
    proper: int = 960,
    duplicates: int = 10,
    counts: dict | None = None,
    unlisted: tuple[str, ...] = (),
    optical_distance: int = 0,
) -> dict:
    markdup = {
        "EXAMINED": mapped,
        "DUPLICATE TOTAL": duplicates,
        "DUPLICATE PAIR OPTICAL": 2,
        "DUPLICATE SINGLE OPTICAL": 1,
        "ESTIMATED_LIBRARY_SIZE": 0,
    }
    return summarize_mapping(
        sample="s",
        tools={"bwa": "0.7.17"},
        counts={"total_reads": 1000, "total_bases": 150_000} | (counts or {}),
        flagstat=flagstat(mapped, proper),
        stats=stats,
        markdup=markdup,
        genome=1000,
        unlisted=unlisted,
        optical_distance=optical_distance,
    )


def test_figures_are_taken_from_the_reports(stats):
    summary = summarize(stats)
    assert summary["reads"]["mean_length"] == 150
    assert summary["alignment"]["mapped_percent"] == 98
    assert summary["duplicates"] == {
        "reads": 10,
        "percent": 1.02,
        "optical": 3,
        "estimated_library_size": None,
    }
    assert summary["insert_size"]["median"] == 400
    assert summary["coverage"]["mean_depth"] == 4.1
    assert summary["coverage"]["percent_at_depth"] == {"1": 40.1, "10": 30.1, "20": 0.1, "30": 0.1}
    assert summary["warnings"] == []


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"mapped": 400}, "Only 40.0 % of the reads map"),
        ({"proper": 100}, "Only 10.0 % of the reads are properly paired"),
        ({"duplicates": 900}, "91.84 % of the mapped reads are duplicates"),
        (
            {"unlisted": ("chr6", "chr6_GL000256v2_alt", "chrUn_KI270302v1", "HLA-A*01:01:01:01")},
            "The reference has ALT contigs (2, such as chr6_GL000256v2_alt) without a list",
        ),
        ({"unlisted": ("chr6", "chr6_apd_hap1", "alt")}, "The reference has ALT contigs (1, such"),
    ],
)
def test_odd_figures_are_warned_of(stats, odd, words):
    (warning,) = summarize(stats, **odd)["warnings"]
    assert warning.startswith(words)


def test_a_reference_of_nothing_but_alleles_has_no_alternates(stats):
    names = ("HLA-A*01:01:01:01", "HLA-B*07:02:01")
    assert summarize(stats, unlisted=names)["warnings"] == []


def test_names_without_positions_are_warned_of_if_optical_duplicates_are_wanted(stats):
    lane = {"reads": 10, "bases": 90, "read_group": "L1"}
    names = ("SRR062634.7", "M1:7:F-X:1:1101:15:77", "HW:1:1101:15:77#0", "A:1:F:2:1101:7:7:ACGT")
    for name in names:
        counts = {"lanes": [lane | {"last_name": name}]}
        assert summarize(stats, counts=counts)["warnings"] == []
        warnings = summarize(stats, counts=counts, optical_distance=100)["warnings"]
        assert [("'SRR062634.7'): its optical" in text) for text in warnings] == (
            [True] if name == names[0] else []
        )


def test_without_a_mapped_pair_there_is_no_insert_size(stats):
    """samtools writes 0 in its place."""
    lines = [line for line in STATS.splitlines() if not line.startswith("IS\t")]
    stats.write_text("\n".join(lines) + "\n")
    summary = summarize(stats, mapped=0, proper=0, duplicates=0)
    assert set(summary["insert_size"].values()) == {None}
    assert summary["alignment"]["mismatch_rate"] is None


def test_bgzip_data_that_may_be_cut_is_warned_of(stats, tmp_path):
    """Cut between two blocks and between two reads: nothing else shows it."""
    files = [tmp_path / "a_1.fq.gz", tmp_path / "a_2.fq.gz"]
    for mate, file in enumerate(files, 1):
        plain = tmp_path / "plain.fq"
        plain.write_text(f"@r/{mate}\n{'AC' if mate == 1 else 'GT'}\n+\n5I\n")
        pysam.tabix_compress(str(plain), str(file))

    def warnings() -> list[str]:
        counter = ReadCounter()
        with PairedReader(*map(str, files)) as reader:
            assert [len(texts) for texts in reader.texts()] == [2]
            counter.add(Lane(*map(str, files), "@RG\tID:one"), reader)
        return summarize(stats, counts=counter.report())["warnings"]

    assert not any("end mark" in text for text in warnings())
    files[1].write_bytes(files[1].read_bytes()[: -len(BGZF_END)])
    assert [text for text in warnings() if "end mark" in text] == [
        "a_2.fq.gz: the bgzip data has no end mark. Was the file cut? Compare its size or its "
        "number of reads with the original."
    ]


def test_variants_are_counted(stats):
    report = stats.with_name("variants.txt")
    report.write_text(VARIANTS)
    variants, warnings = summarize_variants(report, caller="bcftools")
    assert warnings == []
    assert variants["snps"] == {
        "records": 3,
        "alleles_from_quality_20": 2,
        "transitions": 2,
        "transversions": 1,
        "ti_tv": 2.0,
        "heterozygous": 2,
        "homozygous": 1,
        "het_hom": 2.0,
        "haploid": 0,
    }
    assert variants["indels"]["alleles_from_quality_20"] == 1
    assert variants["indels"]["het_hom"] is None


def test_haploid_variants_are_neither_heterozygous_nor_homozygous(stats):
    report, haploid = stats.with_name("variants.txt"), stats.with_name("haploid.txt")
    report.write_text(VARIANTS)
    haploid.write_text("SN\t0\tnumber of SNPs:\t7\nSN\t0\tnumber of indels:\t2\n")
    variants, _ = summarize_variants(
        report, caller="bcftools", ploidy="2,X:1-60=1,Y:1-9=0", haploid=haploid
    )
    assert variants["ploidy"] == 2
    assert variants["ploidy_regions"] == ["X:1-60=1", "Y:1-9=0"]
    assert (variants["snps"]["haploid"], variants["indels"]["haploid"]) == (7, 2)


def test_figures_of_the_targets_are_without_duplicates(stats):
    depths, reads = stats.with_name("depths.txt"), stats.with_name("reads.txt")
    depths.write_text("0 10\n12 80\n40 10\n")
    reads.write_text("485\n")
    targets, warnings = summarize_targets(depths, reads, summarize(stats))
    assert targets == {
        "bases": 100,
        "reads": 485,
        "reads_percent": 50.0,
        "mean_depth": 13.6,
        "percent_at_depth": {"1": 90.0, "10": 90.0, "20": 10.0, "30": 10.0},
    }
    assert warnings == []
    reads.write_text("0\n")
    _, warnings = summarize_targets(depths, reads, summarize(stats))
    assert warnings[0].startswith("No read maps to the targets")


def test_the_variants_join_the_mapping(stats):
    folder = stats.parent
    (folder / "mapping.json").write_text(json.dumps(summarize(stats, mapped=1, duplicates=0)))
    (folder / "variants.txt").write_text(VARIANTS.replace("records:\t4", "records:\t0"))
    words = [f"--{name}={folder / file}" for name, file in FILES.items()]
    assert main([*words, "--caller", "bcftools", "1.24"]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tools"] == {"bwa": "0.7.17", "bcftools": "1.24"}
    assert [warning[:7] for warning in summary["warnings"]] == ["Only 0.", "No vari"]


@pytest.mark.parametrize(
    ("deviation", "caller", "warned"),
    [("1.1", "bcftools", True), ("1.1", "freebayes", False), ("50.1", "bcftools", False)],
)
def test_fragments_of_one_length_are_warned_of(stats, deviation, caller, warned):
    """bwa calls pairs with an indel improper there, and bcftools leaves those out."""
    stats.write_text(STATS.replace("deviation:\t50.1", f"deviation:\t{deviation}"))
    folder = stats.parent
    (folder / "mapping.json").write_text(json.dumps(summarize(stats, mapped=1000)))
    (folder / "variants.txt").write_text(VARIANTS)
    words = [f"--{name}={folder / file}" for name, file in FILES.items()]
    assert main([*words, "--caller", caller, "1"]) == 0
    warnings = json.loads((folder / "summary.json").read_text())["warnings"]
    assert any("nearly the same length" in each for each in warnings) == warned


FILES = {"mapping": "mapping.json", "variants": "variants.txt", "output": "summary.json"}
