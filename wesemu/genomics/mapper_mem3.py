"""bwa-mem3 out of its wheel, in this process: bwa's alignments in less CPU time.

A batch is aligned by one thread, outside the interpreter lock; several batches are under way at
once and written in order. The wheel numbers the pairs of every batch from 0, and bwa breaks ties
by that number over a whole lane: the alignments of a batch equal those of a bwa process that maps
it alone.

The records are bwa 0.7.17's, byte for byte up to the width of integers: the tags MQ and HN, which
bwa does not write, are taken off. fixmate adds MQ later, as it does for bwa.
"""

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from wesemu.errors import ToolMissing
from wesemu.genomics.alignment import Lane, MapperFailed
from wesemu.genomics.bwaindex import Contig
from wesemu.genomics.fastq import BATCH_BASES, PairedReader
from wesemu.genomics.wheel import VERIFIED_BWA_MEM3, bwa_mem3_fault

if TYPE_CHECKING:
    from bwa_mem3 import MemOpts, ReadPair

# BAM, SAM specification 4.2; the record begins with its length
_FIXED = struct.Struct("<4x8xB3xHHi")  # lengths of name, CIGAR; flag; length of the sequence
_FIXED_BYTES = 36
_UNMAPPED = 0x4
_INTEGER_TAG = 7  # two letters, the type i, four bytes

# BGZF, SAM specification 4.1
_BLOCK_HEAD = struct.Struct("<4sIBBH4sH")
_STORED_HEAD = struct.Struct("<BHH")
_BLOCK_TAIL = struct.Struct("<II")
_BLOCK_DATA = 0xFF00
_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


class Mem3Mapper:
    """Writes uncompressed BAM to `output`. Raises `ToolMissing`, `MapperFailed`."""

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
        under_way: deque[Future[bytes]] = deque()
        for pairs in read_pairs(reader):
            under_way.append(self._pool.submit(self._align, pairs, options))
            # each thread has a batch, and one more is ready
            while len(under_way) > self._threads:
                self._write(under_way.popleft())
        while under_way:
            self._write(under_way.popleft())

    def _align(self, pairs: "list[ReadPair]", options: "MemOpts") -> bytes:
        from bwa_mem3 import align_batch

        records, _ = align_batch(self._index, options, pairs)
        return _bgzf(b"".join([as_bwa(record.bytes) for record in records]))

    def _write(self, aligned: "Future[bytes]") -> None:
        self._output.write(aligned.result())

    def close(self) -> None:
        """Write the end-of-file block, which marks the stream as whole."""
        self._output.write(_END)
        self._output.flush()


def _options(lane: Lane) -> "MemOpts":
    """`bwa mem -Y -R …` of pairs."""
    from bwa_mem3 import MemOpts

    options = MemOpts()
    options.set_pe(True)
    options.set_soft_clip_supplementary(True)
    fields = lane.read_group.split("\t")
    options.set_read_group_id(next(field[3:] for field in fields if field.startswith("ID:")))
    return options


def read_pairs(reader: PairedReader) -> "Iterator[list[ReadPair]]":
    """Batches, cut as `bwa mem -K` cuts them: after the pair that reaches the number of bases."""
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
    """Name, bases and qualities of each pair in FASTQ text, interleaved or a mate each."""
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
    """The name of a pair as bwa has it: without comment, and without /1 or another digit."""
    name = head[1:].split(maxsplit=1)[0]
    if name[-2:-1] == b"/" and name[-1:].isdigit() and len(name) > 2:
        return name[:-2]
    return name


def as_bwa(record: bytes) -> bytes:
    """A record of bwa-mem3 with the tags that bwa 0.7.17 gives it. Raises `MapperFailed`."""
    name, operations, flag, bases = _FIXED.unpack_from(record)
    start, end = _FIXED_BYTES + name + 4 * operations + (bases + 1) // 2 + bases, len(record)
    if not flag & _UNMAPPED:
        end -= _INTEGER_TAG
        if record[end : end + 3] != b"HNi":
            raise _unknown(record)
    # the tags before it, NM, MD and MC, hold no such three letters
    found = record.find(b"MQi", start, end)
    if found < 0:
        raise _unknown(record)
    after = found + _INTEGER_TAG
    length = found + end - after - 4
    return b"".join((length.to_bytes(4, "little"), record[4:found], record[after:end]))


def _unknown(record: bytes) -> MapperFailed:
    name = record[_FIXED_BYTES:].split(b"\0", 1)[0].decode(errors="replace")
    return MapperFailed(f"bwa-mem3 gives the record of {name} other tags than those known.")


def _header(text: bytes, contigs: Sequence[Contig]) -> bytes:
    parts = [b"BAM\1", struct.pack("<i", len(text)), text, struct.pack("<i", len(contigs))]
    for contig in contigs:
        name = contig.name.encode("utf-8", "surrogateescape") + b"\0"
        parts += [struct.pack("<i", len(name)), name, struct.pack("<i", contig.length)]
    return b"".join(parts)


def _bgzf(data: bytes) -> bytes:
    """`data` in blocks that are stored and not compressed."""
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
