"""A folder of reads is taken apart into the lanes of one sample."""

from pathlib import Path

import pytest

from wesemu.errors import InvalidRequest
from wesemu.objects.lanes import lanes


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
        for first, second in lanes(folder)
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
        ("R1.fq", "R2.fq"),
    ],
)
def test_the_usual_spellings_of_mates_are_known(tmp_path: Path, first: str, second: str) -> None:
    assert _names(_folder(tmp_path, first, second)) == [(first, second)]


def test_several_pairs_may_share_a_folder(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a_1.fq", "a_2.fq", "b_1.fq", "b_2.fq")
    assert _names(folder) == [("a_1.fq", "a_2.fq"), ("b_1.fq", "b_2.fq")]


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
        (("readme.txt",), r"the folder 'sample' holds no FASTQ files"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        lanes(_folder(tmp_path, *names), field="reads.0.first")
    assert caught.value.field == "reads.0.first"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a_1.fq")
    (tmp_path / "elsewhere.fq").write_bytes(b"")
    (folder / "a_2.fq").symlink_to(tmp_path / "elsewhere.fq")
    with pytest.raises(InvalidRequest, match=r"'a_2.fq' in 'sample' is a link that leaves"):
        lanes(folder)
