"""A pair of FASTQ files, read once: checked, counted, handed on in batches.

Every fault ends in one `InputError` that names the file and the record (from 1). A mapper would
end with status 0 on half of them and drop the rest of the reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, FileIO
from itertools import chain, zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dnaio

from wesemu.errors import InputError
from wesemu.genomics.gzipped import GZIP_FAULTS, open_gzip
from wesemu.genomics.sniff import GZIP_MAGIC, looks_like

BATCH_BASES = 10_000_000
"""Bases after which a batch is cut; the value of `bwa mem -K` that the pipelines use."""

LONGEST_READ = 1000
"""Bases. bwa mem needs minutes for one read of a megabase; short-read machines stay below 700."""

_LONGEST_NAME = 254  # SAM specification 1.4, QNAME
_SEPARATOR = b"\n"
_BASES = b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv." + _SEPARATOR
_QUALITIES = bytes(range(33, 127)) + _SEPARATOR
_BELOW_PHRED64 = bytes(range(33, 59))
_ABOVE_PHRED33 = bytes(range(76, 127))
_DRAINED_BYTES = 64 << 20
_COUNTED_SURPLUS = 5_000_000

Record = dnaio.SequenceRecord


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole pairs in file order.

    `reads` is interleaved (first, second, first, …), `names` has one name a pair, without comment
    and without /1 or /2. `sequences` and `qualities` are those of `reads` joined by newlines.
    """

    reads: list[Record]
    names: list[str]
    sequences: bytes
    qualities: bytes

    def fastq(self) -> bytes:
        """The batch as interleaved FASTQ, both mates under the pair's name."""
        bases = self.sequences.split(_SEPARATOR)
        qualities = self.qualities.split(_SEPARATOR)
        names = [name.encode() for name in self.names for _ in range(2)]
        lines = chain.from_iterable(zip(names, bases, qualities, strict=True))
        return (b"@%b\n%b\n+\n%b\n" * len(names)) % tuple(lines)


class _Unreadable(Exception):
    """Reading stopped between two records; the pair reader knows after which."""

    def __init__(self, mate: "_Mate", what: str, advice: str) -> None:
        super().__init__(what)
        self.mate = mate
        self.what = what
        self.advice = advice

    def located(self, pairs: int) -> InputError:
        where = f" after record {pairs}" if pairs else ""
        return self.mate.fault(f"{self.mate.name}: {self.what}{where}. {self.advice}", pairs + 1)


class _Mate:
    """One of the two files. Iterating raises `InputError` for whatever is wrong with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._raw: BufferedReader[Any] = BufferedReader(FileIO(name), 1 << 17)
        except OSError as error:
            raise self.fault(f"The reads in {name} cannot be opened: {error.strerror}.") from error
        self._compressed = self._raw.peek(2)[:2] == GZIP_MAGIC
        self._file = self._raw
        if self._compressed:
            self._file = open_gzip(self._raw)

    def fault(self, message: str, record: int | None = None) -> InputError:
        return InputError(message, file=self.name, record=record)

    def records(self) -> Iterator[Record]:
        try:
            self._check_head(self._file.peek(64)[:64])
            yield from dnaio.FastqReader(self._file)
        except dnaio.FastqFormatError as error:
            try:
                self._drain()
            except GZIP_FAULTS as damage:
                raise self._unreadable(damage) from damage
            raise self._malformed(error) from error
        except GZIP_FAULTS as error:
            raise self._unreadable(error) from error

    def _check_head(self, head: bytes) -> None:
        if head and (not head.startswith(b"@") or head[:4] in (b"@HD\t", b"@SQ\t")):
            raise self.fault(
                f"{self.name} is not FASTQ: it looks like {looks_like(head)}. "
                "Give FASTQ, plain or gzip."
            )

    def _malformed(self, error: dnaio.FastqFormatError) -> Exception:
        if error.line is None:
            return _Unreadable(
                self, "characters that are not ASCII", "FASTQ is plain ASCII: check the file."
            )
        record = error.line // 4 + 1
        what = str(error).partition(": ")[2].rstrip(".") or str(error)
        hint = ""
        if "Premature end" in what:
            what = "the last record is cut or followed by blank lines"
            hint = " The file may have been cut while it was written or copied: fetch it again."
        elif "Length" in what:
            hint = " If this is the last record, the file has been cut: fetch it again."
        elif "'+'" in what:
            hint = " Sequences over several lines are not supported: write each on one line."
        return self.fault(
            f"{self.name}, record {record} (line {error.line + 1}): "
            f"{what[0].lower()}{what[1:]}.{hint}",
            record,
        )

    def _unreadable(self, error: Exception) -> _Unreadable:
        if isinstance(error, EOFError):
            what = "the gzip data ends too early, as in a file that was cut while it was copied"
        elif self._compressed:
            what = f"the gzip data is damaged ({error})"
        else:
            what = f"reading failed ({error})"
        return _Unreadable(self, what, "Fetch the file again.")

    def _drain(self) -> None:
        """Read on: where damaged gzip data made the bad record, the checksum tells."""
        left = _DRAINED_BYTES if self._compressed else 0
        while left > 0 and (block := self._file.read(1 << 20)):
            left -= len(block)

    def close(self) -> None:
        self._file.close()
        self._raw.close()


class PairedReader:
    """Iterates over the checked pairs of two FASTQ files in batches, once.

    A batch is cut where `bwa mem -K batch_bases` cuts: after the pair that reaches the number of
    bases. `reads` and `bases` count both mates of every batch handed out so far and are exact
    once the iteration has ended. Raises `InputError`.
    """

    def __init__(
        self,
        first: str,
        second: str,
        *,
        batch_bases: int = BATCH_BASES,
        longest: int = LONGEST_READ,
    ) -> None:
        self.reads = 0
        self.bases = 0
        self._batch_bases = batch_bases
        self._longest = longest
        if _same_file(first, second):
            raise InputError(
                f"{first} and {second} are the same file; give the two files of a pair.",
                file=second,
            )
        self._first = _Mate(first)
        try:
            self._second = _Mate(second)
        except InputError:
            self._first.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._first.close()
        self._second.close()

    def __iter__(self) -> Iterator[Batch]:
        reads: list[Record] = []
        names: list[str] = []
        bases = 0
        first, second = self._first.records(), self._second.records()
        try:
            for one, two in zip_longest(first, second):
                if one is None or two is None:
                    raise self._unequal(one is None, first, second, len(names))
                name: str = one.id
                if name != two.id or name[-2:-1] == "/":
                    name = self._common_name(one, two, len(names))
                if not 0 < len(name) <= _LONGEST_NAME:
                    raise self._bad_name(name, len(names))
                names.append(name)
                reads.append(one)
                reads.append(two)
                bases += len(one) + len(two)
                if bases >= self._batch_bases:
                    yield self._checked(reads, names, bases)
                    reads, names, bases = [], [], 0
        except (InputError, _Unreadable) as error:
            position = self.reads // 2 + len(names)
            if reads:  # what is wrong with the reads before came first
                self._checked(reads, names, bases)
            if isinstance(error, _Unreadable):
                raise error.located(position) from error.__cause__
            raise
        if reads:
            yield self._checked(reads, names, bases)
        if not self.reads:
            raise self._first.fault(
                f"{self._first.name} and {self._second.name} hold no reads. "
                "Were the files written completely?"
            )

    def _checked(self, reads: list[Record], names: list[str], bases: int) -> Batch:
        batch = Batch(
            reads,
            names,
            "\n".join([read.sequence for read in reads]).encode(),
            "\n".join([read.qualities or "" for read in reads]).encode(),
        )
        if not "".join(names).isprintable():
            raise self._first.fault(
                f"{self._first.name}: names with control characters near record "
                f"{self.reads // 2 + 1}."
            )
        if batch.sequences.translate(None, _BASES):
            raise self._bad_letter(reads, _BASES, "sequence")
        if batch.qualities.translate(None, _QUALITIES):
            raise self._bad_letter(reads, _QUALITIES, "quality")
        if max(map(len, reads)) > self._longest:
            raise self._too_long(reads)
        if not self.reads:
            self._check_start(batch)
        self.reads += len(reads)
        self.bases += bases
        return batch

    def _check_start(self, batch: Batch) -> None:
        """Whole-file mistakes that the first batch shows."""
        qualities = batch.qualities
        if len(qualities.translate(None, _BELOW_PHRED64)) == len(qualities) and len(
            qualities.translate(None, _ABOVE_PHRED33)
        ) < len(qualities):
            raise self._first.fault(
                f"{self._first.name} has qualities in the old Phred+64 encoding (Illumina before "
                "1.8); convert them to Phred+33 first, with `seqkit convert` or `reformat.sh`.",
                1,
            )
        pairs = len(batch.names)
        rows = batch.sequences.split(_SEPARATOR), batch.qualities.split(_SEPARATOR)
        if pairs > 1 and all(row[::2] == row[1::2] for row in rows):
            raise self._second.fault(
                f"{self._first.name} and {self._second.name} hold the same reads; "
                "give the two files of a pair.",
                1,
            )

    def _common_name(self, one: Record, two: Record, offset: int) -> str:
        """The name of a pair as bwa sees it: /1, /2 (any digit) are cut off, nothing else."""
        names = [_trimmed(one.id), _trimmed(two.id)]
        if names[0] == names[1]:
            return names[0]
        record = self.reads // 2 + offset + 1
        message = (
            f"The mates are out of step at record {record}: {self._first.name} has {one.id!r}, "
            f"{self._second.name} has {two.id!r}."
        )
        if names[0][:-1] == names[1][:-1] and names[0][-2:] == ".1" and names[1][-2:] == ".2":
            message += " Names in .1 and .2 are not taken for mates: use /1 and /2, or none."
        else:
            message += " A read is missing or extra in one of them, or they are not of one pair."
        raise self._second.fault(message, record)

    def _bad_name(self, name: str, offset: int) -> InputError:
        record = self.reads // 2 + offset + 1
        what = f"is longer than {_LONGEST_NAME} characters" if name else "is empty"
        return self._first.fault(f"{self._first.name}, record {record}: the name {what}.", record)

    def _culprit(self, index: int) -> tuple[_Mate, int]:
        return (self._second if index % 2 else self._first), self.reads // 2 + index // 2 + 1

    def _bad_letter(self, reads: list[Record], allowed: bytes, part: str) -> InputError:
        index = 0
        while not (wrong := _text(reads[index], part).translate(None, allowed)):
            index += 1
        mate, record = self._culprit(index)
        kind = "a base in IUPAC code" if part == "sequence" else "a quality"
        return mate.fault(
            f"{mate.name}, record {record} ({reads[index].id}): {wrong[:1].decode()!r} in the "
            f"{part} is not {kind}.",
            record,
        )

    def _too_long(self, reads: list[Record]) -> InputError:
        index = next(i for i, read in enumerate(reads) if len(read) > self._longest)
        mate, record = self._culprit(index)
        return mate.fault(
            f"{mate.name}, record {record} ({reads[index].id}): the read has {len(reads[index])} "
            f"bases; this short-read pipeline takes up to {self._longest}. "
            "Long reads need another mapper.",
            record,
        )

    def _unequal(
        self, first_ended: bool, first: Iterator[Record], second: Iterator[Record], offset: int
    ) -> InputError:
        pairs = self.reads // 2 + offset
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


def _text(read: Record, part: str) -> bytes:
    return (read.sequence if part == "sequence" else read.qualities or "").encode()


def _same_file(first: str, second: str) -> bool:
    try:
        return Path(first).samefile(second)
    except OSError:
        return False


def _trimmed(name: str) -> str:
    return name[:-2] if len(name) > 2 and name[-2] == "/" and name[-1].isdigit() else name
