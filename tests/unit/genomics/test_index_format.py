"""Contigs that are too long for BAI and TBI get CSI; this is known before anything runs."""

import gzip
from pathlib import Path

import pysam
import pytest
from support.long_reference import write_long_reference

from wesemu.genomics import reference_records as module
from wesemu.genomics.bam_index import BamIndex, idxstats, read_bam_index
from wesemu.genomics.reference_records import (
    LONGEST_IN_BAI,
    index_format,
    listed_index_format,
    may_need_csi,
)


@pytest.mark.parametrize(
    ("longest", "expected"), [(LONGEST_IN_BAI, "bai"), (LONGEST_IN_BAI + 1, "csi")]
)
def test_the_longest_contig_decides(tmp_path, longest, expected):
    fasta = write_long_reference(tmp_path / "long.fa", longest)
    assert listed_index_format(fasta) == index_format(fasta, tmp_path / "records") == expected


def test_a_small_file_needs_no_reading(tmp_path):
    fasta = tmp_path / "ref.fa"
    fasta.write_text("not even FASTA")
    assert index_format(fasta, tmp_path) == "bai"
    assert not may_need_csi(tmp_path / "missing.fa")


def test_a_fasta_without_an_index_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_IN_BAI", 3999)
    monkeypatch.setattr("wesemu.genomics.reference_records._TICK_NS", 0)
    fasta = tmp_path / "ref.fa.gz"
    fasta.write_bytes(gzip.compress(b">c1\n" + b"A" * 4000 + b"\n>c2\nACGT\n"))
    assert listed_index_format(fasta) is None
    assert index_format(fasta, tmp_path / "records") == "csi"
    monkeypatch.setattr("wesemu.genomics.reference_records.examine", lambda _: 1 / 0)
    assert index_format(fasta, tmp_path / "records") == "csi"


@pytest.mark.parametrize("length", [1000, LONGEST_IN_BAI + 1, (1 << 31) - 1])
def test_idxstats_of_an_index(tmp_path, length):
    path = tmp_path / "x.bam"
    contigs = [("c1", length), ("c2", 500), ("c3", 500)]
    header = pysam.AlignmentHeader.from_references(*zip(*contigs, strict=True))
    with pysam.AlignmentFile(str(path), "wb", header=header) as bam:
        for place, flag in ((10, 0), (length - 20, 0), (length - 10, 4), (None, 4)):
            record = pysam.AlignedSegment(header)
            record.query_name, record.flag = "r", flag
            record.query_sequence = "ACGTA"
            if place is not None:
                record.reference_id, record.reference_start = 0, place
                record.cigarstring = None if flag else "5M"
            bam.write(record)
    told = [(name, str(length)) for name, length in contigs]
    for option, suffix in (("-b", "bai"), ("-c", "csi")):
        if suffix == "csi" or length <= LONGEST_IN_BAI:
            pysam.index(option, str(path))
            expected = pysam.idxstats(str(path))
            assert idxstats(Path(f"{path}.{suffix}"), told) == expected


@pytest.mark.parametrize("option", ["-b", "-c"])
def test_every_record_lies_in_a_bin_and_places_far_from_records_in_none(tmp_path, option):
    """Also a record over the end of a small bin, which is in a larger one."""
    starts = (40_000, 131_060, 3_000_000)
    index = indexed(tmp_path / "x.bam", {"c1": 5_000_000, "c2": 500}, starts, option)
    bins, none = (contig.bins for contig in index.contigs)
    assert none == []
    for start in starts:
        assert any(first <= start and start + 20 <= end for first, end in bins)
    for free in (1_500_000, 2_900_000, 4_000_000):
        assert not any(first <= free < end for first, end in bins)


def indexed(bam: Path, contigs: dict[str, int], starts: tuple[int, ...], option: str) -> BamIndex:
    """Return the index of records of 20 bases on the first contig."""
    header = pysam.AlignmentHeader.from_references(list(contigs), list(contigs.values()))
    with pysam.AlignmentFile(str(bam), "wb", header=header) as file:
        for start in starts:
            record = pysam.AlignedSegment(header)
            record.query_name, record.query_sequence, record.cigarstring = "r", "A" * 20, "20M"
            record.reference_id, record.reference_start, record.flag = 0, start, 0
            file.write(record)
    pysam.index(option, str(bam))
    suffix = {"-b": "bai", "-c": "csi"}[option]
    return read_bam_index(Path(f"{bam}.{suffix}"), len(contigs))


def test_an_index_of_another_bam_is_refused(tmp_path):
    indexed(tmp_path / "x.bam", {"c1": 900}, (5,), "-b")
    with pytest.raises(ValueError, match="1 contigs, not 2"):
        read_bam_index(tmp_path / "x.bam.bai", 2)
    with pytest.raises(ValueError, match="not a BAI or CSI"):
        read_bam_index(tmp_path / "x.bam", 1)
