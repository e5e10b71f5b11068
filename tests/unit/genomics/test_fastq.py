"""FASTQ pairs: counts, and one error with file and record for every fault."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from wesemu.errors import InputError
from wesemu.genomics import fastq
from wesemu.genomics.fastq import Batch, PairedReader
from wesemu.genomics.fastq_fast_path import is_second_mate
from wesemu.genomics.fastq_file import FastqFile

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
    assert batches[0].names[:2] == [b"r0", b"r1"]
    assert batches[0].fastq().startswith(b"@r0\nCGTACGTACA\n+\n#,:FI#,:FI\n@r0\nGTACGTACAC\n")


def test_batches_are_cut_after_the_pair_that_reaches_the_bases(pair):
    _, batches = read(pair(*mates()), batch_bases=50)
    assert [len(batch.lengths) for batch in batches[:2]] == [6, 6]
    assert sum(len(batch.lengths) for batch in batches) == 2 * READS


def test_several_gzip_members_windows_lines_and_a_missing_newline_are_accepted(pair):
    one, two = mates()
    members = gzip.compress(one[: len(one) // 2]) + gzip.compress(one[len(one) // 2 :])
    reader, _ = read(pair(members, two.replace(b"\n", b"\r\n")[:-2]))
    assert reader.reads == 2 * READS


def test_slashed_names_and_swapped_mates_are_accepted(pair):
    one, _ = mates("r{}/1")
    _, two = mates("r{}/2")
    _, batches = read(pair(two, one))
    assert batches[0].names[:2] == [b"r0", b"r1"]


def test_an_empty_read_is_accepted(pair):
    one, two = mates()
    reader, batches = read(pair(one + b"@last\n\n+\n\n", two + b"@last\nA\n+\nI\n"))
    assert (reader.reads, reader.bases) == (2 * READS + 2, 20 * READS + 1)
    assert batches[0].fastq().endswith(b"@last\n\n+\n\n@last\nA\n+\nI\n")


def test_an_empty_read_is_refused_for_a_mapper_that_cannot_read_it(pair):
    """The first one: minimap2 aborts there."""
    one, two = mates()
    paths = pair(one + b"@a\nA\n+\nI\n@b\n\n+\n\n", two + b"@a\n\n+\n\n@b\nA\n+\nI\n")
    error = fault(paths, empty=False)
    assert (error.file, error.record) == (str(paths[1]), READS + 1)
    assert "(a): the read has no bases, which this mapper cannot read." in error.message
    assert read(pair(*mates()), empty=False)[0].reads == 2 * READS


def test_cut_gzip_data_is_reported(pair):
    one, two = mates()
    error = fault(pair(one, gzip.compress(two)[:-40]))
    assert error.file.endswith("a_2.fq.gz")
    assert "the gzip data ends too early after record " in error.message
    assert error.message.endswith("cut while it was copied: fetch it again.")


@pytest.mark.parametrize("cut", [4, 8])
def test_a_lost_gzip_trailer_is_reported(pair, cut):
    one, two = mates()
    assert "ends too early" in fault(pair(gzip.compress(one)[:-cut], two)).message


@pytest.mark.parametrize("place", range(20, 380, 24))
def test_a_flipped_bit_is_reported(pair, place):
    one, two = mates()
    data = bytearray(gzip.compress(one, mtime=0))
    data[place] ^= 4
    error = fault(pair(bytes(data), two))
    assert error.file.endswith("a_1.fq.gz")
    assert "gzip data" in error.message


def test_a_missing_mate_is_reported_with_both_names_and_the_record(pair):
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
def test_unequal_numbers_are_reported(pair, short):
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
        (lambda data: data.replace(b"@r7 ", b"\n@r7 ", 1), 8, "blank line"),
        (lambda data: data.replace(b"+\n", b"-\n", 1), 1, "'+'"),
        (lambda data: data.replace(b":FI\n", b":F\n", 1), 1, "length"),
        (lambda data: data.replace(b"@r7 ", b"r7 ", 1), 8, "'@'"),
        (lambda data: data.replace(b"@r7 ", b"@ ", 1), 8, "out of step"),
        (lambda data: data.replace(b"GTAC", b"G*AC", 1), 1, "'*'"),
        (lambda data: data.replace(b"#,", b"# ", 1), 1, "' '"),
        (lambda data: data.replace(b"ACAC\n", b"AC\nAC\n", 1), 1, "several lines"),
    ],
)
def test_a_bad_record_is_reported_with_its_number(pair, damage, number, words):
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
        (gzip.compress(b"@r0\nA\n+\nI\n", mtime=0), "gzip data inside"),
        (b"@RG\tID:x\n@PG\tID:y\nr1\t4\n", "a SAM file"),
        (b"@CO\ttext\n@HD\tVN:1.6\n+\n", "a SAM file"),
        (b"reads_1.fq".ljust(257, b"\0") + b"ustar\0" + bytes(249), "a tar archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"NCBI.sra\5\3\x19\x88", "an SRA archive"),
    ],
)
def test_other_contents_are_named(pair, data, words):
    one, _ = mates()
    message = fault(pair(one, gzip.compress(data))).message
    assert "not FASTQ" in message
    assert words in message


@pytest.mark.parametrize(
    "empty", [b"", gzip.compress(b"", mtime=0)], ids=["zero bytes", "no reads"]
)
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


def test_comments_may_hold_any_letters(pair):
    one, two = mates()
    for letters in ("é µ 試料".encode(), b"\xe9 in Latin-1"):
        reader, batches = read(pair(one, two.replace(b"@r9 ", b"@r9 " + letters)))
        assert reader.reads == 2 * READS
        assert batches[0].names[9] == b"r9"


def test_names_in_other_letters_than_ascii_are_refused_with_their_record(pair):
    files = [data.replace(b"@r9 ", "@é9 ".encode()) for data in mates()]
    error = fault(pair(*files))
    assert error.record == 10
    assert "ASCII" in error.message


def test_a_missing_file_is_reported(pair, tmp_path):
    one, _ = pair(*mates())
    error = fault((one, tmp_path / "nowhere.fq"))
    assert error.file.endswith("nowhere.fq")
    assert "it does not exist" in error.message


def test_the_first_error_in_the_files_is_reported(pair):
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
        (ODD + b"\n", "blank line"),
    ],
)
def test_a_bad_record_after_plain_ones_is_reported_with_its_number(pair, odd, words):
    one, two = long_mates()
    assert two.count(ODD) == 1
    error = fault(pair(one, gzip.compress(two.replace(ODD, odd))))
    assert words in error.message
    assert error.record == LAST + (2 if odd == ODD + b"\n" else 1)
    assert error.file.endswith("a_2.fq.gz")


@pytest.mark.parametrize("name", [b"*", b"@CO", b"@r"])
@pytest.mark.parametrize("place", ["first", "after plain ones"])
def test_names_that_sam_does_not_allow_are_refused(pair, name, place):
    """samtools would take such a line for one of the header."""
    reads = mates() if place == "first" else long_mates()
    head = b"@r0 " if place == "first" else ODD[: ODD.index(b" ") + 1]
    one, two = (data.replace(head, b"@" + name + b" ", 1) for data in reads)
    error = fault(pair(one, two))
    assert f"the name {name.decode()!r} is not allowed in SAM" in error.message
    assert error.record == (1 if place == "first" else LAST + 1)


def test_comments_after_plain_reads_may_hold_any_letters(pair):
    one, two = long_mates()
    odd = ODD.replace(b":N:0", ":é".encode())
    assert read(pair(one, two.replace(ODD, odd)))[0].reads == 2 * MANY


def test_unusual_but_right_records_after_plain_ones_are_read(pair):
    one, two = long_mates()
    odd = ODD.replace(b"+\n", b"+" + ODD[1 : ODD.index(b"\n")] + b"\n").replace(b"\n", b"\r\n")
    reader, _ = read(pair(one, two.replace(ODD, odd)[:-1]))
    assert (reader.reads, reader.bases) == (2 * MANY, 200 * MANY)


@pytest.mark.parametrize("short", [0, 1])
def test_unequal_numbers_of_plain_reads_are_reported(pair, short):
    files = long_mates()
    files[short] = files[short][: files[short].index(b"@r900 ")]
    error = fault(pair(*files))
    assert "has 900, " in error.message
    assert str(MANY) in error.message
    assert error.record == 901


@pytest.mark.parametrize("cut", [4, 8, 2000])
def test_gzip_data_that_is_cut_after_plain_reads_is_reported(pair, cut):
    one, two = long_mates()
    paths = pair(one, gzip.compress(two, 0)[:-cut])
    with pytest.raises(InputError, match="ends too early"):
        as_text(paths)


BLANKS = "M00123 run=12 read={}"


def with_equal_names(at: int, files: list[bytes], comment: str) -> list[bytes]:
    """The pair `at` (from 1) gets the name of the pair before it."""
    end = b"%d " % (at - 1)
    return [data.replace(b"@r" + end, b"@r%d " % (at - 2) + comment.encode()) for data in files]


class TestNamesThatAreEqualUpToTheFirstBlank:
    """fixmate would take neighbouring pairs of one name for one fragment."""

    def test_all_of_a_file(self, pair):
        error = fault(pair(*mates(BLANKS)))
        assert error.record == 2
        assert "record 2 ('M00123 run=12 read=1 1:N:0')" in error.message
        assert "record 1 ('M00123 run=12 read=0 1:N:0')" in error.message

    def test_up_to_the_first_tab(self, pair):
        assert fault(pair(*mates("M00123\trun=12\tread={}"))).record == 2

    @pytest.mark.parametrize("at", [2, 900, MANY])
    def test_a_single_pair(self, pair, at):
        error = fault(pair(*with_equal_names(at, long_mates(), "again ")))
        assert error.record == at
        assert f"record {at} ('r{at - 2} again " in error.message
        assert f"record {at - 1} ('r{at - 2} 1:N:0')" in error.message

    @pytest.mark.parametrize("ends", [("/1", "/2"), ("/1", "/1"), ("", "/2")])
    def test_with_mate_numbers(self, pair, ends):
        files = [
            data.replace(b"@r5" + end.encode(), b"@r4" + end.encode())
            for data, end in ((mates("r{}" + end)[m], end) for m, end in enumerate(ends))
        ]
        assert fault(pair(*files)).record == 6

    def test_in_an_interleaved_file(self, tmp_path):
        file = tmp_path / "both.fq"
        text = b"".join(record(n, mate) for n in range(MANY) for mate in (1, 2))
        file.write_bytes(text.replace(b"@r700 ", b"@r699 "))
        for way in (list, lambda reader: list(reader.texts())):
            with PairedReader(str(file), None) as reader, pytest.raises(InputError) as caught:
                way(reader)
            assert caught.value.record == 1401
            assert "record 1399 ('r699 1:N:0')" in caught.value.message

    def test_at_the_seam_of_two_lanes(self, pair):
        with (
            PairedReader(*map(str, pair(*mates())), before=b"r0 lane 1") as reader,
            pytest.raises(InputError, match="the last pair of the lane before") as caught,
        ):
            list(reader.texts())
        assert caught.value.record == 1

    def test_far_apart_they_are_accepted(self, pair):
        files = [data.replace(b"@r900 ", b"@r3 ") for data in long_mates()]
        assert read(pair(*files))[0].reads == 2 * MANY


@pytest.mark.parametrize(
    "ends",
    [("_1", "_2"), (":1", ":2"), ("/R1", "/R2"), (".1", ".2"), ("_R2", "_R1"), ("/f", "/r")],
)
def test_other_ways_to_number_mates_get_a_hint(pair, ends):
    one, two = (mates("r{}" + end)[number] for number, end in enumerate(ends))
    message = fault(pair(one, two)).message
    assert f"Names in {ends[0]} and {ends[1]} are not taken for mates: use /1 and /2" in message


@pytest.mark.parametrize("blank", [b"\n", b"\n\n\n\n\n\n\n", b"\r\n\r\n", b"\n" * 300_000])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_blank_lines_at_the_end_are_accepted(pair, blank, compress):
    for one, two in (mates(), long_mates()):
        reader, _ = read(pair(compress(one + blank), two))
        assert reader.reads == 2 * one.count(b"@r")


@pytest.mark.parametrize("separator", [b"+r0", b"+other than the name", b"+@r0", b"+\t "])
def test_separators_that_differ_from_the_name_are_accepted(pair, separator):
    one, two = mates()
    reader, batches = read(pair(one.replace(b"\n+\n", b"\n" + separator + b"\n"), two))
    assert (reader.reads, reader.bases) == (2 * READS, 20 * READS)
    assert batches[0].fastq(0) == read(pair(one, two))[1][0].fastq(0)


def high_phred33() -> list[bytes]:
    """Qualities from 26 to 45, as of reads that were filtered by quality."""
    return [data.replace(b"#,:FI#,:FI", b";<:NK;<:NM".replace(b":", b"=")) for data in mates()]


def test_a_quality_offset_that_was_said_wins_over_the_guess(pair):
    files = high_phred33()
    message = fault(pair(*files)).message
    assert "or to 33 if they are Phred+33" in message
    _, batches = read(pair(*files), quality_offset=33)
    assert batches[0].qualities.startswith(b";<=NK;<=NM")
    paths = pair(*(data.replace(b";<=NK;<=NM", b"BKYehBKYeh") for data in files))
    with PairedReader(str(paths[0]), str(paths[1]), quality_offset=64) as reader:
        (batch,) = reader
    assert batch.qualities.startswith(b"#,:FI")


class TestBytesAfterTheGzipData:
    """Zeros are padding; for others nobody knows whether reads are lost."""

    @pytest.mark.parametrize("padding", [b"\0", b"\0" * 200_000])
    def test_zeros_are_accepted(self, pair, padding):
        one, two = (gzip.compress(data) for data in mates())
        more = gzip.compress(record(READS, 1)), gzip.compress(record(READS, 2))
        paths = pair(one + padding + more[0], two + more[1] + padding)
        assert read(paths)[0].reads == 2 * READS + 2

    @pytest.mark.parametrize("tail", [b"x", b"\x1f", b"@r200 1\nA\n+\nI\n", b"\0\0garbage" * 9999])
    def test_others_are_refused_with_their_place(self, pair, tail):
        one, two = (gzip.compress(data) for data in mates())
        error = fault(pair(one, two + tail))
        place = len(two) + len(tail) - len(tail.lstrip(b"\0"))
        assert error.file.endswith("a_2.fq.gz")
        assert f"whole up to byte {place}, but bytes that are not gzip follow it" in error.message
        assert error.record == READS + 1


def quickly(data: bytes) -> bytes:
    return gzip.compress(data, 1)


class TestRecordsOfAnySize:
    """What expands to gigabytes is refused before it is read."""

    @pytest.fixture
    def peak(self, monkeypatch):
        """How many bytes were read."""
        seen = []
        real = FastqFile.read_block

        def read_block(file: FastqFile) -> bytes:
            seen.append(len(block := real(file)))
            return block

        monkeypatch.setattr(FastqFile, "read_block", read_block)
        return lambda: sum(seen)

    @pytest.mark.parametrize(
        "parts",
        [
            (b"@", b"r"),
            (b"@r0 ", b"x"),
            (b"@r0\n", b"A"),
            (b"@r0\nA\n+", b"r"),
            (b"@r0\nA\n+\n", b"I"),
            (b"@r0\n" + b"A" * 3_000_000 + b"\n+\n", b"I"),
        ],
        ids=["name", "comment", "sequence", "separator", "quality", "both"],
    )
    @pytest.mark.parametrize(("compress", "plain"), [(bytes, 0), (quickly, READS)])
    def test_an_endless_line(self, pair, peak, parts, compress, plain):
        one, two = (data if plain else b"" for data in mates())
        start, endless = parts
        paths = pair(compress(one + start + endless * (12 << 20)), two + b"@r0\nA\n+\nI\n")
        for way in (list, lambda reader: list(reader.texts())):
            before = peak()
            with PairedReader(*map(str, paths)) as reader, pytest.raises(InputError) as caught:
                way(reader)
            assert "more than 8 MiB" in caught.value.message
            assert caught.value.record == plain + 1
            assert peak() - before < 10 << 20

    @pytest.mark.parametrize("size", [3_000, 100_000, 1 << 20])
    def test_long_comments_are_not_kept(self, pair, size):
        """A mapper would keep those of a whole batch."""
        one, two = (
            b"".join(
                record(n, mate)
                .replace(b":N:0", b"x" * size)
                .replace(b"+\n", b"+%b\n" % (b"y" * size))
                for n in range(20)
            )
            for mate in (1, 2)
        )
        paths = pair(quickly(one), quickly(two))
        with PairedReader(*map(str, paths)) as reader:
            assert sum(len(text) for texts in reader.texts() for text in texts) < 40 * 40
        assert reader.reads == 40
        file = FastqFile(str(paths[0]))
        assert max(len(head) for head, _, _ in file.records()) < 2_000
        file.close()

    def test_a_file_of_zeros(self, pair):
        one, _ = mates()
        assert "not FASTQ" in fault(pair(one, quickly(b"\0" * (64 << 20)))).message

    def test_pairs_without_bases(self, pair, monkeypatch):
        """bwa collects reads until it has 10 million bases."""
        monkeypatch.setattr(fastq, "MOST_PAIRS", 1000)
        text = b"".join(b"@r%d\n\n+\n\n" % n for n in range(9 * READS))
        one, two = mates()
        paths = pair(one + text, two + text)
        for way in (list, lambda reader: list(reader.texts())):
            with PairedReader(*map(str, paths)) as reader, pytest.raises(InputError) as caught:
                way(reader)
            assert "fewer than 5000 bases a read" in caught.value.message
            assert 1000 <= caught.value.record <= READS + MANY


@pytest.mark.parametrize(
    ("head", "second"),
    [
        (b"r7/2", True),
        (b"r7/2 x", True),
        (b"r7 2:N:0:ACGT", True),
        (b"r7/1", False),
        (b"r7 1:N:0:2", False),
        (b"r/2/1", False),
        (b"r7", False),
        (b"", False),
    ],
)
def test_a_head_line_says_which_mate_it_is(head: bytes, second: bool) -> None:
    assert is_second_mate(head) is second
