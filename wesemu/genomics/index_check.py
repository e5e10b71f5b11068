"""Check that an index belongs to its FASTA: compare both, letter by letter."""

import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wesemu.genomics.bwa_index import SUFFIXES_OF, index_fault
from wesemu.genomics.fasta import BASES
from wesemu.genomics.fm_index import fm_index_fault

_BLOCK = 1 << 20
_AMBIGUOUS, _FORBIDDEN = 4, 5
_COMPLEMENT = bytes(3 - base if base < _AMBIGUOUS else base for base in range(256))
_RUNS = re.compile(b"([" + BASES[4:] + rb"])\1*")
_AMBIGUOUS_RUN = re.compile(bytes([_AMBIGUOUS]) + b"+")


def _codes() -> bytes:
    table = bytearray([_FORBIDDEN]) * 256
    for letters in (BASES, BASES.lower()):
        for letter in letters:
            table[letter] = _AMBIGUOUS
        for code, letter in enumerate(b"ACGT" if letters == BASES else b"acgt"):
            table[letter] = code
    return bytes(table)


_CODES = _codes()
_UNPACK = [bytes(byte >> shift & 3 for byte in range(256)) for shift in (6, 4, 2, 0)]


class _Mismatch(Exception):
    """A part of the index differs from the FASTA; the message says which."""


class _Entry(NamedTuple):
    """A line of a .fai. In bases: `length`, and `bases` in a line. In bytes: `offset`, and `width`
    of a line with its end."""

    name: bytes
    length: int
    offset: int
    bases: int
    width: int


class _Hole(NamedTuple):
    """A run of one letter other than A, C, G, T. Positions count from the first sequence."""

    start: int
    end: int
    letter: bytes


def index_mismatch(fasta: Path, indexer: str) -> str | None:
    """Return why the .fai and the index do not belong to `fasta`, or None if they do.

    The message has file names without folders.
    """
    if fault := index_fault(str(fasta), indexer):
        return fault.replace(f"{fasta.parent}/", "")
    try:
        with ExitStack() as opened:
            _Comparison(fasta, indexer, opened).run()
    except _Mismatch as mismatch:
        return str(mismatch)
    except (OSError, ValueError, IndexError, struct.error) as error:
        return f"the index of {fasta.name} cannot be read ({error})"
    return None


class _Comparison:
    """Reads a FASTA and its index side by side, a megabyte at a time."""

    def __init__(self, fasta: Path, indexer: str, opened: ExitStack) -> None:
        self._fasta = fasta
        self._indexer = indexer
        self._file: BinaryIO = opened.enter_context(fasta.open("rb"))
        packed = Path(f"{fasta}.pac")
        self._packed = _Packed(opened.enter_context(packed.open("rb")))
        self._entries = list(_read_fai(Path(f"{fasta}.fai")))
        self._total = sum(entry.length for entry in self._entries)
        self._unpacked: BinaryIO | None = None
        if ".0123" in SUFFIXES_OF[indexer]:
            path = Path(f"{fasta}.0123")
            if path.stat().st_size != 2 * self._total:
                raise _Mismatch(f"{path.name} is incomplete")
            self._unpacked = opened.enter_context(path.open("rb"))
        self._holes: list[_Hole] = []
        self._counts = [0, 0, 0, 0]

    def run(self) -> None:
        start = 0
        for entry in self._entries:
            self._check_header(entry)
            for text in self._lines(entry):
                self._compare(entry, text, start)
                start += len(text)
        while line := self._file.readline():
            if line.strip():
                raise _Mismatch(f"{self._fasta.name} has more than its .fai lists")
        holes = _read_holes(Path(f"{self._fasta}.amb"), self._total, len(self._entries))
        if holes != self._holes:
            raise _Mismatch(f"{self._fasta.name}.amb lists other ambiguous bases than the FASTA")
        self._check_counts()
        if suffix := fm_index_fault(self._fasta, self._indexer, 2 * self._total, self._window):
            raise _Mismatch(f"{self._fasta.name}{suffix} is not of the same sequences as the .pac")

    def _check_header(self, entry: _Entry) -> None:
        while (line := self._file.readline()) and not line.strip():
            pass
        words = line[1:].split(None, 1)
        named = line.startswith(b">") and not line[1:2].isspace() and words
        if not named or words[0] != entry.name or self._file.tell() != entry.offset:
            name = entry.name.decode(errors="replace")
            raise _Mismatch(
                f"{self._fasta.name}.fai has the sequence {name!r} at byte {entry.offset}, where "
                "the FASTA has none of that name"
            )

    def _lines(self, entry: _Entry) -> Iterator[bytes]:
        """Yield the bases of a sequence; the line ends must be where the .fai says."""
        full, rest = divmod(entry.length - 1, entry.bases)
        size = full * entry.width + rest + 1
        done = 0
        ends = (b"\n", b"\r\n")[entry.width - entry.bases - 1]
        while done < size:
            block = self._file.read(min(_BLOCK, size - done))
            if not block:
                raise _Mismatch(f"{self._fasta.name} is shorter than its .fai says")
            bases = block.translate(None, b"\r\n")
            expected = 0
            # every line end of the block, by its place in the line
            for number, end in enumerate(ends):
                first = (entry.bases + number - done) % entry.width
                letters = block[first :: entry.width]
                expected += len(letters)
                if letters.count(end) != len(letters):
                    raise _Mismatch(f"{self._fasta.name}.fai has another line length")
            if len(block) - len(bases) != expected:
                raise _Mismatch(f"{self._fasta.name}.fai has another line length")
            done += len(block)
            yield bases

    def _compare(self, entry: _Entry, text: bytes, start: int) -> None:
        codes = text.translate(_CODES)
        if _FORBIDDEN in codes:
            letter = chr(text[codes.index(_FORBIDDEN)])
            raise _Mismatch(f"{self._fasta.name} has {letter!r}, which is no base")
        packed = self._packed.bases(start, start + len(text))
        self._count(packed)
        self._compare_unpacked(packed, start)
        if codes != packed:
            # bwa packs random bases in place of ambiguous ones
            for run in _AMBIGUOUS_RUN.finditer(codes):
                packed[run.start() : run.end()] = run[0]
            if codes != packed:
                name = entry.name.decode(errors="replace")
                raise _Mismatch(f"{self._fasta.name}.pac has other bases in the sequence {name!r}")
            for run in _RUNS.finditer(text.upper()):
                _add(self._holes, _Hole(start + run.start(), start + run.end(), run[1]))
        elif _AMBIGUOUS in codes:
            raise _Mismatch(f"{self._fasta.name}.pac is damaged")

    def _count(self, packed: bytearray) -> None:
        for base in range(4):
            self._counts[base] += packed.count(base)

    def _compare_unpacked(self, packed: bytearray, start: int) -> None:
        if self._unpacked is None:
            return
        end = start + len(packed)
        for first, expected in (
            (start, packed),
            (2 * self._total - end, packed[::-1].translate(_COMPLEMENT)),
        ):
            self._unpacked.seek(first)
            if self._unpacked.read(len(packed)) != expected:
                raise _Mismatch(f"{self._fasta.name}.0123 is not of the same sequences as the .pac")

    def _check_counts(self) -> None:
        """Compare the counts of each base on both strands with those in the transform."""
        is_bwa = self._indexer == "bwa"
        suffix = ".bwt" if is_bwa else ".bwt.2bit.64"
        with Path(f"{self._fasta}{suffix}").open("rb") as file:
            stored = struct.unpack("<4q", file.read(48)[8:40])
        both = [self._counts[base] + self._counts[3 - base] for base in range(4)]
        before = [sum(both[:base]) for base in range(5)]
        if list(stored) != (before[1:] if is_bwa else before[:4]):
            raise _Mismatch(f"{self._fasta.name}{suffix} is not of the same sequences as the .pac")

    def _window(self, start: int, end: int) -> bytes:
        """Return part of the index's text: the sequences, then their reverse complement."""
        forward = self._packed.bases(min(start, self._total), min(end, self._total))
        first, last = 2 * self._total - end, 2 * self._total - start
        backward = self._packed.bases(min(first, self._total), min(last, self._total))
        return bytes(forward + backward[::-1].translate(_COMPLEMENT))


class _Packed:
    """.pac: four bases in each byte, the first in the highest bits."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def bases(self, start: int, end: int) -> bytearray:
        self._file.seek(start // 4)
        data = self._file.read((end + 3) // 4 - start // 4)
        bases = bytearray(4 * len(data))
        for number, table in enumerate(_UNPACK):
            bases[number::4] = data.translate(table)
        return bases[start % 4 : start % 4 + end - start]


def _read_fai(path: Path) -> Iterator[_Entry]:
    """Yield the lines of a .fai. Raises OSError, ValueError, _Mismatch."""
    with path.open("rb") as lines:
        for line in lines:
            name, *numbers = line.rstrip(b"\n").split(b"\t")
            length, offset, bases, width = map(int, numbers)
            if length < 1 or bases < 1 or width - bases not in (1, 2):
                raise _Mismatch(f"{path.name} has a sequence that is empty")
            yield _Entry(name, length, offset, bases, width)


def _read_holes(path: Path, bases: int, sequences: int) -> list[_Hole]:
    """Return the runs that an .amb lists. Raises OSError, ValueError, _Mismatch."""
    holes: list[_Hole] = []
    head, *lines = path.read_bytes().splitlines() or [b""]
    if list(map(int, head.split())) != [bases, sequences, len(lines)]:
        raise _Mismatch(f"{path.name} is cut or of other sequences")
    for line in lines:
        start, length, letter = line.split()
        _add(holes, _Hole(int(start), int(start) + int(length), letter.upper()))
    return holes


def _add(holes: list[_Hole], hole: _Hole) -> None:
    """Append a run, or extend the last one: tools and blocks split runs differently."""
    if holes and holes[-1].end == hole.start and holes[-1].letter == hole.letter:
        hole = _Hole(holes.pop().start, hole.end, hole.letter)
    holes.append(hole)
