"""Facts about references that need reading whole files, remembered between runs.

A record is valid for the size, the times of modification and of change, and the inode of its files.
A file that is replaced or rewritten is read again, even if its modification time is set back.
Records can be deleted at any time. Further parts: the check that an index belongs to its FASTA, the
format of BAM and VCF indexes (BAI or CSI), and lists of ALT contigs.
"""

import contextlib
import hashlib
import json
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from wesemu.errors import InputError
from wesemu.genomics.bwa_index import SUFFIXES_OF, index_fault, read_fai
from wesemu.genomics.fasta import BASES, FastaFacts, examine, is_gzip

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
        # imported here: only the first run with a reference compares its index
        from wesemu.genomics.fm_index import fm_index_fault

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
            raise _Mismatch(f"{self._fasta.name} has {letter!r}, which is not a base")
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


_VERSION = 1
_TICK_NS = 50_000_000
"""Resolution of file times. A younger file could change and keep its times: it gets no record."""

State = tuple[int, int, int, int]


def default_folder() -> Path:
    """Return the folder of the records for runs without a server."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "wesemu" / "references"


class ReferenceRecords:
    """Records in `folder`, which is created when needed.

    If the folder is not writable, files are read again each time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def facts(self, fasta: Path) -> FastaFacts:
        """Return the result of `examine`, from the record if there is one. Raises `InputError`."""
        before = _states([fasta])
        key = _key("facts", before)
        record = self._read(key)
        if record is not None:
            with contextlib.suppress(TypeError):
                return FastaFacts(**record)
        facts = examine(fasta)
        if self._is_unchanged(fasta, [fasta], before):
            self._write(key, before, facts._asdict())
        return facts

    def index_mismatch(self, fasta: Path, indexer: str) -> str | None:
        """Return the result of `index_mismatch`; a match is recorded, a mismatch is not."""
        files = _files(fasta, indexer)
        before = _states(files)
        key = _key(f"index of {indexer}", before)
        if None not in before and self._read(key) is not None:
            return None
        fault = index_mismatch(fasta, indexer)
        if fault is None and self._is_unchanged(fasta, files, before):
            self._write(key, before, {"fasta": str(fasta)})
        return fault

    def record_built(self, fasta: Path, facts: FastaFacts, indexer: str) -> None:
        """Record a FASTA and its index that the caller has just built, where no other program
        writes."""
        files = _files(fasta, indexer)
        self._save(_key("facts", _states([fasta])), facts._replace(regular=True)._asdict())
        self._save(_key(f"index of {indexer}", _states(files)), {"fasta": str(fasta)})

    def _is_unchanged(self, fasta: Path, files: Iterable[Path], before: list[State | None]) -> bool:
        """Return whether the files kept their states. Raises `InputError` if one was written or
        replaced.

        A new change time alone is not an error: another run may have made a hard link.
        """
        now = _states(files)
        if [_without_change_time(each) for each in now] != [
            _without_change_time(each) for each in before
        ]:
            raise InputError(
                f"{fasta} was changed while it was read. Send the request again.", file=str(fasta)
            )
        return now == before

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            record: object = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def _write(self, key: str, states: list[State | None], record: object) -> None:
        youngest = max((max(state[1:3]) for state in states if state is not None), default=0)
        if time.time_ns() - youngest >= _TICK_NS:
            self._save(key, record)

    def _save(self, key: str, record: object) -> None:
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            import tempfile

            with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False) as file:
                json.dump(record, file)
            Path(file.name).replace(self._folder / f"{key}.json")


def _files(fasta: Path, indexer: str) -> list[Path]:
    return [Path(f"{fasta}{suffix}") for suffix in ("", ".fai", *SUFFIXES_OF[indexer])]


def _states(files: Iterable[Path]) -> list[State | None]:
    return [_state(file) for file in files]


def _state(file: Path) -> State | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _without_change_time(state: State | None) -> tuple[int, int, int] | None:
    return None if state is None else (state[0], state[1], state[3])


def _key(kind: str, states: list[State | None]) -> str:
    return hashlib.sha256(json.dumps([_VERSION, kind, states]).encode()).hexdigest()


# The index format of a BAM or VCF. BAI and TBI have positions up to 2^29 (SAM specification 5.2);
# CSI has no such limit. The choice depends on the longest contig alone.

IndexFormat = Literal["bai", "csi"]

LONGEST_IN_BAI = (1 << 29) - 1
"""The longest contig in bases."""

CALLERS_WITH_CSI = ("bcftools", "freebayes")
"""Callers that read a BAM with a CSI, and whose VCF the pipelines index."""

_MOST_IN_A_BYTE = 1032
"""Bytes that one byte of gzip data can expand to, at most."""


def may_need_csi(fasta: Path) -> bool:
    """Return whether a contig may be too long for BAI, by the file's size alone."""
    try:
        most = fasta.stat().st_size * (_MOST_IN_A_BYTE if is_gzip(fasta) else 1)
    except (OSError, InputError):  # reported when the file is needed
        return False
    return most > LONGEST_IN_BAI


def listed_index_format(fasta: Path) -> IndexFormat | None:
    """Return the format by the file's size or its .fai; None if neither decides. Quick."""
    if not may_need_csi(fasta):
        return "bai"
    if is_gzip(fasta) or index_fault(str(fasta)) is not None:
        return None
    return _format_for(max(int(length) for _, length in read_fai(str(fasta))))


def index_format(fasta: Path, records: Path) -> IndexFormat:
    """Return `csi` if a contig is too long for BAI. Reads the FASTA only if nothing else decides.

    Raises `InputError`.
    """
    listed = listed_index_format(fasta)
    return listed or _format_for(ReferenceRecords(records).facts(fasta).longest)


def _format_for(longest: int) -> IndexFormat:
    return "csi" if longest > LONGEST_IN_BAI else "bai"


# The list of ALT contigs beside a FASTA: `X.alt`, or `X.64.alt` from bwa 0.6 and bwa.kit.

ALTERNATE_SUFFIXES = (".alt", ".64.alt")


def find_alternates(fasta: Path) -> Path | None:
    """Return the list for `fasta` (plain or gzip), beside it or its link target; None without one.

    An empty list counts as none.
    """
    for path in dict.fromkeys((fasta, fasta.resolve())):
        for stem in stems(str(path)):
            for suffix in ALTERNATE_SUFFIXES:
                file = Path(stem + suffix)
                if file.is_file() and file.stat().st_size:
                    return file
    return None


def stems(fasta: str) -> list[str]:
    """Return the possible beginnings of the name of the list, for the name of a FASTA."""
    return [fasta, fasta.removesuffix(".gz")] if fasta.endswith(".gz") else [fasta]


def key_with_alternates(sha256: str, alternates: Path | None) -> str:
    """Return the key of a reference in the cache: of its sequences, and its ALT contigs if any."""
    if alternates is None:
        return sha256
    return hashlib.sha256(sha256.encode() + _normalised(alternates)).hexdigest()


def check_alternates(alternates: Path, indexed: Path, fasta: Path) -> None:
    """Raise `InputError` if no sequence of `fasta` is in the list. The .fai is beside `indexed`."""
    names = {name for name, _ in read_fai(str(indexed))}
    lines = _normalised(alternates).decode("utf-8", "surrogateescape").splitlines()
    listed = [line.split("\t", 1)[0] for line in lines if not line.startswith("@")]
    if names.isdisjoint(listed):
        raise InputError(
            f"{alternates.name} lists ALT contigs, and none of them is in {fasta}: it belongs to "
            "another reference. Remove it, or fetch the right one.",
            file=str(alternates),
        )


def write_alternates(alternates: Path, indexed: Path, fasta: Path) -> None:
    """Write the list beside `indexed`, where mappers look for it. Raises `InputError`."""
    check_alternates(alternates, indexed, fasta)
    target = Path(f"{indexed}.alt")
    unfinished = target.with_name(f".{target.name}.part")
    unfinished.write_bytes(_normalised(alternates))
    unfinished.replace(target)


def _normalised(alternates: Path) -> bytes:
    """Return the non-empty lines, each with a line feed: bwa ignores a last line without one."""
    lines = [line for line in alternates.read_bytes().splitlines() if line.strip()]
    return b"\n".join(lines) + b"\n"
