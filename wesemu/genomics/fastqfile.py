"""One FASTQ file, checked while it is read.

pysam's reader takes FASTA, cut records and wrong separators for reads; dnaio's does not.
"""

from collections.abc import Iterator
from io import BufferedReader, FileIO, RawIOBase
from typing import TYPE_CHECKING, Any

from wesemu.errors import InputError
from wesemu.genomics.gzipped import GZIP_FAULTS, open_gzip
from wesemu.genomics.sniff import GZIP_MAGIC, looks_like

if TYPE_CHECKING:
    from dnaio import FastqFormatError, SequenceRecord

_DRAINED_BYTES = 64 << 20
_BLOCK = 1 << 17


class Unreadable(Exception):
    """Reading stopped between two records; who counts them knows after which."""

    def __init__(self, file: "FastqFile", what: str, advice: str) -> None:
        super().__init__(what)
        self.file = file
        self.what = what
        self.advice = advice

    def located(self, records: int) -> InputError:
        where = f" after record {records}" if records else ""
        message = f"{self.file.name}: {self.what}{where}. {self.advice}"
        return self.file.fault(message, records + 1)


class FastqFile:
    """Raises `InputError` for whatever is wrong with the file, `Unreadable` where its position
    is for the caller to tell."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._raw: BufferedReader[Any] = BufferedReader(FileIO(name), _BLOCK)
        except OSError as error:
            raise self.fault(f"The reads in {name} cannot be opened: {error.strerror}.") from error
        self._compressed = self._raw.peek(2)[:2] == GZIP_MAGIC
        self._file = self._raw
        if self._compressed:
            self._file = open_gzip(self._raw)
        self._rest = _Rest(self._file)
        self._done = 0
        self.damaged = False

    def fault(self, message: str, record: int | None = None) -> InputError:
        return InputError(message, file=self.name, record=record)

    def read_block(self) -> bytes:
        """What comes next, up to 128 KiB; nothing at the end or where reading fails, which
        `damaged` tells and `records` raises."""
        if self.damaged:
            return b""
        try:
            return self._file.read1(_BLOCK)
        except GZIP_FAULTS as error:
            self._rest.fault = error
            self.damaged = True
            return b""

    def put_back(self, text: bytes, records: int) -> None:
        """Have `records` begin with `text`, which `read_block` gave, after that many records."""
        self._rest.seen = text
        self._done = records

    def records(self) -> "Iterator[SequenceRecord]":
        # where all reads are plain it is not needed, and takes longer to import than the rest
        import dnaio

        try:
            if not self._done:
                self._check_head(self._rest.head())
            yield from dnaio.FastqReader(self._rest)  # type: ignore[arg-type]
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

    def _malformed(self, error: "FastqFormatError") -> Exception:
        if error.line is None:
            return Unreadable(
                self, "characters that are not ASCII", "FASTQ is plain ASCII: check the file."
            )
        line = error.line + 4 * self._done
        record = line // 4 + 1
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
            f"{self.name}, record {record} (line {line + 1}): {what[0].lower()}{what[1:]}.{hint}",
            record,
        )

    def _unreadable(self, error: Exception) -> Unreadable:
        if isinstance(error, EOFError):
            what = "the gzip data ends too early, as in a file that was cut while it was copied"
        elif self._compressed:
            what = f"the gzip data is damaged ({error})"
        else:
            what = f"reading failed ({error})"
        return Unreadable(self, what, "Fetch the file again.")

    def _drain(self) -> None:
        """Read on: where damaged gzip data made the bad record, the checksum tells."""
        left = _DRAINED_BYTES if self._compressed else 0
        block = bytearray(1 << 20)
        while left > 0 and (size := self._rest.readinto(block)):
            left -= size

    def close(self) -> None:
        self._file.close()
        self._raw.close()


class _Rest(RawIOBase):
    """What was `seen` of a file but not used, then what follows, or the `fault` that ended it."""

    def __init__(self, file: "BufferedReader[Any]") -> None:
        self.seen = b""
        self.fault: Exception | None = None
        self._file = file

    def readable(self) -> bool:
        return True

    def head(self) -> bytes:
        """The first bytes, which stay to be read."""
        if not self.seen and self.fault is not None:
            raise self.fault
        return (self.seen or self._file.peek(64))[:64]

    def readinto(self, buffer: Any) -> int:
        if not self.seen:
            if self.fault is not None:
                raise self.fault
            return self._file.readinto(buffer)
        size = min(len(buffer), len(self.seen))
        buffer[:size] = self.seen[:size]
        self.seen = self.seen[size:]
        return size
