"""Incomplete BAM files are refused."""

import json
from pathlib import Path

import pysam
import pytest

from wesemu.genomics.qc import NOT_WHOLE, flagstat_text, main

READS = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sorted BAM of 40 reads with its reports, as the pipeline leaves them."""
    header = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "a", "LN": 100}]}
    with pysam.AlignmentFile(str(tmp_path / "x.bam"), "wb", header=header) as bam:
        for number in range(READS):
            read = pysam.AlignedSegment(bam.header)
            read.query_name, read.query_sequence, read.cigarstring = f"r{number}", "ACGT", "4M"
            read.reference_id, read.reference_start, read.flag = 0, number, 0
            bam.write(read)
    (tmp_path / "ref.fa.fai").write_text("a\t100\t3\t100\t101\n")
    counts = {"total_reads": READS, "total_bases": 4 * READS}
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    (tmp_path / "stats.txt").write_text(pysam.stats(str(tmp_path / "x.bam")))
    flagstat(tmp_path)
    pysam.index(str(tmp_path / "x.bam"))
    return tmp_path


def flagstat(folder: Path) -> None:
    report = pysam.flagstat("-O", "json", str(folder / "x.bam"))
    (folder / "flagstat.json").write_text(report)


def run(folder: Path) -> int:
    return main(
        [
            "--bam",
            str(folder / "x.bam"),
            "--reference",
            str(folder / "ref.fa"),
            "--counts",
            str(folder / "counts.json"),
            "--flagstat",
            str(folder / "flagstat.json"),
            *("--flagstat-json", str(folder / "kept.json")),
            *("--flagstat-text", str(folder / "flagstat.txt")),
            *("--stats", str(folder / "stats.txt")),
            *("--index", str(folder / "x.bam.bai"), "--idxstats", str(folder / "idxstats.txt")),
            *("--summary", str(folder / "summary.json")),
            *("--sample", "s", "--tool", "samtools", "1.24"),
        ]
    )


def test_a_whole_bam_passes_and_gets_its_text_report(folder):
    assert run(folder) == 0
    assert (folder / "flagstat.txt").read_text() == pysam.flagstat(str(folder / "x.bam"))
    told = json.loads((folder / "flagstat.json").read_text())
    assert json.loads((folder / "kept.json").read_text()) == told
    assert (folder / "idxstats.txt").read_text() == pysam.idxstats(str(folder / "x.bam"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tools"] == {"samtools": "1.24"}
    assert summary["alignment"]["mapped"] == READS


def test_the_text_report_has_no_percentage_of_nothing(folder):
    report = json.loads((folder / "flagstat.json").read_text())
    assert "40 + 0 mapped (100.00% : N/A)\n" in flagstat_text(report)


def test_a_flagstat_that_failed_is_noticed(folder, capsys):
    (folder / "flagstat.json").write_text("")
    assert run(folder) == NOT_WHOLE
    assert "flagstat wrote no figures" in capsys.readouterr().err


def test_stats_that_failed_are_noticed(folder, capsys):
    (folder / "stats.txt").write_text("")
    assert run(folder) == NOT_WHOLE
    assert "stats failed" in capsys.readouterr().err


def test_missing_reads_are_noticed(folder, capsys):
    counts = {"total_reads": READS + 2, "total_bases": 0}
    (folder / "counts.json").write_text(json.dumps(counts))
    assert run(folder) == NOT_WHOLE
    assert "40 primary records for 42 reads" in capsys.readouterr().err


def test_a_missing_end_is_noticed(folder, capsys):
    bam = folder / "x.bam"
    bam.write_bytes(bam.read_bytes()[:-28])
    assert run(folder) == NOT_WHOLE
    assert "no end" in capsys.readouterr().err


def test_other_contigs_are_noticed(folder, capsys):
    (folder / "ref.fa.fai").write_text("a\t99\t3\t100\t101\n")
    assert run(folder) == NOT_WHOLE
    assert "other contigs" in capsys.readouterr().err


def test_another_order_is_noticed(folder, capsys):
    pysam.sort("-n", "-o", str(folder / "by_name.bam"), str(folder / "x.bam"))
    (folder / "by_name.bam").rename(folder / "x.bam")
    assert run(folder) == NOT_WHOLE
    assert "not sorted" in capsys.readouterr().err
