"""State of one download: minimum throughput, the partial file, and requests with their
validation.
"""

import asyncio
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import aiohttp

from wesemu.errors import InputError, SystemFault, TransientError
from wesemu.storage.checksums import SHA256, Checksum, Crc64, RunningChecksums
from wesemu.storage.remote import ByteCallback, Expected, Source
from wesemu.util.text import os_reason

WINDOW_SECONDS = 60.0
LEAST_BYTES = 60 << 10
"""The least bytes per window: 1 KiB per second."""


class ThroughputGuard:
    """Enforces a minimum throughput of one response. `now` returns seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = now()
        self._bytes = 0
        self._error: TransientError | None = None

    def add(self, size: int, *, is_last: bool) -> None:
        """Count received bytes. Raise TransientError for data after a window that was too slow.

        The last bytes of a file are not judged; `is_last` is True for them, as far as known.
        """
        if self._error is not None and not is_last:
            raise self._error
        self._bytes += size
        seconds = self._now() - self._began
        if seconds < WINDOW_SECONDS:
            return
        if self._bytes * WINDOW_SECONDS < LEAST_BYTES * seconds:
            self._error = TransientError(
                f"sends too slowly: {self._bytes} bytes in {seconds:.0f} seconds"
            )
        self._began += seconds
        self._bytes = 0


# Partial files.

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ExpectedFile:
    """The representation to receive: its strong ETag and size in bytes (None if unknown), and the
    checksums that the server states.
    """

    etag: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


class PartialFile:
    """A partial file in `folder`.

    All methods block; one thread at a time, except `close`. On `close` the received bytes are kept
    if a strong ETag can prove that the rest belongs to them (RFC 9110, 13.1.5).
    """

    def __init__(self, folder: Path, name: str, crc64: Crc64 | None = None) -> None:
        self.path = folder / f"{name}.part"
        self._record = folder / f"{name}.json"
        self._crc64 = crc64
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
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
        self._file = self.path.open("wb", buffering=0)

    def resume(self) -> None:
        """Continue at the end; reads the received bytes to compute the checksums."""
        self.close()
        self._checksums = self._new_checksums()
        with self.path.open("rb", buffering=0) as file:
            while chunk := file.read(_BLOCK):
                self._checksums.update(chunk)
        _check_free_space(self.path.parent, (self.expected.size or 0) - self._checksums.size)
        self._file = self.path.open("ab", buffering=0)

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


# Requests and responses of one download.

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Validators:
    """The headers with which a server recognises an unchanged file."""

    etag: str | None
    modified: str | None


class DownloadAttempt:
    """Builds the requests of one download and validates the responses."""

    def __init__(
        self,
        source: Source,
        partial: PartialFile,
        report: ByteCallback,
        expected: Expected,
        known: Validators | None,
    ) -> None:
        self.source = source
        self.partial = partial
        self.report = report
        self.expected = expected
        self._known = known
        self._resumed = False
        self._mismatched = False

    def headers(self, offset: int) -> dict[str, str]:
        if offset:
            return {"Range": f"bytes={offset}-", "If-Range": self.partial.expected.etag or ""}
        if self._known is None:
            return {}
        if self._known.etag is not None:
            return {"If-None-Match": self._known.etag}
        if self._known.modified is not None:
            return {"If-Modified-Since": self._known.modified}
        return {}

    def is_conditional(self, offset: int) -> bool:
        """Return True if the request allows the response 304 Not Modified."""
        return offset == 0 and bool(self.headers(0))

    async def resume(self, response: aiohttp.ClientResponse, offset: int) -> None:
        """Resume with a 206 response. Raise TransientError if it is not the missing rest."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        expected = self.partial.expected
        is_rest = (
            match is not None
            and int(match[1]) == offset
            and (expected.size is None or match[2] in ("*", str(expected.size)))
            and strong_etag(response.headers) == expected.etag
        )
        if not is_rest:
            await asyncio.to_thread(self.partial.discard)
            raise TransientError("has changed while it was fetched")
        if expected.size is None and match is not None and match[2] != "*":
            self.partial.expected = replace(expected, size=int(match[2]))
        self._resumed = True
        await asyncio.to_thread(self.partial.resume)

    async def check(self) -> None:
        """Verify size and checksums.

        Raise TransientError, or InputError if a further attempt would not help.
        """
        checksums, expected = self.partial.checksums, self.partial.expected
        if expected.size is not None and checksums.size < expected.size:
            raise TransientError(f"broke off after {checksums.size} of {expected.size} bytes")
        too_long = expected.size is not None and checksums.size > expected.size
        pinned = self.source.sha256
        pinned_checksums = () if pinned is None else (Checksum(SHA256, bytes.fromhex(pinned)),)
        wrong = checksums.first_mismatch((*pinned_checksums, *expected.checksums))
        if wrong is None and not too_long:
            return
        await asyncio.to_thread(self.partial.close)
        await asyncio.to_thread(self.partial.discard)
        if too_long:
            raise TransientError(
                f"sent {checksums.size} bytes where {expected.size} were announced"
            )
        assert wrong is not None
        # A mismatch after a resume may come from a damaged partial file: start again once.
        last = self._mismatched or (wrong in pinned_checksums and not self._resumed)
        self._mismatched, self._resumed = True, False
        reason = (
            f"arrived with the {wrong.algorithm} "
            f"{(checksums.value(wrong.algorithm) or b'').hex()}, "
            f"not {wrong.value.hex()} as "
            f"{'the request' if wrong in pinned_checksums else 'its server'} says"
        )
        if not last:
            raise TransientError(reason)
        advice = (
            "correct the checksum, or the address"
            if wrong in pinned_checksums
            else "it is damaged there"
        )
        raise InputError(
            f"{self.source.display_name} {reason}; {advice}", file=self.source.display_name
        )


def unquoted_etag(etag: str | None) -> str:
    """Return the ETag without quotes, in lower case; SDKs and servers differ in both."""
    return (etag or "").strip('"').lower()


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """Return the strong ETag (RFC 9110, 8.8.3) in the response headers, or None."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') and etag.endswith('"') and len(etag) > 2 else None
