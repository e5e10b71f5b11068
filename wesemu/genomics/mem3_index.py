"""The index of bwa-mem3, written from bwa's own: `REFERENCE.bwt.2bit.64`.

The wheel of bwa-mem3 reads an index and cannot make one. Both indexes describe the same
Burrows-Wheeler transform; bwa packs two bits a base, bwa-mem3 has one bit for each base and
letter, and every eighth entry of the suffix array instead of every thirty-second.

Layout, little-endian, R = rows of the transform = 2 x bases + 1 (both strands and the sentinel):

    int64       R
    int64[5]    number of rows whose suffix starts with a letter before A, C, G, T, and the end
    block[]     R // 64 + 1 blocks: int64[4] letters A, C, G, T in the rows before the block, and
                uint64[4] one bit for each row (the highest bit is the first row)
    uint8[]     R // 8 + 1 entries of the suffix array, bits 32 to 39
    uint32[]    the same entries, bits 0 to 31
    int64       the row of the sentinel

Memory: 3 bytes a base (bwa's transform and the suffix array), and some 100 MB for one chunk.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from wesemu.errors import SystemFault, ToolMissing
from wesemu.genomics.bwaindex import SUFFIXES, read_contigs
from wesemu.genomics.wheel import library_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".bwt.2bit.64"

_ROWS = 64  # of a block
_INTERVAL = 8  # rows for one entry of the suffix array
_SENTINEL, _NO_ROW = 4, 6  # beside the letters 0 to 3
_CHUNK_ROWS = 1 << 22  # a multiple of _ROWS and of _BWA_ROWS
_BWA_ROWS, _BWA_WORDS, _COUNT_WORDS = 128, 16, 8  # bwa's block: its rows, its words of 32 bits


class _Transform(ctypes.Structure):
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
    """Write the file beside `reference`, whose FASTA is indexed by bwa first if need be.

    Raises `SystemFault`, `ToolMissing`, OSError.
    """
    library = _library()
    if not _has_bwa_index(reference):
        words = [b"index", os.fsencode(reference)]
        arguments = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        if library.bwa_index(len(words), arguments):
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
            "The index of bwa-mem3 is made with the pybwa wheel, which is not installed for this "
            "Python: install pybwa."
        )
    library = ctypes.CDLL(path)
    library.bwt_restore_bwt.restype = ctypes.c_void_p
    library.bwt_restore_bwt.argtypes = [ctypes.c_char_p]
    library.bwt_cal_sa.restype = None
    library.bwt_cal_sa.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def _has_bwa_index(reference: str) -> bool:
    """Whether bwa's five files lie beside the FASTA and are not older than it."""
    try:
        written = Path(reference).stat().st_mtime
        return all(Path(reference + suffix).stat().st_mtime >= written for suffix in SUFFIXES)
    except FileNotFoundError:
        return False


def _load(library: ctypes.CDLL, reference: str) -> _Transform:
    """bwa's transform with the denser suffix array."""
    address = library.bwt_restore_bwt(os.fsencode(reference + ".bwt"))
    transform = _Transform.from_address(address)
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


def _write(file: BinaryIO, transform: _Transform) -> None:
    import numpy as np

    rows = transform.length + 1
    file.write(struct.pack("<q5q", rows, *transform.before))
    seen: NDArray[np.int64] = np.zeros(4, np.int64)
    file.writelines(_blocks(letters, seen).tobytes() for letters in _chunks(transform))
    if rows % _ROWS == 0:
        # the last block has no row
        file.write(bytes(64))
    file.writelines(part.tobytes() for part in _suffix_array(transform))
    file.write(struct.pack("<q", transform.primary))


def _chunks(transform: _Transform) -> "Iterator[NDArray[np.uint8]]":
    """The letters of all rows, the sentinel in its place, filled up to whole blocks."""
    import numpy as np

    rows = transform.length + 1
    for start in range(0, rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, rows)
        letters = np.full(-(-(stop - start) // _ROWS) * _ROWS, _NO_ROW, np.uint8)
        sentinel = min(max(transform.primary, start), stop)
        letters[: sentinel - start] = _letters(transform, start, sentinel)
        # bwa leaves the sentinel out: what follows it has moved up by one
        if sentinel < stop:
            after = sentinel
            if sentinel == transform.primary:
                letters[sentinel - start] = _SENTINEL
                after += 1
            letters[after - start : stop - start] = _letters(transform, after - 1, stop - 1)
        yield letters


def _letters(transform: _Transform, start: int, stop: int) -> "NDArray[np.uint8]":
    """Letters `start` to `stop` of bwa's transform, which holds sixteen in a word."""
    import numpy as np

    if start >= stop:
        return np.empty(0, np.uint8)
    words = np.ctypeslib.as_array(transform.words, (transform.word_count,))
    first = start // _BWA_ROWS
    last = -(-stop // _BWA_ROWS)
    blocks: NDArray[np.uint32] = np.zeros((last - first) * _BWA_WORDS, np.uint32)
    found = words[first * _BWA_WORDS : last * _BWA_WORDS]
    blocks[: len(found)] = found
    packed = blocks.reshape(-1, _BWA_WORDS)[:, _COUNT_WORDS:].reshape(-1, 1)
    shifts: NDArray[np.uint32] = np.arange(30, -2, -2, dtype=np.uint32)
    letters = ((packed >> shifts) & 3).astype(np.uint8).reshape(-1)
    return letters[start - first * _BWA_ROWS : stop - first * _BWA_ROWS]


def _blocks(letters: "NDArray[np.uint8]", seen: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """One row of eight numbers for each block; `seen` counts the letters and is carried on."""
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


def _suffix_array(transform: _Transform) -> "Iterator[NDArray[np.generic]]":
    """First the high bits of all entries, then the low ones."""
    import numpy as np

    rows = transform.length + 1
    count = rows // _INTERVAL + 1
    entries = np.ctypeslib.as_array(transform.entries, (transform.entry_count,))
    # bwa has -1 for the suffix that is the sentinel alone
    entries[0] = transform.length
    for shift, kind in ((32, np.uint8), (0, np.uint32)):
        for start in range(0, transform.entry_count, _CHUNK_ROWS):
            part = entries[start : start + _CHUNK_ROWS] >> np.uint64(shift)
            yield part.astype(kind)
        yield np.zeros(count - transform.entry_count, kind)
