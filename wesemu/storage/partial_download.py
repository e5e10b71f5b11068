"""The partial file of one download, which a later attempt resumes."""

import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from wesemu.errors import SystemFault
from wesemu.storage.checksums import Checksum, Crc64, RunningChecksums
from wesemu.util.text import os_reason

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ExpectedFile:
    """The file to receive, as the server describes it.

    `etag` is its strong ETag, `size` is in bytes; None if unknown.
    """

    etag: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


class PartialFile:
    """A partial file in `folder`.

    All methods block. Only one thread at a time may call them, except `close`. `close` keeps the
    received bytes if the remote file has a strong ETag: the next attempt then proves that it gets
    the rest of the same file (RFC 9110, section 13.1.5).
    """

    def __init__(self, folder: Path, name: str, crc64: Crc64 | None = None) -> None:
        self.path = folder / f"{name}.part"
        self._record = folder / f"{name}.json"
        self._crc64 = crc64
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._abandoned = False
        self._checksums = RunningChecksums((), crc64)
        self.expected = ExpectedFile()

    def resume_offset(self) -> int:
        """Return the number of bytes to resume from, and load `expected` of the saved download."""
        try:
            saved = json.loads(self._record.read_bytes())
            sums = tuple(Checksum(name, bytes.fromhex(text)) for name, text in saved["sums"])
            self.expected = ExpectedFile(str(saved["etag"]), saved["size"], sums)
            return self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def begin(self, expected: ExpectedFile) -> None:
        """Start with an empty file. Raise SystemFault if the disk has too little free space."""
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.discard()
        _check_free_space(self.path.parent, expected.size or 0)
        self.expected = expected
        if expected.etag is not None:
            sums = [[each.algorithm, each.value.hex()] for each in expected.checksums]
            record = {"etag": expected.etag, "size": expected.size, "sums": sums}
            self._record.write_text(json.dumps(record), encoding="utf-8")
        self._checksums = self._new_checksums()
        self._open("wb")

    def resume(self) -> None:
        """Continue at the end; reads the received bytes to compute the checksums."""
        self.close()
        self._checksums = self._new_checksums()
        with self.path.open("rb", buffering=0) as file:
            while chunk := file.read(_BLOCK):
                self._checksums.update(chunk)
        _check_free_space(self.path.parent, (self.expected.size or 0) - self._checksums.size)
        self._open("ab")

    def _open(self, mode: Literal["wb", "ab"]) -> None:
        with self._lock:
            if not self._abandoned:
                self._file = self.path.open(mode, buffering=0)

    def write(self, chunk: bytes) -> None:
        """Append the chunk. Raise SystemFault if the disk refuses it."""
        with self._lock:
            if self._file is None:  # closed by a cancelled request
                return
            view = memoryview(chunk)
            try:
                while view:
                    view = view[self._file.write(view) or 0 :]
            except OSError as error:
                raise SystemFault(
                    f"an input cannot be written: {os_reason(error)}; make room"
                ) from error
        self._checksums.update(chunk)

    @property
    def checksums(self) -> RunningChecksums:
        return self._checksums

    def finish(self) -> None:
        """Sync and close the file; the caller takes over `path`."""
        with self._lock:
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._file = None
        self._record.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and delete it if it cannot be resumed. Idempotent."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
                if self.expected.etag is None:
                    self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the file for good: a thread of a cancelled request may still run, and cannot open
        it again."""
        with self._lock:
            self._abandoned = True
        self.close()

    def discard(self) -> None:
        """Delete the file and its record."""
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _new_checksums(self) -> RunningChecksums:
        return RunningChecksums((each.algorithm for each in self.expected.checksums), self._crc64)


def _check_free_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SystemFault(
            f"an input needs {needed} bytes and the data directory's disk has {free} free; make "
            "room and send the request again"
        )
