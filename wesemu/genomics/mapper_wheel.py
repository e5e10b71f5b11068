"""bwa mem out of the pybwa wheel, in this process, by its C functions.

`pybwa.BwaMem` is not used: it starts to number the reads anew in every batch, from which bwa
breaks ties, and makes a Python object of every alignment. The layouts below are those of pybwa
1.5.2 (bwa built on htslib), the only version that `wheel_version` admits.
"""

import ctypes
import os
import queue
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from wesemu.errors import ToolMissing
from wesemu.genomics.alignment import Lane, MapperFailed
from wesemu.genomics.fastq import BATCH_BASES, Batch
from wesemu.genomics.wheel import library_path, wheel_version

Item = TypeVar("Item")

_INDEX_ALL = 7  # BWA_IDX_ALL
_PAIRED = 0x2  # MEM_F_PE
_SOFT_CLIP = 0x200  # MEM_F_SOFTCLIP
_READ_WORDS = 6  # 8-byte words of bseq1_t: length and id, name, comment, seq, qual, bams


class _Options(ctypes.Structure):
    """The start of mem_opt_t."""

    _fields_ = (
        ("scores", ctypes.c_int * 11),
        ("max_mem_intv", ctypes.c_uint64),
        ("minimum_score", ctypes.c_int),
        ("flag", ctypes.c_int),
        ("seeding", ctypes.c_int * 7),
        ("threads", ctypes.c_int),
        ("chunk_size", ctypes.c_int),
    )


class _Index(ctypes.Structure):
    """The start of bwaidx_t."""

    _fields_ = (("bwt", ctypes.c_void_p), ("bns", ctypes.c_void_p), ("pac", ctypes.c_void_p))


class _Alignments(ctypes.Structure):
    """bams_t: the records of one read."""

    _fields_ = (
        ("count", ctypes.c_int),
        ("capacity", ctypes.c_int),
        ("records", ctypes.POINTER(ctypes.c_void_p)),
    )


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch as bwa wants it: an array of bseq1_t, and the buffers that it points into."""

    count: int
    table: "array[int]"
    buffers: tuple[object, ...]


class WheelMapper:
    """Writes uncompressed BAM to `output`. Raises `ToolMissing`, `MapperFailed`."""

    def __init__(
        self,
        reference: str,
        *,
        threads: int,
        header: Callable[[str], str],
        output: BinaryIO,
    ) -> None:
        version, path = wheel_version("bwa mem"), library_path("bwa mem")
        if version is None or path is None:
            raise ToolMissing(
                "The pybwa wheel is not installed for this Python: install bwa and put it on PATH."
            )
        # short calls keep the interpreter lock: to take it again costs more than the call
        self._long = _declared(ctypes.CDLL(path))
        self._short = _declared(ctypes.PyDLL(path))
        index = self._long.bwa_idx_load(reference.encode(), _INDEX_ALL)
        if not index:
            raise MapperFailed(f"bwa cannot load the index of {reference}; index it again.")
        self._index = _Index.from_address(index)
        self._options = _Options.from_address(self._long.mem_opt_init())
        self._options.flag |= _PAIRED | _SOFT_CLIP
        self._options.threads = threads
        self._options.chunk_size = BATCH_BASES
        text = header(version).encode()
        self._header = self._long.sam_hdr_parse(len(text), text)
        output.flush()
        self._file = self._long.hts_hopen(
            self._long.hdopen(os.dup(output.fileno()), b"w"), b"-", b"wb0"
        )
        if not self._header or not self._file:
            raise MapperFailed("The alignments cannot be written: no header or no output.")
        self._check(self._long.sam_hdr_write(self._file, self._header))

    def map(self, lane: Lane, batches: Iterable[Batch]) -> None:
        """Align one lane; reads are numbered from 0, as by a bwa process of its own."""
        self._long.bwa_set_rg(lane.read_group.replace("\t", "\\t").encode())
        # bwa works on the next batch while this one is written
        for answers in read_ahead(self._aligned(batches)):
            self._write(answers)

    def _aligned(self, batches: Iterable[Batch]) -> "Iterator[array[int]]":
        """The addresses of each batch's answers (bams_t), which the caller destroys."""
        done = 0
        for packed in read_ahead(map(_pack, batches)):
            self._long.mem_process_seqs(
                ctypes.byref(self._options),
                self._index.bwt,
                self._index.bns,
                self._index.pac,
                done,
                packed.count,
                packed.table.buffer_info()[0],
                None,
                self._header,
            )
            done += packed.count
            yield packed.table[_READ_WORDS - 1 :: _READ_WORDS]

    def _write(self, answers: "array[int]") -> None:
        write, destroy = self._short.sam_write1, self._short.bams_destroy
        file, header = self._file, self._header
        for address in answers:
            answer = _Alignments.from_address(address)
            for record in answer.records[: answer.count]:
                if write(file, header, record) < 0:
                    raise BrokenPipeError("the alignments cannot be written")
            destroy(address)

    def _check(self, status: int) -> None:
        if status < 0:
            raise BrokenPipeError("the alignments cannot be written")

    def close(self) -> None:
        """Write what is buffered and the end-of-file block, which marks the stream as whole."""
        self._check(self._long.hts_close(self._file))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[type | None, Sequence[type]]] = {
        "bwa_idx_load": (pointer, [text, number]),
        "mem_opt_init": (pointer, []),
        "bwa_set_rg": (pointer, [text]),
        "sam_hdr_parse": (pointer, [ctypes.c_size_t, text]),
        "hdopen": (pointer, [number, text]),
        "hts_hopen": (pointer, [pointer, text, text]),
        "hts_close": (number, [pointer]),
        "sam_hdr_write": (number, [pointer, pointer]),
        "sam_write1": (number, [pointer, pointer, pointer]),
        "bams_destroy": (None, [pointer]),
        "mem_process_seqs": (
            None,
            [pointer] * 4 + [ctypes.c_int64, number] + [pointer] * 3,
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _pack(batch: Batch) -> _Packed:
    """Lay a batch out in C. bwa turns the sequences into numbers in place: they are a copy."""
    separator = bytes.maketrans(b"\n", b"\0")
    names = ctypes.create_string_buffer(b"\0".join(batch.names))
    sequences = ctypes.create_string_buffer(batch.sequences.translate(separator))
    qualities = ctypes.create_string_buffer(batch.qualities.translate(separator))
    name, base, quality = map(ctypes.addressof, (names, sequences, qualities))
    table = array("Q")
    for number, length in enumerate(batch.lengths):
        table.extend((length | number << 32, name, 0, base, quality, 0))
        base += length + 1
        quality += length + 1
        if number % 2:
            name += len(batch.names[number // 2]) + 1
    return _Packed(len(batch.lengths), table, (names, sequences, qualities))


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """`items`, the next one made in a thread while the caller works on the last one."""
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=1)

    def make() -> None:
        try:
            for item in items:
                made.put((item, None))
        except BaseException as error:
            made.put((None, error))
        else:
            made.put((None, None))

    threading.Thread(target=make, name="read ahead", daemon=True).start()
    while True:
        item, error = made.get()
        if error is not None:
            raise error
        if item is None:
            return
        yield item
