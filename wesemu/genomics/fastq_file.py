"""Read one FASTQ file and check it: file type by content, gzip data, records.

Other readers make other decisions: pysam's accepts FASTA and cut records; dnaio's refuses `+` lines
and blank last lines that mappers accept, and its memory is unbounded.
"""

import zlib
from collections.abc import Iterator
from io import SEEK_END, BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import Any, Protocol, cast

from wesemu.errors import InputError

# The type of a file by its first bytes.

GZIP_MAGIC = b"\x1f\x8b"

_SAM = (b"@HD\t", b"@SQ\t", b"@RG\t", b"@PG\t", b"@CO\t")

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"BAM\x01", "a BAM file"),
    (b"CRAM", "a CRAM file"),
    *((start, "a SAM file") for start in _SAM),
    (b"##fileformat=VCF", "a VCF file"),
    (b"BCF\x02", "a BCF file"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\x04\x22\x4d\x18", "lz4 data"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"NCBI.sra", "an SRA archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file"),
    (b"%PDF", "a PDF document"),
    (b"\xef\xbb\xbf", "text with a UTF-8 byte order mark"),
    (GZIP_MAGIC, "gzip data inside gzip data"),
)
HEAD_BYTES = 512
"""Bytes from the start of a file that `looks_like` needs."""

_TAR = slice(257, 262)


def looks_like(head: bytes) -> str:
    """Name the file type that begins with `head`, the first decompressed bytes of a file."""
    if head[_TAR] == b"ustar":
        return "a tar archive"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return "an HTML or XML page, perhaps an error page that was saved instead of the reads"
    if text.startswith((b"{", b"[")):
        return "JSON"
    if head.startswith(b">"):
        return "FASTA"
    if any(byte < 9 or 13 < byte < 32 or byte > 126 for byte in head):
        return "binary data"
    return "text in another format"


# gzip data, decompressed by isal where it has a wheel: three times as fast as zlib.

BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends BAM and bgzip files (SAM specification 4.1.2)."""

_BGZF_START, _BGZF_FIELD = b"\x1f\x8b\x08\x04", b"BC\x02\x00"
_BLOCK = 1 << 17


def lacks_end(path: Path) -> bool:
    """Return whether `path` is bgzip data without its last, empty block: the file may have been cut
    between two blocks. False for a pipe."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(16)
        if not head.startswith(_BGZF_START) or head[12:] != _BGZF_FIELD:
            return False
        file.seek(-min(len(BGZF_END), file.seek(0, SEEK_END)), SEEK_END)
        return file.read() != BGZF_END


class TrailingBytes(OSError):
    """Other bytes follow whole gzip members. All data before them has been read."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the bytes from {offset} on are not gzip data")
        self.offset = offset


class _Decompressor(Protocol):
    """Decompresses one gzip member, and verifies its header, checksum and length."""

    eof: bool
    unused_data: bytes
    needs_input: bool

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZlibDecompressor:
    """zlib with the interface of isal's decompressor."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        text = self._member.decompress(self._member.unconsumed_tail + data, max_length)
        # a result of full length may leave more text inside zlib
        self.needs_input = not self._member.unconsumed_tail and len(text) < max_length
        return text


GZIP_FAULTS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
"""Exceptions that damaged or cut gzip data raises."""

try:
    from isal import igzip_lib
except ImportError:
    pass
else:
    GZIP_FAULTS = (*GZIP_FAULTS, cast(type[Exception], igzip_lib.error))


def _new_member() -> _Decompressor:
    try:
        return cast(_Decompressor, igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
    except NameError:
        return cast(_Decompressor, _ZlibDecompressor())


class _GzipStream(RawIOBase):
    """Reads the members of a gzip file in turn; zero bytes after a member are padding.

    Memory is bounded, whatever size the data expands to.
    """

    def __init__(self, file: "BufferedReader[Any]", *, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self._member: _Decompressor | None = None
        self._input = b""
        self._taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises one of `GZIP_FAULTS`."""
        size = len(buffer)
        while self._member is not None or self._begin_member():
            assert self._member is not None
            if not self._input and self._member.needs_input and not self._fill():
                raise EOFError("the gzip data ends before its end mark")
            text = self._member.decompress(self._input, size)
            self._input = b""
            if self._member.eof:
                self._input = self._member.unused_data
                self._member = None
            if text:
                buffer[: len(text)] = text
                return len(text)
        return 0

    def _begin_member(self) -> bool:
        """Return whether another member follows."""
        while True:
            if self._taken > len(self._input):  # padding follows a member, never the beginning
                self._input = self._input.lstrip(b"\0")
            if len(self._input) < len(GZIP_MAGIC) and self._fill():
                continue
            if not self._input:
                return False
            if not self._input.startswith(GZIP_MAGIC):
                raise TrailingBytes(self._taken - len(self._input))
            self._member = _new_member()
            return True

    def _fill(self) -> bool:
        block = self._file.read1(_BLOCK)
        self._input += block
        self._taken += len(block)
        return bool(block)

    def close(self) -> None:
        if self._owned and not self.closed:
            self._file.close()
        super().close()


def open_gzip(file: "Path | BufferedReader[Any]") -> "BufferedReader[Any]":
    """Open a gzip file of one or many members for reading, with its checksums verified.

    A file that the caller opened stays open. Reading raises one of `GZIP_FAULTS`: `TrailingBytes`
    for other bytes after whole members.
    """
    if isinstance(file, Path):
        return BufferedReader(_GzipStream(file.open("rb"), owned=True), _BLOCK)
    return BufferedReader(_GzipStream(file, owned=False), _BLOCK)


# FASTQ.

LONGEST_RECORD = 8 << 20
"""Bytes of one record, all four lines. A longer one is refused before it fills the memory."""

Record = tuple[bytes, bytes, bytes]
"""The line after the `@` (its first KiB, tabs as blanks), the sequence, the qualities."""

_KEPT_HEAD = 1 << 10

_DRAINED_BYTES = 64 << 20
_BLANK = b"\r\n"


class Unreadable(Exception):
    """Reading stopped between two records. The caller knows how many records came before."""

    def __init__(self, file: "FastqFile", problem: str, advice: str) -> None:
        super().__init__(problem)
        self.file = file
        self.problem = problem
        self.advice = advice

    def located(self, records: int) -> InputError:
        where = f" after record {records}" if records else ""
        message = f"{self.file.name}: {self.problem}{where}. {self.advice}"
        return self.file.fault(message, records + 1)


class FastqFile:
    """Reads records. Raises `InputError` for a fault in the file, `Unreadable` if reading fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._raw: BufferedReader[Any] = BufferedReader(FileIO(name), _BLOCK)
        except OSError as error:
            from wesemu.util.text import os_reason

            raise self.fault(
                f"The reads in {name} cannot be opened: {os_reason(error)}."
            ) from error
        self._compressed = self._raw.peek(2)[:2] == GZIP_MAGIC
        self._file = self._raw
        if self._compressed:
            self._file = open_gzip(self._raw)
        self._seen = b""
        self._done = 0
        self._damage: Exception | None = None

    @property
    def damaged(self) -> bool:
        return self._damage is not None

    def fault(self, message: str, record: int | None = None) -> InputError:
        return InputError(message, file=self.name, record=record)

    def read_block(self) -> bytes:
        """Return the next bytes, up to 128 KiB; empty at the end, and where reading fails.

        After a failure `damaged` is true, and `records` raises the reason.
        """
        if self.damaged:
            return b""
        try:
            return self._file.read1(_BLOCK)
        except GZIP_FAULTS as error:
            self._damage = error
            return b""

    def put_back(self, text: bytes, records: int) -> None:
        """Let `records()` begin with `text` from `read_block`, after `records` records."""
        self._seen = text
        self._done = records

    def records(self) -> Iterator[Record]:
        text = self._seen or self.read_block()
        if not self._done:
            self._check_head(text[:HEAD_BYTES])
        ended = False
        while not ended:
            if len(text) > LONGEST_RECORD:
                raise self._endless(text)
            block = self.read_block()
            ended = not block
            text += block
            if ended and not self.damaged and text[-1:] not in (b"", b"\n"):
                text += b"\n"
            records, text, is_bad = _parse(text)
            yield from records
            self._done += len(records)
            if is_bad:
                if self._is_blank_to_the_end(text):
                    break
                raise self._malformed(text)
        if self._damage is not None:
            raise self._unreadable(self._damage) from self._damage
        if text.strip(_BLANK):
            raise self._malformed(text)

    def _is_blank_to_the_end(self, text: bytes) -> bool:
        while not text.strip(_BLANK):
            text = self.read_block()
            if not text:
                return not self.damaged
        return False

    def _check_head(self, head: bytes) -> None:
        if head and (not head.startswith(b"@") or head.startswith(_SAM)):
            raise self.fault(
                f"{self.name} is not FASTQ: it looks like {looks_like(head)}. "
                "Give FASTQ, plain or gzip."
            )

    def _malformed(self, text: bytes) -> Exception:
        """Return the error for the record at the start of `text`, or for the damage behind it."""
        self._drain()
        if self._damage is not None:
            return self._unreadable(self._damage)
        line, problem = _fault_of(text)
        record = self._done + 1
        return self.fault(
            f"{self.name}, record {record} (line {4 * self._done + line}): {problem}", record
        )

    def _endless(self, text: bytes) -> InputError:
        record = self._done + 1
        line = 4 * self._done + text.count(b"\n") + 1
        return self.fault(
            f"{self.name}, record {record} (line {line}): the record has more than "
            f"{LONGEST_RECORD >> 20} MiB. Short reads are far shorter: check what the file holds.",
            record,
        )

    def _unreadable(self, error: Exception) -> Unreadable:
        advice = "Fetch the file again."
        if isinstance(error, EOFError):
            problem = "the gzip data ends too early"
            advice = "The file was probably cut while it was copied: fetch it again."
        elif isinstance(error, TrailingBytes):
            problem = (
                f"the gzip data is whole up to byte {error.offset}, but bytes that are not gzip "
                "follow it"
            )
            advice = (
                "They may be reads that were appended uncompressed, or a damaged part: fetch the "
                f"file again, or cut it there (head -c {error.offset}) if they are not reads."
            )
        elif self._compressed:
            problem = f"the gzip data is damaged ({error})"
        else:
            problem = f"reading failed ({error})"
        return Unreadable(self, problem, advice)

    def _drain(self) -> None:
        """Read on: if damaged gzip data caused the bad record, the checksum reveals it."""
        left = _DRAINED_BYTES if self._compressed else 0
        while left > 0 and (block := self.read_block()):
            left -= len(block)

    def close(self) -> None:
        self._file.close()
        self._raw.close()


def _parse(text: bytes) -> tuple[list[Record], bytes, bool]:
    """Return the whole records at the start of `text`, the text after them, and whether that text
    begins with a bad record. Lines may end in CRLF."""
    lines = text.split(b"\n")
    count = (len(lines) - 1) // 4
    bare = [line.removesuffix(b"\r") for line in lines] if b"\r" in text else lines
    heads, bases, separators, qualities = (bare[part : 4 * count : 4] for part in range(4))
    whole = count
    if (
        (b"\n" + b"\n".join(heads)).count(b"\n@") != count
        or (b"\n" + b"\n".join(separators)).count(b"\n+") != count
        or list(map(len, bases)) != list(map(len, qualities))
    ):
        parts = zip(heads, bases, separators, qualities, strict=True)
        whole = next(index for index, lines_of in enumerate(parts) if not _is_sound(*lines_of))
    names = [head[1:_KEPT_HEAD] for head in heads[:whole]]
    if b"\t" in b"".join(names):
        names = [name.replace(b"\t", b" ") for name in names]
    records = [*zip(names, bases, qualities, strict=False)]
    return records, b"\n".join(lines[4 * whole :]), whole < count


def _is_sound(head: bytes, bases: bytes, separator: bytes, qualities: bytes) -> bool:
    return head[:1] == b"@" and separator[:1] == b"+" and len(bases) == len(qualities)


def _fault_of(text: bytes) -> tuple[int, str]:
    """Return the line (from 1) of the bad record at the start of `text`, and the problem."""
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n", 4)]
    if not lines[0]:
        return 1, "a blank line stands between records or in place of one. Remove it."
    if lines[0][:1] != b"@":
        return 1, f"the record must begin with '@', not with {_quoted(lines[0][:1])}."
    if len(lines) > 3 and lines[2][:1] != b"+":
        return 3, (
            f"a line that begins with '+' must follow the sequence, not {_quoted(lines[2][:20])}. "
            "Sequences over several lines are not supported: write each on one line."
        )
    if len(lines) < 5:
        return len(lines), (
            "the last record is cut. The file may have been cut while it was written or copied: "
            "fetch it again."
        )
    return 4, (
        f"the sequence has the length {len(lines[1])} and the qualities {len(lines[3])}. If this "
        "is the last record, the file has been cut: fetch it again."
    )


def _quoted(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
