"""FM indexes of bwa, bwa-mem2 and bwa-mem3: compare one with its sequence, and write bwa-mem3's.

The text of an index is the packed sequence followed by its reverse complement. `fm_index_fault`
reads a small index backwards from its end, letter by letter, and so compares all of it. In a large
index it looks up windows of the text, which must be found at their positions. `write_index`
converts bwa's index to `REFERENCE.bwt.2bit.64`.

Formats: bwa 0.7.17, `bwt.c` (.bwt, .sa); bwa-mem2 2.2.1, `FMI_search.cpp` (.bwt.2bit.64), which
bwa-mem3 reads too. The transform has 2 x bases + 1 rows, the sentinel included.
"""

import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from wesemu.errors import SystemFault, ToolMissing
from wesemu.genomics.bwa_index import SUFFIXES, read_contigs
from wesemu.genomics.wheel_tools import library_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Write the index of bwa-mem3.

SUFFIX = ".bwt.2bit.64"

_ROWS = 64  # in a block
_INTERVAL = 8  # rows for one entry of the suffix array
_TRANSFORM_SENTINEL, _NO_ROW = 4, 6  # codes besides the letters 0 to 3
_CHUNK_ROWS = 1 << 22  # a multiple of _ROWS and of _BWA_ROWS
_BWA_ROWS, _BWA_WORDS, _COUNT_WORDS = 128, 16, 8  # bwa's block: rows, 32-bit words, words of counts


class _BwtFile(ctypes.Structure):
    """bwt_t of bwa 0.7."""

    _fields_ = (
        ("primary", ctypes.c_uint64),
        ("before", ctypes.c_uint64 * 5),
        ("length", ctypes.c_uint64),
        ("word_count", ctypes.c_uint64),
        ("words", ctypes.POINTER(ctypes.c_uint32)),
        ("count_table", ctypes.c_uint32 * 256),
        ("interval", ctypes.c_int),
        ("entry_count", ctypes.c_uint64),
        ("entries", ctypes.POINTER(ctypes.c_uint64)),
    )


def write_index(reference: str) -> None:
    """Write `REFERENCE.bwt.2bit.64`; index the FASTA with bwa first where that is missing.

    Raises `SystemFault`, `ToolMissing`, OSError.
    """
    library = _library()
    if not _has_bwa_index(reference):
        argv = [b"index", os.fsencode(reference)]
        arguments = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
        if library.bwa_index(len(argv), arguments):
            raise SystemFault(f"{reference} cannot be indexed by bwa; its message is above.")
    transform = _load(library, reference)
    target = Path(reference + SUFFIX)
    unfinished = target.with_name(target.name + ".part")
    with unfinished.open("wb") as file:
        _write(file, transform)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(target)


def _library() -> ctypes.CDLL:
    path = library_path("bwa")
    if path is None:
        raise ToolMissing(
            "Making an index of bwa-mem3 needs the pybwa wheel, which is not installed for this "
            "Python: install pybwa."
        )
    library = ctypes.CDLL(path)
    library.bwt_restore_bwt.restype = ctypes.c_void_p
    library.bwt_restore_bwt.argtypes = [ctypes.c_char_p]
    library.bwt_cal_sa.restype = None
    library.bwt_cal_sa.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def _has_bwa_index(reference: str) -> bool:
    """Return whether bwa's five files lie beside the FASTA and are not older than it."""
    try:
        written = Path(reference).stat().st_mtime
        return all(Path(reference + suffix).stat().st_mtime >= written for suffix in SUFFIXES)
    except FileNotFoundError:
        return False


def _load(library: ctypes.CDLL, reference: str) -> _BwtFile:
    """Return the Burrows-Wheeler transform of bwa's index, with a denser suffix array."""
    address = library.bwt_restore_bwt(os.fsencode(reference + ".bwt"))
    transform = _BwtFile.from_address(address)
    bases = sum(contig.length for contig in read_contigs(reference))
    blocks = (transform.length + _BWA_ROWS - 1) // _BWA_ROWS + 1
    words = (transform.length + 15) // 16 + _COUNT_WORDS * blocks
    if (transform.length, transform.word_count) != (2 * bases, words):
        raise SystemFault(
            f"{reference}.bwt does not fit {reference}.ann: it is cut or of another FASTA. "
            "Remove it and index the reference again."
        )
    library.bwt_cal_sa(address, _INTERVAL)
    return transform


def _write(file: BinaryIO, transform: _BwtFile) -> None:
    import numpy as np

    rows = transform.length + 1
    file.write(struct.pack("<q5q", rows, *transform.before))
    seen: NDArray[np.int64] = np.zeros(4, np.int64)
    file.writelines(_blocks(letters, seen).tobytes() for letters in _chunks(transform))
    if rows % _ROWS == 0:
        # the format ends with a block without rows here
        file.write(bytes(64))
    file.writelines(part.tobytes() for part in _suffix_array(transform))
    file.write(struct.pack("<q", transform.primary))


def _chunks(transform: _BwtFile) -> "Iterator[NDArray[np.uint8]]":
    """Yield the letters of all rows with the sentinel, padded to whole blocks."""
    import numpy as np

    rows = transform.length + 1
    for start in range(0, rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, rows)
        letters = np.full(-(-(stop - start) // _ROWS) * _ROWS, _NO_ROW, np.uint8)
        sentinel = min(max(transform.primary, start), stop)
        letters[: sentinel - start] = _letters(transform, start, sentinel)
        # bwa stores no sentinel: later letters are one row earlier in its array
        if sentinel < stop:
            after = sentinel
            if sentinel == transform.primary:
                letters[sentinel - start] = _TRANSFORM_SENTINEL
                after += 1
            letters[after - start : stop - start] = _letters(transform, after - 1, stop - 1)
        yield letters


def _letters(transform: _BwtFile, start: int, stop: int) -> "NDArray[np.uint8]":
    """Return letters `start` to `stop` of bwa's transform, which has sixteen in each word."""
    import numpy as np

    if start >= stop:
        return np.empty(0, np.uint8)
    words = np.ctypeslib.as_array(transform.words, (transform.word_count,))
    first = start // _BWA_ROWS
    last = -(-stop // _BWA_ROWS)
    blocks: NDArray[np.uint32] = np.zeros((last - first) * _BWA_WORDS, np.uint32)
    stored = words[first * _BWA_WORDS : last * _BWA_WORDS]
    blocks[: len(stored)] = stored
    packed = blocks.reshape(-1, _BWA_WORDS)[:, _COUNT_WORDS:].reshape(-1, 1)
    shifts: NDArray[np.uint32] = np.arange(30, -2, -2, dtype=np.uint32)
    letters = ((packed >> shifts) & 3).astype(np.uint8).reshape(-1)
    return letters[start - first * _BWA_ROWS : stop - first * _BWA_ROWS]


def _blocks(letters: "NDArray[np.uint8]", seen: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Return eight numbers for each block: the counts before it, and a bit for each row and letter.

    `seen` holds the counts of the letters so far, and is updated.
    """
    import numpy as np

    blocks: NDArray[np.int64] = np.empty((len(letters) // _ROWS, 8), np.int64)
    for letter in range(4):
        is_letter = (letters == letter).reshape(-1, _ROWS)
        sums = np.cumsum(is_letter.sum(axis=1)) + seen[letter]
        blocks[0, letter] = seen[letter]
        blocks[1:, letter] = sums[:-1]
        seen[letter] = sums[-1]
        blocks[:, 4 + letter] = np.packbits(is_letter, axis=1).view(">u8").reshape(-1).view(">i8")
    return blocks


def _suffix_array(transform: _BwtFile) -> "Iterator[NDArray[np.generic]]":
    """Yield the high bits of all entries, then the low bits."""
    import numpy as np

    rows = transform.length + 1
    count = rows // _INTERVAL + 1
    entries = np.ctypeslib.as_array(transform.entries, (transform.entry_count,))
    # bwa stores -1 for the suffix that is the sentinel alone
    entries[0] = transform.length
    for shift, kind in ((32, np.uint8), (0, np.uint32)):
        for start in range(0, transform.entry_count, _CHUNK_ROWS):
            part = entries[start : start + _CHUNK_ROWS] >> np.uint64(shift)
            yield part.astype(kind)
        yield np.zeros(count - transform.entry_count, kind)


# Compare an index with its sequence.

_WHOLE_ROWS = 200_000
_WINDOWS = 256
_WINDOW = 32
_MOST_ROWS = 64
_SENTINEL = 4

Window = Callable[[int, int], bytes]
"""Returns bases `start` to `end` of the text as numbers from 0 to 3."""


class _Transform(Protocol):
    """The Burrows-Wheeler transform of an index and its suffix array.

    `starts[c]` is the row of the first suffix that begins with the base c.
    """

    rows: int
    starts: list[int]

    def count(self, base: int, row: int) -> int:
        """Return the number of rows before `row` that have this base."""

    def base(self, row: int) -> int:
        """Return the base before the suffix of a row; `_SENTINEL` at the beginning of the text."""

    def position(self, row: int) -> int | None:
        """Return where the suffix of a row begins in the text; None for rows not sampled."""


class _Bwa:
    """Reads bwa's .bwt (2 bits per base, blocks of 128 rows) and .sa (every 32nd position)."""

    def __init__(self, transform: mmap.mmap, positions: mmap.mmap) -> None:
        self._transform = transform
        self._positions = positions
        counts: list[int]
        self._primary, *counts = struct.unpack_from("<5Q", transform)
        self.starts = [count + 1 for count in (0, *counts)]
        self.rows = counts[3] + 1
        interval = struct.unpack_from("<Q", positions, 40)[0]
        self._interval: int = interval or 1
        self.is_consistent = struct.unpack_from("<5Q", positions) == (
            self._primary,
            *counts,
        ) and struct.unpack_from("<2Q", positions, 40) == (32, counts[3])

    def count(self, base: int, row: int) -> int:
        row -= row > self._primary
        block, rest = divmod(row, 128)
        start = 40 + 64 * block
        counted: int = struct.unpack_from("<Q", self._transform, start + 8 * base)[0]
        if rest:
            counted += self._letters(start + 32, rest).count(base)
        return counted

    def base(self, row: int) -> int:
        if row == self._primary:
            return _SENTINEL
        row -= row > self._primary
        block, rest = divmod(row, 128)
        word: int = struct.unpack_from("<I", self._transform, 72 + 64 * block + 4 * (rest // 16))[0]
        return word >> 2 * (15 - rest % 16) & 3

    def position(self, row: int) -> int | None:
        if row % self._interval:
            return None
        if row == 0:
            return self.rows - 1
        offset = 48 + 8 * (row // self._interval)
        position: int = struct.unpack_from("<Q", self._positions, offset)[0]
        return position

    def _letters(self, start: int, count: int) -> list[int]:
        words = struct.unpack_from(f"<{(count + 15) // 16}I", self._transform, start)
        letters = [word >> shift & 3 for word in words for shift in range(30, -2, -2)]
        return letters[:count]


class _BwaMem2:
    """.bwt.2bit.64: one bit for each row and letter in blocks of 64 rows; every 8th position."""

    is_consistent = True

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.rows, *starts = struct.unpack_from("<6q", data)
        self.starts = [start + 1 for start in starts]
        self._high = 48 + 64 * (self.rows // 64 + 1)
        self._low = self._high + self.rows // 8 + 1
        self._sentinel = struct.unpack_from("<q", data, self._low + 4 * (self.rows // 8 + 1))[0]

    def count(self, base: int, row: int) -> int:
        block, rest = divmod(row, 64)
        counted: int
        bits: int
        counted = struct.unpack_from("<q", self._data, 48 + 64 * block + 8 * base)[0]
        bits = struct.unpack_from("<Q", self._data, 80 + 64 * block + 8 * base)[0]
        return counted + (bits >> 64 - rest).bit_count()

    def base(self, row: int) -> int:
        block, rest = divmod(row, 64)
        letters = struct.unpack_from("<4Q", self._data, 80 + 64 * block)
        bases = [base for base, bits in enumerate(letters) if bits >> 63 - rest & 1]
        return bases[0] if bases and row != self._sentinel else _SENTINEL

    def position(self, row: int) -> int | None:
        if row % 8:
            return None
        low: int = struct.unpack_from("<I", self._data, self._low + 4 * (row // 8))[0]
        high: int = self._data[self._high + row // 8]
        return high << 32 | low


def fm_index_fault(fasta: Path, indexer: str, length: int, window: Window) -> str | None:
    """Return the suffix of the index file that does not belong to the text, or None.

    `length` is that of the text in bases.

    Raises OSError, ValueError and struct.error for files that are cut.
    """
    with ExitStack() as opened:

        def map_file(suffix: str) -> mmap.mmap:
            file = opened.enter_context(Path(f"{fasta}{suffix}").open("rb"))
            return opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

        transform: _Bwa | _BwaMem2
        if indexer == "bwa":
            transform, suffix = _Bwa(map_file(".bwt"), map_file(".sa")), ".bwt"
        else:
            transform, suffix = _BwaMem2(map_file(".bwt.2bit.64")), ".bwt.2bit.64"
        if transform.rows != length + 1 or not transform.is_consistent:
            return suffix
        compare = _differs_whole if transform.rows <= _WHOLE_ROWS else _differs_in_a_window
        return suffix if compare(transform, length, window) else None


def _differs_whole(transform: _Transform, length: int, window: Window) -> bool:
    """Restore the text from the transform, from its end, and compare each letter."""
    text = window(0, length)
    bases = [transform.base(row) for row in range(transform.rows)]
    seen = [*transform.starts[:4], 0]
    steps = []
    for row, base in enumerate(bases):
        if row % 64 == 0:
            noted = [transform.starts[each] + transform.count(each, row) for each in range(4)]
            if noted != seen[:4]:
                return True
        steps.append(seen[base])
        seen[base] += 1
    row = 0
    for position in range(length, -1, -1):
        if (listed := transform.position(row)) is not None and listed != position:
            return True
        if bases[row] != (text[position - 1] if position else _SENTINEL):
            return True
        row = steps[row]
    return False


def _differs_in_a_window(transform: _Transform, length: int, window: Window) -> bool:
    """Look up windows from all over the text."""
    step = (length - _WINDOW) // (_WINDOWS - 1)
    # the shift avoids starts that are all multiples of one number
    starts = (number * step + number % 7 for number in range(_WINDOWS))
    return any(
        not _is_found(transform, window(start, start + _WINDOW), start)
        for start in starts
        if start + _WINDOW <= length
    )


def _is_found(transform: _Transform, bases: bytes, start: int) -> bool:
    """Return whether the transform has these bases; if rare, also whether at `start`."""
    first, end = 0, transform.rows
    for base in reversed(bases):
        first = transform.starts[base] + transform.count(base, first)
        end = transform.starts[base] + transform.count(base, end)
        if first >= end:
            return False
    if end - first > _MOST_ROWS:
        return True
    return any(_walk(transform, row) == start for row in range(first, end))


def _walk(transform: _Transform, row: int) -> int:
    """Return the position of a row: step back through the text to the nearest sampled row."""
    steps = 0
    while (position := transform.position(row)) is None:
        base = transform.base(row)
        if base == _SENTINEL:
            return steps
        row = transform.starts[base] + transform.count(base, row)
        steps += 1
    return position + steps
