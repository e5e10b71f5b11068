"""FASTA files: which problems are repaired, and which are refused with their position."""

import gzip
from pathlib import Path

import pysam
import pytest

from wesemu.errors import InputError
from wesemu.genomics.fasta import FastaFacts, copy, examine

PLAIN = b">c1 first\nACGT\nACGT\nAC\n>c2\nNNRYacgtn\n"
REWRITTEN = b">c1 first\nACGTACGTAC\n>c2\nNNRYacgtn\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ref.fa"


def normalised(path: Path) -> tuple[FastaFacts, bytes]:
    facts = examine(path)
    target = path.with_name("copy.fa")
    copy(path, target, facts)
    return facts, target.read_bytes()


def refusal(path: Path, contents: bytes) -> InputError:
    path.write_bytes(contents)
    with pytest.raises(InputError) as caught:
        examine(path)
    assert caught.value.file == str(path)
    assert caught.value.message.startswith(str(path))
    return caught.value


def test_a_usual_fasta_stays_as_it_is(path):
    path.write_bytes(PLAIN)
    facts, text = normalised(path)
    assert text == PLAIN
    assert (facts.regular, facts.sequences, facts.longest) == (True, 2, 10)


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param(PLAIN.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(PLAIN.replace(b"\n", b"\r"), id="CR"),
        pytest.param(PLAIN.replace(b"\n", b"\r\n", 2), id="mixed line ends"),
        pytest.param(b"\xef\xbb\xbf" + PLAIN, id="byte order mark"),
        pytest.param(b"\n \n" + PLAIN, id="blank lines first"),
        pytest.param(PLAIN.replace(b"\n>", b"\n\n>"), id="blank line between"),
        pytest.param(PLAIN.replace(b"ACGT\n", b"ACGT\n\n", 1), id="blank line inside"),
        pytest.param(PLAIN + b"\n\n", id="blank lines last"),
        pytest.param(PLAIN.replace(b"ACGT\n", b"ACGT \n", 1), id="blank after a line"),
        pytest.param(PLAIN.replace(b"ACGT\n", b"AC\tGT\n", 1), id="tab inside a line"),
        pytest.param(PLAIN.replace(b"ACGT\nACGT\n", b"AC\nGTACGT\n"), id="a longer second line"),
        pytest.param(PLAIN.replace(b"ACGT\nACGT\n", b"ACG\nTA\nCGT\n"), id="unequal lines"),
    ],
)
def test_unusual_forms_are_rewritten(path, contents):
    path.write_bytes(PLAIN)
    usual = examine(path)
    path.write_bytes(contents)
    facts, text = normalised(path)
    assert text == REWRITTEN
    assert (facts.sha256, facts.regular) == (usual.sha256, False)


def test_a_last_newline_is_added(path):
    path.write_bytes(PLAIN[:-1])
    assert normalised(path)[1] == PLAIN


@pytest.mark.parametrize("size", range(1, 40))
def test_blocks_may_end_anywhere(path, size, monkeypatch):
    monkeypatch.setattr("wesemu.genomics.fasta._BLOCK", size)
    path.write_bytes(PLAIN)
    usual = examine(path)
    assert usual.regular
    path.write_bytes(PLAIN.replace(b"\n", b"\r\n"))
    facts, text = normalised(path)
    assert (facts.sha256, text) == (usual.sha256, REWRITTEN)
    path.write_bytes(gzip.compress(PLAIN[:20]) + gzip.compress(PLAIN[20:]) + b"\0\0tail")
    assert normalised(path) == (usual, PLAIN)


def test_line_lengths_and_gzip_do_not_make_another_reference(path):
    path.write_bytes(PLAIN)
    first = examine(path)
    path.write_bytes(gzip.compress(PLAIN.replace(b"ACGT\nACGT\nAC\n", b"ACGTACGTAC\n")))
    assert examine(path) == first
    path.write_bytes(PLAIN.replace(b"acgtn", b"ACGTN"))
    assert examine(path).sha256 != first.sha256


@pytest.mark.parametrize(
    ("tail", "reads"),
    [
        pytest.param(b"RAZF index \x01\x02", True, id="another index"),
        pytest.param(b"\0" * 1000, True, id="padding"),
        pytest.param(b"\0\0\0junk", True, id="padding and junk"),
        pytest.param(gzip.compress(b"ACGT\n"), True, id="a second member"),
        pytest.param(b"\x1f\x8a" + gzip.compress(b"ACGT\n")[2:], False, id="a damaged member"),
        pytest.param(gzip.compress(b"ACGT\n")[:-3], False, id="a cut member"),
    ],
)
def test_bytes_after_gzip_data(path, tail, reads):
    path.write_bytes(gzip.compress(PLAIN) + tail)
    if reads:
        assert normalised(path)[1].startswith(PLAIN)
        return
    with pytest.raises(InputError, match="cannot be read after the sequence 'c2'"):
        examine(path)


def test_bgzip_data_must_have_its_end(path, tmp_path):
    plain = tmp_path / "plain.fa"
    plain.write_bytes(PLAIN)
    pysam.tabix_compress(str(plain), str(path))
    assert normalised(path)[1] == PLAIN
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match="no end mark"):
        examine(path)


def test_data_that_expands_much_is_read_in_blocks(path, monkeypatch):
    monkeypatch.setattr("wesemu.genomics.fasta._BLOCK", 1000)
    path.write_bytes(gzip.compress(b">a\n" + b"A" * 300_000 + b"\n"))
    assert examine(path).longest == 300_000


@pytest.mark.parametrize(
    ("letter", "hint"),
    [
        ("-", "an alignment"),
        ("*", "protein"),
        (".", "Correct"),
        ("U", "RNA"),
        ("u", "RNA"),
        ("X", "N for masked"),
        ("E", "protein"),
        ("7", "Correct"),
        (">", "Correct"),
        ("\x00", "Correct"),
        ("\xe9", "Correct"),
    ],
)
def test_other_letters_are_refused_with_their_place(path, letter, hint):
    text = f">c1\nACGT\nACGT\n>c2 x\nACGT\nAC{letter}T\n".encode("latin-1")
    error = refusal(path, text)
    assert "'c2' (number 2)" in error.message
    assert "position 7 (line 6)" in error.message
    assert hint in error.message
    assert error.record == 2


def test_every_iupac_letter_is_kept(path):
    text = b">c1\nACGTRYSWKMBDHVNacgtryswkmbdhvn\n"
    path.write_bytes(text)
    assert normalised(path)[1] == text


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"leading text\n>a\nACGT\n", "Line 1 should begin with '>' and is 'leading text'"),
        (b"\n\n;old\n>a\nACGT\n", "Line 3 should begin"),
        (b">a\n", r"'a' \(number 1\) is empty"),
        (b">a\n\n>b\nACGT\n", r"'a' \(number 1\) is empty"),
        (b">a\nACGT\n>b\n", r"'b' \(number 2\) is empty"),
        (b">a\nACGT\n> b\nACGT\n", "line 3: sequence number 2 has no name"),
        (b">\nACGT\n", "has no name"),
        (b">a\nACGT\n>b\nA\n>a\nACGT\n", r"'a' \(numbers 1 and 3\)"),
        (b">a,b\nACGT\n", "not allowed in SAM"),
        (b">#1\nACGT\n", "no .*# at the start"),
        (b">\xc3\xa9\nACGT\n", "not allowed in SAM"),
        (b"BAM\x01", "a BAM file"),
        (b"\xff\xfe>\x00a\x00", "binary data"),
        pytest.param(gzip.compress(b">a\nACGT\n" * 999)[:-9], "cannot be read", id="cut gzip"),
        pytest.param(
            gzip.compress(gzip.compress(b">a\nACGT\n")), "gzip data inside gzip", id="gzip twice"
        ),
    ],
)
def test_what_is_refused(path, contents, words):
    assert refusal(path, contents).message
    with pytest.raises(InputError, match=words):
        examine(path)


@pytest.mark.parametrize(
    "name", ["HLA:HLA00001", "HLA-A*01:01:01:01", "gi|1|ref|NC_1.1|", "chr1:1-9", "a=b;c"]
)
def test_odd_names_are_kept(path, name):
    path.write_bytes(f">{name} with words\nACGT\n".encode())
    assert normalised(path)[1].startswith(f">{name} with words\n".encode())


def test_a_sequence_longer_than_bam_can_hold_is_refused(path, monkeypatch):
    monkeypatch.setattr("wesemu.genomics.fasta.LONGEST_SEQUENCE", 7)
    assert "'a' (number 1) is longer than the 7 bases" in refusal(path, b">a\nACGTACGT\n").message
