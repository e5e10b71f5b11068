"""A native mapper, fed with checked reads, its SAM text passed on under our header."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from wesemu.genomics.alignment import Lane, MapperFailed
from wesemu.genomics.fastq import Batch

_BLOCK = 1 << 20
_HEADER_LINES = (b"@HD\t", b"@SQ\t", b"@RG\t", b"@PG\t", b"@CO\t")


class NativeMapper:
    """`command` reads interleaved pairs from its last argument "-", the reference before it.

    `header` makes the SAM header from the mapper's version; it is written before the first
    lane's alignments. One process a lane.
    """

    def __init__(
        self,
        command: Sequence[str],
        reference: str,
        *,
        threads: int,
        header: Callable[[str], str],
        output: BinaryIO,
    ) -> None:
        self._command = [*command, "-t", str(threads)]
        self._reference = reference
        self._header: Callable[[str], str] | None = header
        self._output = output.fileno()

    def map(self, lane: Lane, batches: Iterable[Batch]) -> None:
        """Align one lane. Raises `MapperFailed`, BrokenPipeError and what `batches` raises."""
        group = lane.read_group.replace("\t", "\\t")
        try:
            process = subprocess.Popen(
                [*self._command, "-R", group, self._reference, "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pipesize=_BLOCK,
            )
        except OSError as error:
            raise MapperFailed(f"{self._command[0]} cannot be started: {error}") from error
        feeder = _Feeder(process, batches)
        try:
            assert process.stdout is not None
            self._copy(process.stdout.fileno())
        except BaseException:
            process.kill()
            raise
        finally:
            feeder.join()
            status = process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        if feeder.error and not isinstance(feeder.error, BrokenPipeError):
            raise feeder.error
        if status or feeder.error:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise MapperFailed(f"{self._command[0]} {how}; its own message is above.")

    def _copy(self, source: int) -> None:
        """Replace the header, then move the alignments without looking at them."""
        header, rest = _read_header(source)
        if self._header is not None:
            _write_all(self._output, self._header(_program_version(header)).encode())
            self._header = None
        _write_all(self._output, rest)
        while _move(source, self._output):
            pass

    def close(self) -> None:
        """Nothing is held between lanes."""


class _Feeder(threading.Thread):
    """Writes batches to a mapper's stdin and closes it; keeps the first error."""

    def __init__(self, process: "subprocess.Popen[bytes]", batches: Iterable[Batch]) -> None:
        super().__init__(name="feed the mapper", daemon=True)
        self.error: Exception | None = None
        self._process = process
        self._batches = batches
        self.start()

    def run(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            for batch in self._batches:
                _write_all(stdin.fileno(), batch.fastq())
        except Exception as error:
            self.error = error
            # an early end of its input would look like the end of the reads
            self._process.kill()
        finally:
            stdin.close()


def _read_header(source: int) -> tuple[bytes, bytes]:
    """The header lines, and what was read after them."""
    data = b""
    position = 0
    while True:
        end = data.find(b"\n", position)
        if end < 0:
            block = os.read(source, _BLOCK)
            if not block:
                return data[:position], data[position:]
            data += block
        elif data[position : position + 4] in _HEADER_LINES:
            position = end + 1
        else:
            return data[:position], data[position:]


def _program_version(header: bytes) -> str:
    for line in header.decode(errors="replace").splitlines():
        if line.startswith("@PG\t"):
            for field in line.split("\t"):
                if field.startswith("VN:"):
                    return field[3:]
    return "unknown"


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _move(source: int, target: int) -> int:
    """Move up to a block from a pipe; 0 at its end."""
    if sys.platform == "linux":
        try:
            return os.splice(source, target, _BLOCK)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            # the target is opened for appending, or of a kind that cannot be spliced to
    block = os.read(source, _BLOCK)
    _write_all(target, block)
    return len(block)
