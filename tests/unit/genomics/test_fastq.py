"""Every fault that a FASTQ pair can show ends in one error that says which file and record."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from wesemu.errors import InputError
from wesemu.genomics.fastq import Batch, PairedReader

Pair = tuple[Path, Path]
READS = 200


def record(number: int, mate: int, *, bases: str = "ACGTACGTAC", name: str = "r{}") -> bytes:
    sequence = bases[mate:] + bases[:mate]
    quality = "#,:FI" * (len(sequence) // 5)
    return f"@{name.format(number)} {mate}:N:0\n{sequence}\n+\n{quality}\n".encode()


def mates(name: str = "r{}") -> tuple[bytes, bytes]:
    one, two = (b"".join(record(n, mate, name=name) for n in range(READS)) for mate in (1, 2))
    return one, two


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[bytes, bytes], Pair]:
    def write(one: bytes, two: bytes) -> Pair:
        paths = tmp_path / "a_1.fq.gz", tmp_path / "a_2.fq.gz"
        for path, data in zip(paths, (one, two), strict=True):
            path.write_bytes(data)
        return paths

    return write


def read(paths: Pair, **options: int) -> tuple[PairedReader, list[Batch]]:
    """By iteration; as text it must be the same."""
    with PairedReader(str(paths[0]), str(paths[1]), **options) as reader:
        batches = list(reader)
    texts = as_text(paths, **options)
    assert (texts.reads, texts.bases) == (reader.reads, reader.bases)
    return reader, batches


def as_text(paths: Pair, **options: int) -> PairedReader:
    with PairedReader(str(paths[0]), str(paths[1]), **options) as reader:
        for one, two in reader.texts():
            assert one.count(b"\n") == two.count(b"\n")
    return reader


def fault(paths: Pair, **options: int) -> InputError:
    with pytest.raises(InputError) as caught:
        read(paths, **options)
    with pytest.raises(InputError) as of_text:
        as_text(paths, **options)
    error, other = caught.value, of_text.value
    assert (other.message, other.file, other.record) == (error.message, error.file, error.record)
    return error


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reads_and_bases_of_both_mates_are_counted(pair, compress):
    one, two = mates()
    reader, batches = read(pair(compress(one), compress(two)))
    assert (reader.reads, reader.bases) == (2 * READS, 20 * READS)
    assert batches[0].names[:2] == ["r0", "r1"]
    assert batches[0].fastq().startswith(b"@r0\nCGTACGTACA\n+\n#,:FI#,:FI\n@r0\nGTACGTACAC\n")


def test_batches_are_cut_after_the_pair_that_reaches_the_bases(pair):
    _, batches = read(pair(*mates()), batch_bases=50)
    assert [len(batch.reads) for batch in batches[:2]] == [6, 6]
    assert sum(len(batch.reads) for batch in batches) == 2 * READS


def test_several_gzip_members_windows_lines_and_a_missing_newline_are_accepted(pair):
    one, two = mates()
    members = gzip.compress(one[: len(one) // 2]) + gzip.compress(one[len(one) // 2 :])
    reader, _ = read(pair(members, two.replace(b"\n", b"\r\n")[:-2]))
    assert reader.reads == 2 * READS


def test_slashed_names_and_swapped_mates_are_accepted(pair):
    one, _ = mates("r{}/1")
    _, two = mates("r{}/2")
    _, batches = read(pair(two, one))
    assert batches[0].names[:2] == ["r0", "r1"]


def test_an_empty_read_is_accepted(pair):
    one, two = mates()
    reader, batches = read(pair(one + b"@last\n\n+\n\n", two + b"@last\nA\n+\nI\n"))
    assert (reader.reads, reader.bases) == (2 * READS + 2, 20 * READS + 1)
    assert batches[0].fastq().endswith(b"@last\n\n+\n\n@last\nA\n+\nI\n")


def test_cut_gzip_data_is_told(pair):
    one, two = mates()
    error = fault(pair(one, gzip.compress(two)[:-40]))
    assert error.file.endswith("a_2.fq.gz")
    assert "ends too early" in error.message


@pytest.mark.parametrize("cut", [4, 8])
def test_a_lost_gzip_trailer_is_told(pair, cut):
    one, two = mates()
    assert "ends too early" in fault(pair(gzip.compress(one)[:-cut], two)).message


@pytest.mark.parametrize("place", range(20, 380, 24))
def test_a_flipped_bit_is_told(pair, place):
    one, two = mates()
    data = bytearray(gzip.compress(one, mtime=0))
    data[place] ^= 4
    error = fault(pair(bytes(data), two))
    assert error.file.endswith("a_1.fq.gz")
    assert "gzip data" in error.message


def test_a_missing_mate_is_told_with_both_names_and_the_record(pair):
    one, two = mates()
    error = fault(pair(one, two.replace(record(50, 2), b"")))
    assert error.record == 51
    assert "'r50'" in error.message
    assert "'r51'" in error.message


def test_names_that_differ_in_their_last_digit_are_no_mates(pair):
    one, two = mates("SRR1.{}")
    error = fault(pair(one, two.removeprefix(record(0, 2, name="SRR1.{}"))))
    assert error.record == 1


def test_dotted_mate_numbers_are_refused_with_advice(pair):
    one, _ = mates("r{}.1")
    _, two = mates("r{}.2")
    assert "use /1 and /2" in fault(pair(one, two)).message


@pytest.mark.parametrize("short", [0, 1])
def test_unequal_numbers_are_told(pair, short):
    files = list(mates())
    files[short] = (
        files[short].removesuffix(record(199, short + 1)).removesuffix(record(198, short + 1))
    )
    error = fault(pair(*files))
    assert error.file.endswith(f"a_{short + 1}.fq.gz")
    assert "198" in error.message
    assert "200" in error.message
    assert error.record == 199


@pytest.mark.parametrize(
    ("damage", "number", "words"),
    [
        (lambda data: data[:-3], 200, "length"),
        (lambda data: data[:-15], 200, "cut"),
        (lambda data: data + b"\n\n", 201, "blank lines"),
        (lambda data: data.replace(b"+\n", b"-\n", 1), 1, "'+'"),
        (lambda data: data.replace(b":FI\n", b":F\n", 1), 1, "length"),
        (lambda data: data.replace(b"@r7 ", b"r7 ", 1), 8, "'@'"),
        (lambda data: data.replace(b"@r7 ", b"@ ", 1), 8, "out of step"),
        (lambda data: data.replace(b"GTAC", b"G*AC", 1), 1, "'*'"),
        (lambda data: data.replace(b"#,", b"# ", 1), 1, "' '"),
        (lambda data: data.replace(b"ACAC\n", b"AC\nAC\n", 1), 1, "several lines"),
    ],
)
def test_a_bad_record_is_told_with_its_number(pair, damage, number, words):
    one, two = mates()
    error = fault(pair(one, damage(two)))
    assert error.record == number
    assert words in error.message
    assert error.message.endswith(".")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b">chr1\nACGT\n", "FASTA"),
        (b"<!DOCTYPE html>\n<p>Not found", "HTML"),
        (bytes(range(1, 200)), "binary"),
        (b"BAM\1" + bytes(50), "BAM"),
        (b"@HD\tVN:1.6\n", "SAM"),
        (b"\xef\xbb\xbf@r0\nA\n+\nI\n", "byte order mark"),
        (b"PK\3\4", "ZIP"),
        (gzip.compress(b"@r0\nA\n+\nI\n"), "gzip data inside"),
    ],
)
def test_other_contents_are_named(pair, data, words):
    one, _ = mates()
    message = fault(pair(one, gzip.compress(data))).message
    assert "not FASTQ" in message
    assert words in message


@pytest.mark.parametrize("empty", [b"", gzip.compress(b"")], ids=["zero bytes", "no reads"])
def test_no_reads_are_refused(pair, empty):
    assert "no reads" in fault(pair(empty, empty)).message


def test_the_same_file_twice_is_refused(pair):
    one, two = mates()
    path, other = pair(one, two)
    assert "same file" in fault((path, path)).message
    other.unlink()
    other.symlink_to(path)
    assert "same file" in fault((path, other)).message


def test_a_copy_of_the_same_file_is_refused(pair):
    one, _ = mates()
    assert "same reads" in fault(pair(one, one)).message


def test_phred64_is_refused_and_high_phred33_is_not(pair):
    one, two = mates()
    old = bytes.maketrans(b"#,:FI", b"BKYeh")
    files = [
        b"".join(
            line.translate(old) if number % 4 == 3 else line
            for number, line in enumerate(data.splitlines(keepends=True))
        )
        for data in (one, two)
    ]
    assert "Phred+64" in fault(pair(*files)).message
    high = bytes.maketrans(b"h", b"I")
    files = [one.replace(b"#,:FI#,:FI", b"IIIIIIIIII").translate(high) for one in (one, two)]
    assert read(pair(*files))[0].reads == 2 * READS


def test_an_overlong_read_is_refused(pair):
    one, two = mates()
    long = b"@last\n" + b"A" * 1500 + b"\n+\n" + b"I" * 1500 + b"\n"
    error = fault(pair(one + long, two + long))
    assert error.record == READS + 1
    assert "1500" in error.message
    assert read(pair(one + long, two + long), longest=1500)[0].reads == 2 * READS + 2


def test_other_letters_than_ascii_are_refused(pair):
    one, two = mates()
    assert "ASCII" in fault(pair(one, two.replace(b"@r9 ", "@r9é ".encode()))).message


def test_a_missing_file_is_told(pair, tmp_path):
    one, _ = pair(*mates())
    error = fault((one, tmp_path / "nowhere.fq"))
    assert error.file.endswith("nowhere.fq")
    assert "No such file" in error.message


def test_what_comes_first_in_the_files_is_told_first(pair):
    one, two = mates()
    bad = two.replace(record(3, 2), record(3, 2).replace(b"GT", b"!!"))
    assert fault(pair(one, bad[:-3])).record == 4


def test_real_reads_are_counted(shared_data):
    folder = shared_data / "hg002_chr20_10mb"
    reader, _ = read((folder / "reads_1.fq.gz", folder / "reads_2.fq.gz"))
    assert (reader.reads, reader.bases) == (21014, 3110072)


MANY = 9 * READS
"""Pairs in more than one block of 128 KiB."""


def long_mates(ends: tuple[str, str] = ("", "")) -> list[bytes]:
    """What two machines write: names in step, comments that differ."""
    bases = "ACGTACGTAC" * 10
    return [
        b"".join(record(n, mate, bases=bases, name="r{}" + ends[mate - 1]) for n in range(MANY))
        for mate in (1, 2)
    ]


@pytest.mark.parametrize("ends", [("", ""), ("/1", "/2")])
def test_plain_reads_are_handed_on_as_they_are(pair, ends, monkeypatch):
    monkeypatch.setattr(PairedReader, "__iter__", None)  # nobody looks at single records
    files = long_mates(ends)
    with PairedReader(*map(str, pair(files[0], gzip.compress(files[1])))) as reader:
        texts = list(reader.texts())
    assert [b"".join(mate) for mate in zip(*texts, strict=True)] == files
    assert len(texts) > 2
    assert (reader.reads, reader.bases) == (2 * MANY, 200 * MANY)


def test_interleaved_plain_reads_are_handed_on_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(PairedReader, "__iter__", None)
    file = tmp_path / "both.fq"
    file.write_bytes(b"".join(record(n, mate) for n in range(MANY) for mate in (1, 2)))
    with PairedReader(str(file), None) as reader:
        assert b"".join(text for (text,) in reader.texts()) == file.read_bytes()
    assert reader.reads == 2 * MANY


LAST = MANY - 2
ODD = record(LAST, 2, bases="ACGTACGTAC" * 10)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (ODD.replace(b"GTAC", b"G*AC", 1), "'*'"),
        (ODD.replace(b"#,", b"# ", 1), "' '"),
        (ODD.replace(b"@r", b"@s", 1), "out of step"),
        (ODD.replace(b"@r", b"r", 1), "'@'"),
        (ODD.replace(b"@r", b"@r\x07", 1), "out of step"),
        (ODD.replace(b"+\n", b"-\n", 1), "'+'"),
        (ODD.replace(b":FI\n", b":F\n", 1), "length"),
        (ODD.replace(b"ACAC", b"AC\nAC", 1), "several lines"),
        (b"", "out of step"),
        (ODD + b"\n", "'@'"),
    ],
)
def test_a_bad_record_after_plain_ones_is_told_with_its_number(pair, odd, words):
    one, two = long_mates()
    assert two.count(ODD) == 1
    error = fault(pair(one, gzip.compress(two.replace(ODD, odd))))
    assert words in error.message
    assert error.record == LAST + (2 if odd == ODD + b"\n" else 1)
    assert error.file.endswith("a_2.fq.gz")


def test_other_letters_than_ascii_after_plain_reads_are_refused(pair):
    one, two = long_mates()
    with pytest.raises(InputError, match="ASCII") as caught:
        as_text(pair(one, two.replace(ODD, ODD.replace(b":N:0", ":é".encode()))))
    assert caught.value.file.endswith("a_2.fq.gz")


def test_unusual_but_right_records_after_plain_ones_are_read(pair):
    one, two = long_mates()
    odd = ODD.replace(b"+\n", b"+" + ODD[1 : ODD.index(b"\n")] + b"\n").replace(b"\n", b"\r\n")
    reader, _ = read(pair(one, two.replace(ODD, odd)[:-1]))
    assert (reader.reads, reader.bases) == (2 * MANY, 200 * MANY)


@pytest.mark.parametrize("short", [0, 1])
def test_unequal_numbers_of_plain_reads_are_told(pair, short):
    files = long_mates()
    files[short] = files[short][: files[short].index(b"@r900 ")]
    error = fault(pair(*files))
    assert "has 900, " in error.message
    assert str(MANY) in error.message
    assert error.record == 901


@pytest.mark.parametrize("cut", [4, 8, 2000])
def test_gzip_data_that_is_cut_after_plain_reads_is_told(pair, cut):
    one, two = long_mates()
    paths = pair(one, gzip.compress(two, 0)[:-cut])
    with pytest.raises(InputError, match="ends too early"):
        as_text(paths)
