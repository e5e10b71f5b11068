"""Mappers from Python wheels, run in this process: bwa-mem3, and bwa mem of pybwa.

`WheelMapper` calls the C functions of pybwa. It does not use `pybwa.BwaMem`, which restarts the
numbers of the reads in every batch (bwa breaks ties by them) and makes a Python object of every
alignment. The layouts are those of pybwa 1.5.2 (bwa built on htslib), the only version that
`wheel_version` accepts.
"""

import ctypes
import os
import queue
import struct
import threading
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from wesemu.errors import ToolMissing
from wesemu.genomics.bwa_index import Contig
from wesemu.genomics.fastq import BATCH_BASES, Batch, PairedReader
from wesemu.genomics.fastq_file import BGZF_END
from wesemu.genomics.mappers import Lane, MapperFailed
from wesemu.genomics.wheel_tools import (
    VERIFIED_BWA_MEM3,
    bwa_mem3_fault,
    library_path,
    wheel_version,
)

if TYPE_CHECKING:
    from bwa_mem3 import MemOpts, ReadPair


# bwa-mem3: bwa's alignments in less CPU time.

# BAM, SAM specification 4.2. A record begins with its length.
_FIXED = struct.Struct("<4x8xB3xHHi")  # lengths of name and CIGAR, flag, length of the sequence
_FIXED_BYTES = 36
_UNMAPPED = 0x4
_INTEGER_TAG = 7  # two letters, the type i, four bytes

# BGZF, SAM specification 4.1
_BLOCK_HEAD = struct.Struct("<4sIBBH4sH")
_STORED_HEAD = struct.Struct("<BHH")
_BLOCK_TAIL = struct.Struct("<II")
_BLOCK_DATA = 0xFF00


class Mem3Mapper:
    """Maps with bwa-mem3 and writes uncompressed BAM to `output`.

    Raises `ToolMissing`, `MapperFailed`.
    """

    def __init__(
        self,
        reference: str,
        *,
        threads: int,
        header: Callable[[str], str],
        contigs: Sequence[Contig],
        output: BinaryIO,
    ) -> None:
        if fault := bwa_mem3_fault():
            raise ToolMissing(
                f"{fault[0].upper()}{fault[1:]}. Install bwa, put it on PATH and choose "
                "the mapper bwa."
            )
        from bwa_mem3 import BwaIndex

        try:
            self._index = BwaIndex(reference)
        except Exception as error:
            raise MapperFailed(
                f"bwa-mem3 cannot load the index of {reference}: {error}. Index it again."
            ) from error
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bwa-mem3")
        self._output = output
        text = header(VERIFIED_BWA_MEM3).encode()
        output.write(_bgzf(_header(text, contigs)))

    def map(self, lane: Lane, reader: PairedReader) -> None:
        """Align one lane. Raises `MapperFailed`, BrokenPipeError and what `reader` raises."""
        options = _options(lane)
        pending: deque[Future[bytes]] = deque()
        for pairs in read_pairs(reader):
            pending.append(self._pool.submit(self._align, pairs, options))
            # Each thread has a batch, and one more is ready. Waiting for the oldest bounds the
            # memory and keeps the order.
            while len(pending) > self._threads:
                self._write(pending.popleft())
        while pending:
            self._write(pending.popleft())

    def _align(self, pairs: "list[ReadPair]", options: "MemOpts") -> bytes:
        from bwa_mem3 import align_batch

        records, _ = align_batch(self._index, options, pairs)
        return _bgzf(b"".join([as_bwa(record.bytes) for record in records]))

    def _write(self, aligned: "Future[bytes]") -> None:
        self._output.write(aligned.result())

    def close(self) -> None:
        """Write the end-of-file block, which marks the stream as whole."""
        self._output.write(BGZF_END)
        self._output.flush()


def _options(lane: Lane) -> "MemOpts":
    """Return the options of `bwa mem -Y -R …` for pairs."""
    from bwa_mem3 import MemOpts

    options = MemOpts()
    options.set_pe(True)
    options.set_soft_clip_supplementary(True)
    fields = lane.read_group.split("\t")
    options.set_read_group_id(next(field[3:] for field in fields if field.startswith("ID:")))
    return options


def read_pairs(reader: PairedReader) -> "Iterator[list[ReadPair]]":
    """Yield batches that end as those of `bwa mem -K`: after the pair that reaches the bases."""
    from bwa_mem3 import ReadPair

    pairs: list[ReadPair] = []
    bases = 0
    for name, one, two, quality_one, quality_two in chain.from_iterable(
        map(_split, reader.texts())
    ):
        pairs.append(ReadPair(name, one, name, two, quality_one, quality_two))
        bases += len(one) + len(two)
        if bases >= BATCH_BASES:
            yield pairs
            pairs, bases = [], 0
    if pairs:
        yield pairs


def _split(texts: Sequence[bytes]) -> Iterable[tuple[bytes, bytes, bytes, bytes, bytes]]:
    """Return name, bases and qualities of each pair in one interleaved text or two texts."""
    lines = [text.split(b"\n") for text in texts]
    if len(texts) == 1:
        heads, parts, step = lines[0][:-1:8], (lines[0], lines[0]), (8, 5)
    else:
        heads, parts, step = lines[0][:-1:4], (lines[0], lines[1]), (4, 1)
    size, second = step
    return zip(
        map(_name, heads),
        parts[0][1::size],
        parts[1][second::size],
        parts[0][3::size],
        parts[1][second + 2 :: size],
        strict=True,
    )


def _name(head: bytes) -> bytes:
    """Return the name of a pair as bwa writes it: without comment, /1, /2 or another digit."""
    name = head[1:].split(maxsplit=1)[0]
    if name[-2:-1] == b"/" and name[-1:].isdigit() and len(name) > 2:
        return name[:-2]
    return name


def as_bwa(record: bytes) -> bytes:
    """Return a record of bwa-mem3 with the tags that bwa 0.7.17 writes: without MQ and HN.

    Raises `MapperFailed` for other tags.
    """
    name, operations, flag, bases = _FIXED.unpack_from(record)
    start, end = _FIXED_BYTES + name + 4 * operations + (bases + 1) // 2 + bases, len(record)
    if not flag & _UNMAPPED:
        end -= _INTEGER_TAG
        if record[end : end + 3] != b"HNi":
            raise _unknown(record)
    # the tags before MQ (NM, MD, MC) cannot contain these three letters
    quality = record.find(b"MQi", start, end)
    if quality < 0:
        raise _unknown(record)
    after = quality + _INTEGER_TAG
    length = quality + end - after - 4
    return b"".join((length.to_bytes(4, "little"), record[4:quality], record[after:end]))


def _unknown(record: bytes) -> MapperFailed:
    name = record[_FIXED_BYTES:].split(b"\0", 1)[0].decode(errors="replace")
    return MapperFailed(
        f"bwa-mem3 writes unknown tags into the record of {name}: install version "
        f"{VERIFIED_BWA_MEM3} of its wheel."
    )


def _header(text: bytes, contigs: Sequence[Contig]) -> bytes:
    parts = [b"BAM\1", struct.pack("<i", len(text)), text, struct.pack("<i", len(contigs))]
    for contig in contigs:
        name = contig.name.encode("utf-8", "surrogateescape") + b"\0"
        parts += [struct.pack("<i", len(name)), name, struct.pack("<i", contig.length)]
    return b"".join(parts)


def _bgzf(data: bytes) -> bytes:
    """Return `data` in BGZF blocks that are stored, not compressed."""
    blocks = []
    for start in range(0, len(data), _BLOCK_DATA):
        part = data[start : start + _BLOCK_DATA]
        size = len(part)
        blocks += [
            _BLOCK_HEAD.pack(b"\x1f\x8b\x08\x04", 0, 0, 0xFF, 6, b"BC\2\0", size + 30),
            _STORED_HEAD.pack(1, size, size ^ 0xFFFF),
            part,
            _BLOCK_TAIL.pack(zlib.crc32(part), size),
        ]
    return b"".join(blocks)


# bwa mem of pybwa.

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
    """A batch in bwa's layout: an array of bseq1_t, and the buffers that it points into."""

    count: int
    table: "array[int]"
    buffers: tuple[object, ...]


class WheelMapper:
    """Maps with bwa mem of pybwa and writes uncompressed BAM to `output`.

    Raises `ToolMissing`, `MapperFailed`.
    """

    def __init__(
        self, reference: str, *, threads: int, header: Callable[[str], str], output: BinaryIO
    ) -> None:
        version, path = wheel_version("bwa mem"), library_path("bwa mem")
        if version is None or path is None:
            raise ToolMissing(
                "The pybwa wheel is not installed for this Python: install bwa and put it on PATH."
            )
        # Short calls keep the interpreter lock (PyDLL): taking it again costs more than the call.
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
        """Align one lane; its reads are numbered from 0, as in a separate bwa process."""
        self._long.bwa_set_rg(lane.read_group.replace("\t", "\\t").encode())
        # bwa works on the next batch while this one is written
        for results in read_ahead(self._aligned(batches)):
            self._write(results)

    def _aligned(self, batches: Iterable[Batch]) -> "Iterator[array[int]]":
        """Yield the addresses of each batch's results (bams_t), which the caller destroys."""
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

    def _write(self, results: "array[int]") -> None:
        write, destroy = self._short.sam_write1, self._short.bams_destroy
        file, header = self._file, self._header
        for address in results:
            result = _Alignments.from_address(address)
            for record in result.records[: result.count]:
                if write(file, header, record) < 0:
                    raise BrokenPipeError("the alignments cannot be written")
            destroy(address)

    def _check(self, status: int) -> None:
        if status < 0:
            raise BrokenPipeError("the alignments cannot be written")

    def close(self) -> None:
        """Flush, and write the end-of-file block, which marks the stream as whole."""
        self._check(self._long.hts_close(self._file))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the signatures of the C functions, and return the library."""
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
        "mem_process_seqs": (None, [pointer] * 4 + [ctypes.c_int64, number] + [pointer] * 3),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _pack(batch: Batch) -> _Packed:
    """Return a batch in bwa's layout. bwa encodes the sequences in place, so they are a copy."""
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
    """Yield `items`; a thread computes the next one while the caller works on the last one."""
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=1)

    def make() -> None:
        try:
            for item in items:
                ready.put((item, None))
        except BaseException as error:
            ready.put((None, error))
        else:
            ready.put((None, None))

    threading.Thread(target=make, name="read ahead", daemon=True).start()
    while True:
        item, error = ready.get()
        if error is not None:
            raise error
        if item is None:
            return
        yield item
