"""Check FASTA files letter by letter, and rewrite them in a form that all tools read alike.

Repairs CR and CRLF line ends, blank lines, blanks inside lines, lines of unequal length, a UTF-8
byte order mark, a missing last newline, and bytes after the gzip data. Refuses, with file, sequence
and position: letters other than IUPAC's for DNA, text before the first sequence, sequences without
a name or bases, names that SAM does not allow, and two sequences of one name. Keeps upper and
lower case.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wesemu.errors import InputError
from wesemu.genomics.bwa_index import check_names
from wesemu.genomics.fastq_file import (
    GZIP_FAULTS,
    GZIP_MAGIC,
    HEAD_BYTES,
    TrailingBytes,
    lacks_end,
    looks_like,
    open_gzip,
)

_SUFFIXES = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz")

BASES = b"ACGTRYSWKMBDHVN"
"""IUPAC letters for DNA."""

LONGEST_SEQUENCE = (1 << 31) - 1
"""Bases: the limit of LN in SAM and BAM."""

_LETTERS = BASES + BASES.lower()
_BLANKS = b" \t\v\f"
_NO_LETTER = re.compile(rb"[^" + _LETTERS + rb"\s]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 20
_LINE = 60
_MEMBER_START = b"\x1f\x8b\x08"
_HINTS = {
    "Uu": "This is RNA: write T for U",
    "-": "This is an alignment: give the sequence without its gaps",
    "EFILPQJOZefilpqjoz*": "This looks like protein: give the DNA",
    "Xx": "Write N for masked bases",
}


def is_fasta_name(name: str) -> bool:
    """Return whether a file of this name is a FASTA file, plain or as gzip. Ignores case."""
    return name.lower().endswith(_SUFFIXES)


class FastaFacts(NamedTuple):
    """Facts about a FASTA.

    `sha256` covers header lines and bases, whatever the line lengths and the compression. Tools
    can read a `regular` file unchanged. `longest` is the length of the longest sequence in bases.
    """

    sha256: str
    regular: bool
    sequences: int
    longest: int


def is_gzip(path: Path) -> bool:
    """Return whether a file is gzip data. Raises `InputError` if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(2) == GZIP_MAGIC
    except OSError as error:
        from wesemu.util.text import os_reason

        raise InputError(
            f"The reference {path} cannot be opened: {os_reason(error)}.", file=str(path)
        ) from error


def examine(path: Path) -> FastaFacts:
    """Read all of a FASTA, plain or gzip, and check it. Raises `InputError`."""
    digest = hashlib.sha256()
    reader = FastaReader(path)
    for header, bases in reader:
        if header is not None:
            digest.update(b"\n>" + header + b"\n")
        digest.update(bases)
    return FastaFacts(
        digest.hexdigest(), reader.regular, len(reader.names), max(reader.lengths, default=0)
    )


def copy(source: Path, target: Path, facts: FastaFacts) -> None:
    """Write `source` uncompressed: the same text if it is regular, else in lines of 60 bases."""
    with target.open("wb") as file:
        if facts.regular:
            last = b"\n"
            for block in _blocks(source):
                file.write(block)
                last = block[-1:]
            if last != b"\n":
                file.write(b"\n")
        else:
            _rewrite(FastaReader(source), file)


def _rewrite(reader: "FastaReader", file: BinaryIO) -> None:
    rest = b""
    for header, bases in reader:
        if header is not None:
            file.write(rest + b"\n" if rest else b"")
            file.write(b">" + header + b"\n")
            rest = b""
        rest += bases
        whole = len(rest) - len(rest) % _LINE
        lines = [rest[start : start + _LINE] for start in range(0, whole, _LINE)]
        if lines:
            file.write(b"\n".join(lines) + b"\n")
        rest = rest[whole:]
    file.write(rest + b"\n" if rest else b"")


class FastaReader:
    """Iterates over a FASTA in parts: (header, bases).

    A header (the text after ">", without its line end) begins a sequence. Parts with the header
    None continue it. Bases have no line ends. Raises `InputError`.
    """

    def __init__(self, path: Path) -> None:
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.regular = True
        self._path = path
        self._line = 1
        self._header: bytes | None = None
        self._starts_line = True
        self._lines = _LineLengths()

    def __iter__(self) -> Iterator[tuple[bytes | None, bytes]]:
        try:
            for text in self._texts():
                yield from self._parts(text)
        except GZIP_FAULTS as error:
            after = f" after the sequence {self.names[-1]!r}" if self.names else ""
            raise self._fault(f"{self._path} cannot be read{after}: {error}.") from error
        if self._header is not None:
            yield self._begin(self._header), b""
        self._end()
        check_names(self.names, str(self._path))

    def _texts(self) -> Iterator[bytes]:
        """Yield the text in blocks with line ends \\n."""
        held = b""
        is_first = True
        for block in _blocks(self._path):
            text = held + block
            held = b""
            if is_first:
                text = self._check_start(text)
                is_first = not text
            if b"\r" in text:
                self.regular = False
                if text.endswith(b"\r"):  # the next block may begin with its \n
                    text, held = text[:-1], b"\r"
                text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if text:
                yield text
        if is_first:
            raise self._fault(f"{self._path} is not FASTA: it is empty.")
        if held:
            yield b"\n"

    def _check_start(self, text: bytes) -> bytes:
        start = text.removeprefix(_BYTE_ORDER_MARK).lstrip()
        if start != text:
            self.regular = False
            self._line += text[: len(text) - len(start)].count(b"\n")
        if start and not start.startswith(b">"):
            head = start[:40].split(b"\n")[0].decode("ascii", "backslashreplace")
            raise self._fault(
                f"{self._path} is not FASTA: it looks like {looks_like(start[:HEAD_BYTES])}. Line "
                f"{self._line} should begin with '>' and is {head!r}."
            )
        return start

    def _parts(self, text: bytes) -> Iterator[tuple[bytes | None, bytes]]:
        position = 0
        while position < len(text):
            if self._header is not None:
                end = text.find(b"\n", position)
                self._header += text[position : end if end >= 0 else len(text)]
                if len(self._header) > _LONGEST_HEADER:
                    raise self._fault(
                        f"{self._path}, line {self._line}: the line after '>' is longer than "
                        f"{_LONGEST_HEADER} bytes. Shorten it."
                    )
                if end < 0:
                    return
                yield self._begin(self._header), b""
                self._header = None
                self._line += 1
                self._starts_line = True
                position = end + 1
            elif self._starts_line and text.startswith(b">", position):
                self._end()
                self._header = b""
                position += 1
            else:
                end = text.find(b"\n>", position) + 1 or len(text)
                part = text[position:end]
                self._starts_line = part.endswith(b"\n")
                yield None, self._bases(part)
                position = end

    def _begin(self, header: bytes) -> bytes:
        name = b"" if header[:1].isspace() else header.split(None, 1)[0] if header.strip() else b""
        if not name:
            raise self._fault(
                f"{self._path}, line {self._line}: sequence number {len(self.names) + 1} has no "
                "name directly after '>'. Give it one.",
                len(self.names) + 1,
            )
        self.names.append(name.decode("utf-8", "surrogateescape"))
        self.lengths.append(0)
        self._lines = _LineLengths()
        return header

    def _end(self) -> None:
        """Finish the sequence that was read last."""
        self.regular = self.regular and self._lines.finish()
        if self.names and not self.lengths[-1]:
            raise self._fault(
                f"{self._path}: the sequence {self.names[-1]!r} (number {len(self.names)}) is "
                "empty. Remove it, or fetch the file again.",
                len(self.names),
            )

    def _bases(self, part: bytes) -> bytes:
        lines = part.split(b"\n")
        bases = b"".join(lines)
        if odd := bases.translate(None, _LETTERS):
            if odd.strip(_BLANKS):
                self._refuse_letter(part)
            bases = bases.translate(None, _BLANKS)
            self.regular = False
        self.regular = self.regular and self._lines.add(list(map(len, lines)))
        self._line += len(lines) - 1
        self.lengths[-1] += len(bases)
        if self.lengths[-1] > LONGEST_SEQUENCE:
            raise self._fault(
                f"{self._path}: the sequence {self.names[-1]!r} (number {len(self.names)}) is "
                f"longer than the {LONGEST_SEQUENCE:,} bases that BAM can hold. Split it.",
                len(self.names),
            )
        return bases

    def _refuse_letter(self, part: bytes) -> None:
        match = _NO_LETTER.search(part)
        assert match is not None
        before = part[: match.start()]
        position = self.lengths[-1] + len(before.translate(None, _BLANKS + b"\n")) + 1
        line = self._line + before.count(b"\n")
        letter = match[0].decode("latin-1")
        hint = next((hint for letters, hint in _HINTS.items() if letter in letters), "Correct it")
        raise self._fault(
            f"{self._path}: the sequence {self.names[-1]!r} (number {len(self.names)}) has "
            f"{letter!r} at position {position:,} (line {line}), which is not an IUPAC base of "
            f"DNA. {hint}.",
            len(self.names),
        )

    def _fault(self, message: str, record: int | None = None) -> InputError:
        return InputError(message, file=str(self._path), record=record)


class _LineLengths:
    """Checks that all lines of a sequence but the last have the same length."""

    def __init__(self) -> None:
        self._usual: int | None = None
        self._ended = False
        self._open = 0

    def add(self, lengths: list[int]) -> bool:
        """Add the lengths of the next lines; the last line continues in the next call."""
        lengths[0] += self._open
        self._open = lengths.pop()
        return not lengths or self._complete(lengths)

    def finish(self) -> bool:
        """Add the last line, which ends with the file or at a new sequence."""
        return not self._open or self._complete([self._open])

    def _complete(self, lengths: list[int]) -> bool:
        if self._ended:
            return False
        if self._usual is None:
            self._usual = lengths[0]
        if lengths[-1] < self._usual:
            self._ended = True
            last = lengths.pop()
            return last > 0 and lengths.count(self._usual) == len(lengths)
        return lengths.count(self._usual) == len(lengths)


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the uncompressed text. Like gzip, ignore other bytes after whole gzip members.

    Raises one of `GZIP_FAULTS`.
    """
    with open_gzip(path) if is_gzip(path) else path.open("rb") as file:
        while True:
            try:
                block = file.read1(_BLOCK)
            except TrailingBytes as error:
                _check_trailing(path, error.offset)
                return
            if not block:
                if lacks_end(path):
                    raise OSError(
                        "the bgzip data has no end mark; the file was cut, fetch it again"
                    )
                return
            yield block


def _check_trailing(path: Path, offset: int) -> None:
    """Raise OSError if the bytes after a gzip member look like a member with a damaged start."""
    with path.open("rb") as file:
        file.seek(offset)
        start = file.read(len(_MEMBER_START))
    damage = sum((a ^ b).bit_count() for a, b in zip(start, _MEMBER_START, strict=False))
    if len(start) == len(_MEMBER_START) and damage <= 2:
        raise OSError(f"the gzip data is damaged at byte {offset}")
