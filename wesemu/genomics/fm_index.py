"""Whether the index of bwa or bwa-mem2 was made of a given sequence.

The text of both indexes is the packed sequence followed by its reverse complement. A small index
is read backwards from its end, letter by letter, and so compared as a whole; of a large one
windows of the text are looked up, which must be found, and found at their places.

Formats: bwa 0.7.17, `bwt.c` (.bwt, .sa); bwa-mem2 2.2.1, `FMI_search.cpp` (.bwt.2bit.64), which
bwa-mem3 reads too. Rows are those of the transform with the sentinel, 2 x bases + 1 of them.
"""

import mmap
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

_WHOLE_ROWS = 200_000
_WINDOWS = 256
_WINDOW = 32
_MOST_ROWS = 64
_SENTINEL = 4

Window = Callable[[int, int], bytes]
"""Bases `start` to `end` of the text, as numbers from 0 to 3."""


class _Transform(Protocol):
    """`starts[c]` is the row of the first suffix that begins with the base c."""

    rows: int
    starts: list[int]

    def count(self, base: int, row: int) -> int:
        """How many rows before `row` have this base."""

    def base(self, row: int) -> int:
        """The base before the suffix of a row; `_SENTINEL` for the text's beginning."""

    def place(self, row: int) -> int | None:
        """Where the suffix of a row begins in the text, for the rows that are listed."""


class _Bwa:
    """.bwt and .sa: two bits a base in blocks of 128, every 32nd place."""

    def __init__(self, transform: mmap.mmap, places: mmap.mmap) -> None:
        self._transform = transform
        self._places = places
        counts: list[int]
        self._primary, *counts = struct.unpack_from("<5Q", transform)
        self.starts = [count + 1 for count in (0, *counts)]
        self.rows = counts[3] + 1
        interval = struct.unpack_from("<Q", places, 40)[0]
        self._interval: int = interval or 1
        self.is_consistent = struct.unpack_from("<5Q", places) == (
            self._primary,
            *counts,
        ) and struct.unpack_from("<2Q", places, 40) == (32, counts[3])

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

    def place(self, row: int) -> int | None:
        if row % self._interval:
            return None
        if row == 0:
            return self.rows - 1
        found: int = struct.unpack_from("<Q", self._places, 48 + 8 * (row // self._interval))[0]
        return found

    def _letters(self, start: int, count: int) -> list[int]:
        words = struct.unpack_from(f"<{(count + 15) // 16}I", self._transform, start)
        letters = [word >> shift & 3 for word in words for shift in range(30, -2, -2)]
        return letters[:count]


class _BwaMem2:
    """.bwt.2bit.64: one bit for each base and letter in blocks of 64, every 8th place."""

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
        found = [base for base, bits in enumerate(letters) if bits >> 63 - rest & 1]
        return found[0] if found and row != self._sentinel else _SENTINEL

    def place(self, row: int) -> int | None:
        if row % 8:
            return None
        low: int = struct.unpack_from("<I", self._data, self._low + 4 * (row // 8))[0]
        high: int = self._data[self._high + row // 8]
        return high << 32 | low


def fm_index_fault(fasta: Path, indexer: str, length: int, window: Window) -> str | None:
    """Which index file beside `fasta` is not of the text of `length` bases, or None.

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
    for place in range(length, -1, -1):
        if (listed := transform.place(row)) is not None and listed != place:
            return True
        if bases[row] != (text[place - 1] if place else _SENTINEL):
            return True
        row = steps[row]
    return False


def _differs_in_a_window(transform: _Transform, length: int, window: Window) -> bool:
    step = (length - _WINDOW) // (_WINDOWS - 1)
    # not all at multiples of one number
    starts = (number * step + number % 7 for number in range(_WINDOWS))
    return any(
        not _is_found(transform, window(start, start + _WINDOW), start)
        for start in starts
        if start + _WINDOW <= length
    )


def _is_found(transform: _Transform, bases: bytes, start: int) -> bool:
    """Whether the transform has these bases; where they are rare, also at this place."""
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
    """The place of a row, by way of the next one that is listed."""
    steps = 0
    while (place := transform.place(row)) is None:
        base = transform.base(row)
        if base == _SENTINEL:
            return steps
        row = transform.starts[base] + transform.count(base, row)
        steps += 1
    return place + steps
