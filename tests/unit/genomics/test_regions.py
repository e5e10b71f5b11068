"""BED files: repaired, or refused with the line; never an empty result."""

import gzip
from pathlib import Path

import pytest

from wesemu.errors import InputError
from wesemu.genomics.bam_index import BamIndex, ContigIndex
from wesemu.genomics.regions import Interval, bed, count_bases, normalized, read_targets
from wesemu.genomics.slices import cut, main, widened, with_reads

CONTIGS = {"c1": 6000, "c2": 4000}
RIGHT = "c1\t10\t20\nc2\t5\t9\n"


def read(tmp_path: Path, content: bytes | str, contigs: dict[str, int] = CONTIGS) -> str:
    file = tmp_path / "targets.bed"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return bed(normalized(read_targets(file), contigs, file.name))


@pytest.mark.parametrize(
    "content",
    [
        RIGHT,
        RIGHT.replace("\n", "\r\n"),
        gzip.compress(RIGHT.encode()),
        b"\xef\xbb\xbf" + RIGHT.encode(),
        'browser position c1\ntrack name="kit"\n# made by\n\n' + RIGHT + "\n",
        "c2\t5\t9\nc1\t10\t20\n",
        "c1\t10\t15\nc1\t12\t20\nc1\t11\t12\nc2\t5\t9\n",
        "c1\t10\t15\nc1\t15\t20\nc2\t5\t9\n",
        RIGHT + "c1\t100\t100\n",
        "c1 10 20\nc2  5 9",
        "c1\t10\t20\tname one\t0\t+\nc2\t5\t9\tgene\t1000\t-\n",
        RIGHT + RIGHT,
    ],
    ids=[
        *("plain", "crlf", "gzip", "byte order mark", "headers", "unsorted", "overlapping"),
        *("touching", "of 0 bases", "blanks", "more columns", "twice"),
    ],
)
def test_what_can_be_repaired_is(tmp_path, content):
    assert read(tmp_path, content) == RIGHT


@pytest.mark.parametrize(
    ("content", "words", "line"),
    [
        ("", "no intervals", None),
        ("track name=x\n#\n", "no intervals", None),
        ("c1\t5\t5\n", "of 0 bases", None),
        ("c1\t10\n", "is not a BED interval", 1),
        ("c1\t10\t20\nc1\tx\t20\n", "is not a BED interval", 2),
        ("c1\t-1\t20\n", "is not a BED interval", 1),
        ("c1\t1e3\t2000\n", "is not a BED interval", 1),
        ("c1\t1_0\t20\n", "is not a BED interval", 1),
        ("c1:10-20\n", "is not a BED interval", 1),
        ("@HD\tVN:1.6\nc1\t1\t20\t+\tx\n", "Picard interval list", 1),
        ("c1\t20\t10\n", "before its start", 1),
        ("c1\t10\t6001\n", "ends after the contig, which has 6000 bases", 1),
        (RIGHT + "3\t1\t9\n", "no contig '3'", 3),
        (RIGHT.encode("utf-16"), "not text in UTF-8", 1),
        (gzip.compress(RIGHT.encode() * 99)[:-9], "damaged", 198),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text in UTF-8", 1),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path, content, words, line):
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, content)
    assert "targets.bed" in caught.value.message
    if "damaged" not in words:
        assert caught.value.record == line


def test_names_of_another_assembly_are_reported_with_the_right_one(tmp_path):
    with pytest.raises(InputError, match="The reference names it 'chr1'"):
        read(tmp_path, "1\t1\t9\n", {"chr1": 100})
    with pytest.raises(InputError, match="The reference names it '1'"):
        read(tmp_path, "chr1\t1\t9\nchr2\t1\t9\n", {"1": 100})
    with pytest.raises(InputError, match="The reference names it 'MT'"):
        read(tmp_path, "chrM\t1\t9\n", {"MT": 100})


def test_the_step_of_the_workflow_leaves_a_sentence(tmp_path):
    (tmp_path / "ref.fa.fai").write_text("c1\t100\t4\t60\t61\n")
    (tmp_path / "t.bed").write_text("chr1\t1\t9\n")
    words = ["targets", "--reference", str(tmp_path / "ref.fa"), "--file", str(tmp_path / "t.bed")]
    words += ["--output", str(tmp_path / "o.bed"), "--error", str(tmp_path / "e.json")]
    assert main(words) == 65
    assert "no contig 'chr1'" in (tmp_path / "e.json").read_text()
    assert not (tmp_path / "o.bed").exists()


def test_slices_have_every_base_once():
    whole = [Interval("c1", 0, 10), Interval("c2", 5, 8), Interval("c3", 0, 90)]
    for slices in (1, 2, 7, 103, 200):
        pieces = [each for number in range(1, slices + 1) for each in cut(whole, number, slices)]
        bases = [(each.contig, base) for each in pieces for base in range(each.start, each.end)]
        assert bases == [(each.contig, n) for each in whole for n in range(each.start, each.end)]


@pytest.mark.parametrize(("bases", "slices"), [(9, 8), (20, 8), (1000, 103), (8, 8)])
def test_no_slice_is_empty_while_there_are_bases_for_all(bases, slices):
    """freebayes refuses an empty file."""
    whole = [Interval("c1", 0, 5), Interval("c2", 7, 2 + bases)]
    sizes = [count_bases(cut(whole, number, slices)) for number in range(1, slices + 1)]
    assert sum(sizes) == bases
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_what_a_caller_sees_of_a_slice_ends_with_the_contig():
    pieces = [Interval("c1", 50, 60), Interval("c1", 75, 80), Interval("c2", 0, 10)]
    seen = widened(pieces, 10, {"c1": 85, "c2": 300})
    assert bed(seen) == "c1\t40\t85\nc2\t0\t20\n"
    assert count_bases(seen) == 65


def test_places_without_reads_are_in_no_slice():
    """Bins contain one another; targets may lie in several bins, at their edges and beside them."""
    bins = {"c1": [(0, 160), (20, 40), (320, 340), (340, 360)], "c2": [], "c3": [(0, 20)]}
    index = BamIndex([ContigIndex(1, 0, each) for each in bins.values()], 0)
    contigs = {"c1": 350, "c2": 90, "c3": 300}
    whole = [Interval(name, 0, length) for name, length in contigs.items()]
    assert bed(with_reads(whole, index, contigs)) == "c1\t0\t160\nc1\t320\t350\nc3\t0\t20\n"
    targets = [Interval("c1", 10, 11), Interval("c1", 150, 330), Interval("c1", 345, 349)]
    targets += [Interval("c2", 0, 9), Interval("c3", 20, 30)]
    kept = with_reads(targets, index, contigs)
    assert bed(kept) == "c1\t10\t11\nc1\t150\t160\nc1\t320\t330\nc1\t345\t349\n"
