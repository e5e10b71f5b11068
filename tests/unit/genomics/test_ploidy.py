"""Ploidy: numbers that a caller supports, and files in the format of bcftools."""

from pathlib import Path

import pytest

from wesemu.errors import InputError, InvalidRequest
from wesemu.genomics.ploidy import (
    PloidyFile,
    can_call,
    check_ploidy,
    for_bcftools,
    for_freebayes,
    parse_ploidy,
)

CONTIGS = {"1": 1000, "X": 500, "Y": 300, "MT": 100}
FILE = """\
X 1 60 M 1
X\t201\t500\tM\t1
Y 1 300 M 1
Y 1 300 F 0
MT 1 100 M 1
MT 1 100 F 1
chrX 1 60 M 1
*  * *     M 2
*  * *     F 2
"""


def file(tmp_path: Path, text: str = FILE) -> PloidyFile:
    (tmp_path / "ploidy.txt").write_bytes(text.encode())
    return PloidyFile(tmp_path / "ploidy.txt")


@pytest.mark.parametrize(("text", "value"), [(1, 1), ("1", 1), (" 2 ", 2), ("x.txt", "x.txt")])
def test_a_number_may_be_text(text, value):
    assert parse_ploidy(text) == value


@pytest.mark.parametrize("value", [0, -1, "0", "101", "1.5", "+2"])
def test_other_numbers_are_refused(value):
    with pytest.raises(InvalidRequest, match="whole number from 1 to 100"):
        parse_ploidy(value)


def test_who_can_call_what():
    callers = ("bcftools", "freebayes", "gatk", "haplotypecaller", "deepvariant")
    able = {ploidy: [each for each in callers if can_call(each, ploidy)] for ploidy in (1, 2, 3)}
    assert able[1] == ["bcftools", "freebayes", "gatk", "haplotypecaller"]
    assert able[2] == list(callers)
    assert able[3] == ["freebayes", "gatk"]
    assert [each for each in callers if can_call(each, "file")] == ["bcftools", "freebayes"]
    with pytest.raises(InvalidRequest, match="bcftools cannot call with ploidy 3"):
        check_ploidy("bcftools", 3, None)
    with pytest.raises(InvalidRequest, match="gatk cannot call with a ploidy by region"):
        check_ploidy("gatk", "file", None)
    with pytest.raises(InvalidRequest, match="chooses lines of a ploidy file"):
        check_ploidy("bcftools", 1, "M")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_lines_of_a_sex_are_taken(tmp_path, ending):
    """Other assemblies' names of a contig that is named rightly as well do not count."""
    male = file(tmp_path, FILE.replace("\n", ending)).of("M", CONTIGS, "bcftools")
    assert male.text == "2,X:1-60=1,X:201-500=1,Y:1-300=1,MT:1-100=1"
    female = file(tmp_path).of("F", CONTIGS, "freebayes")
    assert female.text == "2,Y:1-300=0,MT:1-100=1"
    assert for_bcftools(female) == "Y\t1\t300\tM\t0\nMT\t1\t100\tM\t1\n*\t*\t*\tM\t2\n"
    assert for_freebayes(female, "s") == "Y\t0\t300\ts\t0\nMT\t0\t100\ts\t1\n"


def test_one_sex_needs_no_name_and_regions_end_with_their_contig(tmp_path):
    ploidy = file(tmp_path, "# mine\nX 100 999999 any 1\n").of(None, CONTIGS, "bcftools")
    assert ploidy.text == "2,X:100-500=1"
    assert file(tmp_path, "* * * any 1\n").of(None, CONTIGS, "bcftools").text == "1"


def test_a_file_that_looks_like_one_of_another_assembly_is_warned_of(tmp_path):
    """GRCh37's Y is 4 % longer than GRCh38's; 999999 means the end of the contig."""
    ploidy = file(tmp_path, "X 9 999999 M 1\nY 1 312 M 1\nMT 1 100 M 1\n")
    (warning,) = ploidy.of("M", CONTIGS, "bcftools").warnings
    assert warning.startswith("The ploidy file has Y:1-312, and the contig has 300 bases: is the")
    assert file(tmp_path).of("M", CONTIGS, "bcftools").warnings == ()


@pytest.mark.parametrize(
    ("text", "sex", "words"),
    [
        ("", None, "it has no lines"),
        ("X 1 60 M\n", None, "line 1: 'X 1 60 M' is not CHROM FROM TO SEX PLOIDY"),
        ("X 1 60 M one\n", None, "is not CHROM FROM TO SEX PLOIDY"),
        ("X 0 60 M 1\n", None, "not positions, counted from 1"),
        ("X 60 1 M 1\n", None, "before its start"),
        ("X 600 700 M 1\n", None, "begins after the contig, which has 500 bases"),
        (FILE, None, "it has lines for M and F"),
        (FILE, "male", "no line for the sex 'male', only for M and F"),
        ("chrX 1 60 M 1\n", None, "no contig 'chrX'.* The reference names it 'X'"),
        ("Z 1 60 M 1\n", None, "no contig 'Z'"),
        ("X 1 60 M 1\nX 60 90 M 2\n", None, "line 2: X:1-60 and X:60-90 overlap"),
        ("X 1 60 M 3\n", None, "line 1: bcftools cannot call with ploidy 3"),
        ("* * * M 0\n", None, "so nothing would be called"),
    ],
)
def test_files_that_cannot_be_are_refused(tmp_path, text, sex, words):
    with pytest.raises(InputError, match=words):
        file(tmp_path, text).of(sex, CONTIGS, "bcftools")
