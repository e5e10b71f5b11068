"""The lanes of one sample in a folder of reads."""

from pathlib import Path

import pytest

from wesemu.errors import InvalidRequest
from wesemu.storage.buckets import is_reads, read_pairs


def _folder(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "sample"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def _names(folder: Path) -> list[tuple[str, str]]:
    return [
        (str(first.relative_to(folder)), str(second.relative_to(folder)))
        for first, second in read_pairs(folder)
    ]


def test_lanes_come_in_natural_order(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path,
        *(f"L{lane}/V300_L0{lane}_{mate}.fq.gz" for lane in (10, 2, 1) for mate in (2, 1)),
    )
    assert _names(folder) == [
        (f"L{lane}/V300_L0{lane}_1.fq.gz", f"L{lane}/V300_L0{lane}_2.fq.gz") for lane in (1, 2, 10)
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a_1.fq.gz", "a_2.fq.gz"),
        ("a_1.fq", "a_2.fq"),
        ("a.R1.fastq.gz", "a.R2.fastq.gz"),
        ("s_S1_L001_R1_001.fastq.gz", "s_S1_L001_R2_001.fastq.gz"),
        ("a_2_1.FASTQ", "a_2_2.FASTQ"),
        ("a_1.fastq.bgz", "a_2.fastq.bgz"),
        ("R1.fq", "R2.fq"),
        ("s_1.clean.fq.gz", "s_2.clean.fq.gz"),
        ("s_R1_trimmed.fastq.gz", "s_R2_trimmed.fastq.gz"),
        ("s_1_val_1.fq.gz", "s_2_val_2.fq.gz"),
        ("s_R1_001_val_1.fq.gz", "s_R2_001_val_2.fq.gz"),
        ("s_2_val_1.fq.gz", "s_2_val_2.fq.gz"),
        ("s_1P.fq.gz", "s_2P.fq.gz"),
        ("s.1.fastq", "s.2.fastq"),
        ("s_read1.fq", "s_read2.fq"),
        ("V300012_L01_read_1.fq.gz", "V300012_L01_read_2.fq.gz"),
        ("E100_L01_12_1.fq.gz", "E100_L01_12_2.fq.gz"),
        ("s_S1_L002_R1_001.fastq.gz", "s_S1_L002_R2_001.fastq.gz"),
        ("s_1_R1.fq", "s_1_R2.fq"),
        ("s_R1_2.fq", "s_R2_2.fq"),
        ("s_R1.filtered.paired.fq.gz", "s_R2.filtered.paired.fq.gz"),
        ("SRR062634_1.filt.fastq.gz", "SRR062634_2.filt.fastq.gz"),
        ("s-1.r1.fq", "s-1.r2.fq"),
    ],
)
def test_the_usual_spellings_of_mates_are_known(tmp_path: Path, first: str, second: str) -> None:
    assert _names(_folder(tmp_path, first, second)) == [(first, second)]


def test_several_pairs_may_share_a_folder(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a_1.fq", "a_2.fq", "b_1.fq", "b_2.fq")
    assert _names(folder) == [("a_1.fq", "a_2.fq"), ("b_1.fq", "b_2.fq")]


@pytest.mark.parametrize(
    "others",
    [
        ("s_S1_L001_I1_001.fastq.gz", "s_S1_L001_I2_001.fastq.gz"),
        ("Undetermined_S0_L001_R1_001.fastq.gz", "Undetermined_S0_L001_R2_001.fastq.gz"),
        ("a_1U.fq.gz", "a_2U.fq.gz"),
        ("a_1.unpaired.fq.gz", "a_2.unpaired.fq.gz"),
        ("a_R1_unpaired.fq.gz", "a_R2_unpaired.fq.gz", "a.singletons.fq.gz"),
        ("a_1.fq.md5", "a_2.fq.md5", "md5sum.txt", "a_1.fq.gz.md5", "a_fastqc.html"),
    ],
)
def test_files_without_pairs_of_the_sample_are_passed_over(
    tmp_path: Path, others: tuple[str, ...]
) -> None:
    assert _names(_folder(tmp_path, "a_1.fq", "a_2.fq", *others)) == [("a_1.fq", "a_2.fq")]
    assert [name for name in others if is_reads(f"x/{name}")] == []


def test_a_sequencer_s_folder_is_taken_apart(tmp_path: Path) -> None:
    names = [
        f"{sample}_L00{lane}_{read}_00{chunk}.fastq.gz"
        for sample in ("NA12878_S1", "Undetermined_S0")
        for lane in (1, 2)
        for read in ("R1", "R2", "I1")
        for chunk in (1, 2)
    ]
    assert _names(_folder(tmp_path, *names)) == [
        tuple(f"NA12878_S1_L00{lane}_R{mate}_00{chunk}.fastq.gz" for mate in (1, 2))
        for lane in (1, 2)
        for chunk in (1, 2)
    ]


def test_a_sample_may_have_other_numbers_on_other_sheets(tmp_path: Path) -> None:
    names = [f"{run}/a_S{n}_R{mate}_001.fq" for run, n in (("x", 1), ("y", 7)) for mate in (1, 2)]
    assert len(_names(_folder(tmp_path, *names))) == 2


def test_other_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path, "a_1.fq", "a_2.fq", "md5.txt", "report.html", "._a_1.fq", ".tmp/b_1.fq"
    )
    assert _names(folder) == [("a_1.fq", "a_2.fq")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("L1/a_1.fq.gz",), r"'L1/a_1.fq.gz' in 'sample' has no mate; add the file with 2"),
        (("L1/a_2.fq.gz", "L2/a_1.fq.gz"), r"'L1/a_2.fq.gz' in 'sample' has no mate"),
        (("a_1.fq.gz", "a_2.fq"), r"'a_1.fq.gz' in 'sample' has no mate"),
        (("all.fq.gz",), r"'all.fq.gz' in 'sample' does not say which mate it is"),
        (("readme.txt",), r"the folder 'sample' holds no pairs of FASTQ files"),
        (("Undetermined_R1.fq", "Undetermined_R2.fq"), r"holds no pairs of FASTQ files"),
        (
            ("single-cell_R1.fq", "single-cell_R2.fq"),
            r"'single-cell_R1.fq' is ignored, .* 'single'",
        ),
        (("sample_R1.fq", "sample_2_R1.fq"), r"'sample_2_R1.fq' in 'sample' has no mate"),
        (("a_1_1.fq", "a_2_1.fq"), r"'a_1_1.fq' in 'sample' has no mate"),
        (("a_R1.fq", "a_R2.fq", "a_R3.fq"), r"'a_R3.fq' in 'sample' is a third read"),
        (("a_1.fq.bz2", "a_2.fq.bz2"), r"'a_1.fq.bz2' in 'sample' is neither plain nor gzip"),
        (
            ("a_1.fq", "a_2.fq", "b_1.fastq.ora", "b_2.fastq.ora"),
            r"'b_1.fastq.ora' in 'sample' is neither plain nor gzip",
        ),
        (
            ("a_1.fq.gz", "a_2.fq.gz", "a_2.fq.gz.aria2"),
            r"'a_2.fq.gz.aria2' in 'sample' is left of a download or copy that has not ended",
        ),
        (
            ("s_1.fq.gz", "s_2.fq.gz", "s_1.clean.fq.gz", "s_2.clean.fq.gz"),
            r"'s_1.clean.fq.gz' and 's_1.fq.gz' in 'sample' seem to be the same reads",
        ),
        (
            tuple(
                f"{sample}_L001_R{mate}_001.fq" for sample in ("a_S1", "b_S2") for mate in (1, 2)
            ),
            r"'a_S1_L001_R1_001.fq' and 'b_S2_L001_R1_001.fq' in 'sample' are of the samples 'a' "
            r"and 'b'",
        ),
        (("s_1.fq", "s_2.fq", "s_1.fq.gz", "s_2.fq.gz"), r"seem to be the same reads"),
        (
            ("raw/s_1.fq", "raw/s_2.fq", "clean/s_1.fq", "clean/s_2.fq"),
            r"'clean/s_1.fq' and 'raw/s_1.fq' in 'sample' seem to be the same reads",
        ),
        (("s_1.fq", "s_2.fq", "s_1P.fq", "s_2P.fq"), r"seem to be the same reads"),
        (("s_1.fq", "s_2.fq", "s_1_val_1.fq", "s_2_val_2.fq"), r"seem to be the same reads"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_pairs(_folder(tmp_path, *names), field="reads.0.first")
    assert caught.value.field == "reads.0.first"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a_1.fq")
    (tmp_path / "elsewhere.fq").write_bytes(b"")
    (folder / "a_2.fq").symlink_to(tmp_path / "elsewhere.fq")
    with pytest.raises(InvalidRequest, match=r"'a_2.fq' in 'sample' is a link that leaves"):
        read_pairs(folder)
