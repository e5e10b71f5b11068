"""Read pairs from two FASTQ files or an interleaved one: checked, counted and batched in one pass.

Each fault raises one `InputError` that names the file and the record (from 1). Mappers end with
status 0 on half of these faults, and drop the rest of the reads.
"""

from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import NamedTuple, Self

from wesemu.errors import InputError
from wesemu.genomics.fastq_fast_path import (
    BASES,
    BELOW_PHRED64,
    LONGEST_NAME,
    QUALITIES,
    is_sam_name,
    mate_hint,
    pair_name,
    plain_block,
)
from wesemu.genomics.fastq_file import FastqFile, Record, Unreadable

BATCH_BASES = 10_000_000
"""Bases after which a batch ends: the value of `bwa mem -K` in the pipelines."""

LONGEST_READ = 1000
"""Bases. bwa mem needs minutes for one read of a megabase; reads of short-read sequencers have
fewer than 700."""

MOST_PAIRS = 500_000
"""Pairs in a batch. With reads so short that a batch needs more, both this program and the mapper,
which collects the same bases, would run out of memory."""

_SEPARATOR = b"\n"
_BASES = BASES + _SEPARATOR
_QUALITIES = {offset: letters + _SEPARATOR for offset, letters in QUALITIES.items()}
_PHRED64_TO_33 = bytes(byte - 31 if byte >= 64 else byte for byte in range(256))
_ABOVE_PHRED33 = bytes(range(76, 127))
_COUNTED_SURPLUS = 5_000_000
_UNUSED_BYTES = 1 << 16
_SEQUENCE, _QUALITY = 1, 2


class Batch(NamedTuple):
    """Whole pairs in file order.

    `names` has one name for each pair, without comment and without /1 or /2. `sequences` and
    `qualities` join those of all reads (first, second, first, …) by newlines. `lengths` are in
    bases, one for each read.
    """

    names: list[bytes]
    lengths: list[int]
    sequences: bytes
    qualities: bytes

    def fastq(self, mate: int | None = None) -> bytes:
        """Return FASTQ, interleaved or of one mate (0 or 1); both mates have the pair's name."""
        bases = self.sequences.split(_SEPARATOR)
        qualities = self.qualities.split(_SEPARATOR)
        names = chain.from_iterable(zip(self.names, self.names, strict=True))
        reads = zip(names, bases, qualities, strict=True)
        chosen = tuple(reads if mate is None else islice(reads, mate, None, 2))
        return (b"@%b\n%b\n+\n%b\n" * len(chosen)) % tuple(chain.from_iterable(chosen))


class PairedReader:
    """Reads the pairs of two FASTQ files once: iterate over batches, or use `texts`.

    A batch ends where a batch of `bwa mem -K batch_bases` ends: after the pair that reaches the
    number of bases. `reads` and `bases` count both mates of all pairs returned so far, and are
    exact after the iteration. Without `second`, the mates follow each other in `first`.

    Qualities are returned as Phred+33; `quality_offset` (33 or 64) is the offset in the files.
    None means Phred+33, and refuses files whose first reads look like Phred+64. Reads without bases
    are refused unless `empty`. `last` is the head line of the first read of the last pair; `before`
    is the `last` of the lane mapped before.
    Raises `InputError`.
    """

    def __init__(
        self,
        first: str,
        second: str | None,
        *,
        batch_bases: int = BATCH_BASES,
        longest: int = LONGEST_READ,
        empty: bool = True,
        quality_offset: int | None = None,
        before: bytes = b"",
    ) -> None:
        self.reads = 0
        self.bases = 0
        self.last = before
        self._batch_bases = batch_bases
        self._longest = longest
        self._shortest = 0 if empty else 1
        self._offset = quality_offset or 33
        self._guess = quality_offset is None
        self._interleaved = second is None
        self._sparse = (0, 0)
        if second is not None and _same_file(first, second):
            raise InputError(
                f"{first} and {second} are the same file; give the two files of a pair.",
                file=second,
            )
        self._first = self._second = FastqFile(first)
        if second is None:
            return
        try:
            self._second = FastqFile(second)
        except InputError:
            self._first.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._first.close()
        self._second.close()

    def texts(self) -> Iterator[list[bytes]]:
        """Yield the checked pairs as FASTQ text: the same pairs from each file.

        Plain pairs keep their text from the files, with comments and /1, /2.
        """
        files = [self._first] if self._interleaved else [self._first, self._second]
        rests = [b"" for _ in files]
        # The fast path: whole blocks, until one has anything unusual.
        while self._offset == 33:
            more = [
                file.read_block() if len(rest) < _UNUSED_BYTES else b""
                for file, rest in zip(files, rests, strict=True)
            ]
            rests = [rest + block for rest, block in zip(rests, more, strict=True)]
            block = plain_block(
                rests,
                longest=self._longest,
                shortest=self._shortest,
                before=pair_name(self.last),
                start=not self.reads,
                guess=self._guess and not self.reads,
            )
            if block is None or not any(more):
                break
            rests = block.rests
            if block.pairs:
                self._count(block.pairs, block.bases, block.last)
                yield block.texts
        if self.reads and not any(rests) and not any(file.damaged for file in files):
            return
        # The slow path reads the rest by single records, and knows the message for each fault.
        for file, rest in zip(files, rests, strict=True):
            file.put_back(rest, self.reads // len(files))
        for batch in self:
            yield [batch.fastq()] if self._interleaved else [batch.fastq(0), batch.fastq(1)]

    def __iter__(self) -> Iterator[Batch]:
        reads: list[Record] = []
        names: list[bytes] = []
        bases = 0
        before = pair_name(self.last)
        first = second = self._first.records()
        if not self._interleaved:
            second = self._second.records()
        try:
            for one, two in zip_longest(first, second):
                if one is None or two is None:
                    raise self._unequal(one is None, first, second, len(names))
                name = one[0].partition(b" ")[0]
                if name != two[0].partition(b" ")[0] or name[-2:-1] == b"/":
                    name = self._common_name(one[0], two[0], len(names))
                if name == before or not is_sam_name(name):
                    raise self._bad_name(name, reads, one[0])
                before = name
                names.append(name)
                reads.append(one)
                reads.append(two)
                bases += len(one[1]) + len(two[1])
                if bases >= self._batch_bases or len(names) >= MOST_PAIRS:
                    batch, reads, names, bases = (reads, names, bases), [], [], 0
                    yield self._checked(*batch)
        except (InputError, Unreadable) as error:
            whole = self._record(len(names)) - 1
            if reads:  # a fault of the earlier reads is reported first
                self._checked(reads, names, bases)
            if isinstance(error, Unreadable):
                raise error.located(whole) from error.__cause__
            raise
        if reads:
            yield self._checked(reads, names, bases)
        if not self.reads:
            raise self._first.fault(
                f"{self._names('holds', 'hold')} no reads. Was everything written completely?"
            )

    def _checked(self, reads: list[Record], names: list[bytes], bases: int) -> Batch:
        lengths = [len(read[_SEQUENCE]) for read in reads]
        batch = Batch(
            names,
            lengths,
            _SEPARATOR.join([read[_SEQUENCE] for read in reads]),
            _SEPARATOR.join([read[_QUALITY] for read in reads]),
        )
        if not _is_printable(names):
            raise self._unprintable(names)
        if batch.sequences.translate(None, _BASES):
            raise self._bad_letter(reads, _BASES, _SEQUENCE)
        if batch.qualities.translate(None, _QUALITIES[self._offset]):
            raise self._bad_letter(reads, _QUALITIES[self._offset], _QUALITY)
        if max(lengths) > self._longest:
            raise self._too_long(reads)
        if min(lengths) < self._shortest:
            raise self._empty(reads)
        if not self.reads:
            self._check_start(reads, batch)
        self._count(len(names), bases, reads[-2][0])
        if self._offset == 64:
            return batch._replace(qualities=batch.qualities.translate(_PHRED64_TO_33))
        return batch

    def _count(self, pairs: int, bases: int, last: bytes) -> None:
        """Count, and raise InputError for reads so short that a mapper's batch never fills."""
        self.reads += 2 * pairs
        self.bases += bases
        self.last = last
        self._sparse = (self._sparse[0] + pairs, self._sparse[1] + bases)
        if self._sparse[1] >= self._batch_bases:
            self._sparse = (0, 0)
        elif self._sparse[0] >= MOST_PAIRS:
            record = self._record(0) - 1
            raise self._first.fault(
                f"{self._first.name}: the {self._sparse[0]} pairs up to record {record} have fewer "
                f"than {self._batch_bases // (2 * MOST_PAIRS)} bases a read. Reads this short map "
                "nowhere: remove them from both files.",
                record,
            )

    def _check_start(self, reads: list[Record], batch: Batch) -> None:
        """Raise InputError for mistakes of whole files, which the first batch shows."""
        if self._guess and _looks_like_phred64(batch.qualities):
            raise self._first.fault(
                f"{self._first.name} seems to have qualities in the old Phred+64 encoding "
                "(Illumina before 1.8), seen from record 1 on: none is below Phred+33's 26. Set "
                "quality_offset to 64 to have them converted, or to 33 if they are Phred+33.",
                1,
            )
        pairs = zip(reads[::2], reads[1::2], strict=True)
        if len(batch.names) > 1 and all(one[1:] == two[1:] for one, two in pairs):
            raise self._second.fault(
                f"{self._names('holds every read twice', 'hold the same reads')}; "
                "give the two mates of each pair.",
                1,
            )

    def _names(self, one: str, two: str) -> str:
        """Return the file names as the subject of a sentence, with the verb for one or two."""
        if self._interleaved:
            return f"{self._first.name} {one}"
        return f"{self._first.name} and {self._second.name} {two}"

    def _record(self, pair: int, mate: int = 0) -> int:
        """Return the number in its file, from 1, of a read in the current batch."""
        pairs = self.reads // 2 + pair
        return 2 * pairs + mate + 1 if self._interleaved else pairs + 1

    def _common_name(self, one: bytes, two: bytes, offset: int) -> bytes:
        """Return the name of a pair as bwa sees it: without /1 or /2 (any digit)."""
        names = pair_name(one), pair_name(two)
        if names[0] == names[1]:
            return names[0]
        record = self._record(offset, 1)
        second = "then" if self._interleaved else f"{self._second.name} has"
        shown = [_quoted(head.partition(b" ")[0]) for head in (one, two)]
        message = (
            f"The mates are out of step at record {record}: {self._first.name} has {shown[0]}, "
            f"{second} {shown[1]}. "
        )
        message += mate_hint(*names) or (
            "A read is missing or extra, or these files are not of one pair."
        )
        raise self._second.fault(message, record)

    def _bad_name(self, name: bytes, reads: list[Record], head: bytes) -> InputError:
        """Return the error for a name that SAM does not allow, or that the previous pair has, too.

        `reads` are the reads of the batch before this pair.
        """
        record = self._record(len(reads) // 2)
        if not is_sam_name(name):
            problem = f"is longer than {LONGEST_NAME} characters" if name else "is empty"
            if len(name) <= LONGEST_NAME and name:
                problem = f"{_quoted(name)} is not allowed in SAM: it may not be * or begin with @"
            return self._first.fault(
                f"{self._first.name}, record {record}: the name {problem}.", record
            )
        before = _quoted(reads[-2][0] if reads else self.last)
        where = f"{self._first.name}, record {record} ({_quoted(head)})"
        if record > 1:
            earlier = self._record(len(reads) // 2 - 1)
            other = f"record {earlier} ({before})"
        else:
            other = f"the last pair of the lane before it ({before})"
        return self._first.fault(
            f"{where}: the pair has the same name as {other}, because names end at the first "
            "blank. Such pairs would be taken for one fragment: give each its own name, for "
            "example by writing '_' in place of the blanks.",
            record,
        )

    def _unprintable(self, names: list[bytes]) -> InputError:
        pair = next(index for index, name in enumerate(names) if not _is_printable([name]))
        record = self._record(pair)
        return self._first.fault(
            f"{self._first.name}, record {record}: the name {_quoted(names[pair])} has letters "
            "that are not ASCII, or control characters. SAM allows printable ASCII only.",
            record,
        )

    def _location(self, index: int) -> tuple[FastqFile, int]:
        pair, mate = divmod(index, 2)
        return (self._second if mate else self._first), self._record(pair, mate)

    def _bad_letter(self, reads: list[Record], allowed: bytes, part: int) -> InputError:
        index = 0
        while not (wrong := reads[index][part].translate(None, allowed)):
            index += 1
        mate, record = self._location(index)
        kind, name = f"a quality in Phred+{self._offset}", "quality"
        if part == _SEQUENCE:
            kind, name = "a base in IUPAC code", "sequence"
        letter = wrong.decode("utf-8", "replace")[:1]
        return mate.fault(
            f"{mate.name}, record {record} ({_name_of(reads[index])}): {letter!r} in the {name} is "
            f"not {kind}.",
            record,
        )

    def _too_long(self, reads: list[Record]) -> InputError:
        index = next(i for i, read in enumerate(reads) if len(read[_SEQUENCE]) > self._longest)
        mate, record = self._location(index)
        length = len(reads[index][_SEQUENCE])
        return mate.fault(
            f"{mate.name}, record {record} ({_name_of(reads[index])}): the read has {length} "
            f"bases; this short-read pipeline takes up to {self._longest}. "
            "Long reads need another mapper.",
            record,
        )

    def _empty(self, reads: list[Record]) -> InputError:
        index = next(i for i, read in enumerate(reads) if not read[_SEQUENCE])
        mate, record = self._location(index)
        return mate.fault(
            f"{mate.name}, record {record} ({_name_of(reads[index])}): the read has no bases, "
            "which this mapper cannot read. Remove the pairs with such reads (cutadapt -m 1), or "
            "map with bwa.",
            record,
        )

    def _unequal(
        self, first_ended: bool, first: Iterator[Record], second: Iterator[Record], offset: int
    ) -> InputError:
        pairs = self.reads // 2 + offset
        if self._interleaved:
            return self._first.fault(
                f"{self._first.name} has an odd number of reads, {2 * pairs + 1}: the last one "
                "has no mate. The file is incomplete, or not interleaved.",
                2 * pairs + 1,
            )
        surplus, most = 1, ""
        for _ in second if first_ended else first:
            surplus += 1
            if surplus == _COUNTED_SURPLUS:
                most = "at least "
                break
        short, long = (self._first, self._second) if first_ended else (self._second, self._first)
        return short.fault(
            f"The files have different numbers of reads: {short.name} has {pairs}, "
            f"{long.name} has {most}{pairs + surplus}. One of them is incomplete.",
            pairs + 1,
        )


def _looks_like_phred64(qualities: bytes) -> bool:
    length = len(qualities)
    return (
        len(qualities.translate(None, BELOW_PHRED64)) == length
        and len(qualities.translate(None, _ABOVE_PHRED33)) < length
    )


def _is_printable(names: list[bytes]) -> bool:
    text = b"".join(names).decode("latin-1")
    return text.isascii() and text.isprintable()


def _name_of(read: Record) -> str:
    return read[0].partition(b" ")[0].decode("utf-8", "replace")


def _quoted(text: bytes) -> str:
    """Return the first 200 bytes, quoted for a message."""
    return repr(text[:200].decode("utf-8", "replace"))


def _same_file(first: str, second: str) -> bool:
    try:
        return Path(first).samefile(second)
    except OSError:
        return False
