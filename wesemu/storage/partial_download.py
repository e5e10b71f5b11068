"""One download: its requests, what has arrived of it, and its least throughput."""

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
"""In each window: 1 KiB a second."""


class ThroughputGuard:
    """The bytes of one answer as they come. `now` tells seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = now()
        self._bytes = 0
        self._verdict: TransientError | None = None

    def add(self, size: int, *, whole: bool) -> None:
        """Raises Passing when more comes after a window that brought too little: the end of a
        file may be short, and is not judged. `whole`: this was the end, as far as it is known."""
        if self._verdict is not None and not whole:
            raise self._verdict
        self._bytes += size
        passed = self._now() - self._began
        if passed < WINDOW_SECONDS:
            return
        if self._bytes * WINDOW_SECONDS < LEAST_BYTES * passed:
            self._verdict = TransientError(
                f"sends too slowly: {self._bytes} bytes in {passed:.0f} seconds"
            )
        self._began += passed
        self._bytes = 0


_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ExpectedFile:
    """The representation that arrives: its strong ETag if it has one, its size in bytes if it is
    known, and the checksums that its server tells."""

    etag: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


class PartialFile:
    """One file below `folder`. All methods block; one thread at a time, but for `close`.

    What has arrived is kept when this is closed, and gone on with where the server can prove that
    the rest belongs to it: by a strong ETag (RFC 9110, 13.1.5).
    """

    def __init__(self, folder: Path, name: str, crc64: Crc64 | None = None) -> None:
        self.path = folder / f"{name}.part"
        self._record = folder / f"{name}.json"
        self._crc64 = crc64
        self._file: BinaryIO | None = None
        self._using = threading.Lock()
        self._tally = RunningChecksums((), crc64)
        self.whole = ExpectedFile()

    def arrived(self) -> int:
        """How many bytes can be gone on from; sets `whole` to what they are of."""
        try:
            told = json.loads(self._record.read_bytes())
            checksums = tuple(Checksum(name, bytes.fromhex(text)) for name, text in told["sums"])
            self.whole = ExpectedFile(str(told["etag"]), told["size"], checksums)
            return self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def begin(self, whole: ExpectedFile) -> None:
        """Take bytes from the first one on. Raises SystemFault where the disk has no room."""
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.discard()
        _check_room(self.path.parent, whole.size or 0)
        self.whole = whole
        if whole.etag is not None:
            sums = [[each.algorithm, each.value.hex()] for each in whole.checksums]
            record = {"etag": whole.etag, "size": whole.size, "sums": sums}
            self._record.write_text(json.dumps(record), encoding="utf-8")
        self._tally = self._new_tally()
        self._file = self.path.open("wb", buffering=0)

    def go_on(self) -> None:
        """Take bytes from the last one on; reads what has arrived, for the checksums."""
        self.close()
        self._tally = self._new_tally()
        with self.path.open("rb", buffering=0) as file:
            while chunk := file.read(_BLOCK):
                self._tally.update(chunk)
        _check_room(self.path.parent, (self.whole.size or 0) - self._tally.size)
        self._file = self.path.open("ab", buffering=0)

    def write(self, chunk: bytes) -> None:
        """Raises SystemFault where the disk takes no more."""
        with self._using:
            if self._file is None:  # closed meanwhile
                return
            view = memoryview(chunk)
            try:
                while view:
                    view = view[self._file.write(view) or 0 :]
            except OSError as error:
                raise SystemFault(
                    f"an input cannot be written: {os_reason(error)}; make room"
                ) from error
        self._tally.update(chunk)

    @property
    def tally(self) -> RunningChecksums:
        return self._tally

    def finish(self) -> None:
        """Make it durable and close it; `path` is the caller's from now on."""
        with self._using:
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._file = None
        self._record.unlink(missing_ok=True)

    def close(self) -> None:
        """Idempotent. What can never be gone on with goes."""
        with self._using:
            if self._file is not None:
                self._file.close()
                self._file = None
                if self.whole.etag is None:
                    self.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Begin anew next time."""
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _new_tally(self) -> RunningChecksums:
        return RunningChecksums((each.algorithm for each in self.whole.checksums), self._crc64)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SystemFault(
            f"an input of {needed} bytes is to come and the data directory's disk has room for "
            f"{free}; make room and send the request again"
        )


_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Validators:
    """By which a server can say that a file is still the one that it was."""

    etag: str | None
    modified: str | None


class DownloadAttempt:
    """The attempts to fetch one file."""

    def __init__(
        self,
        source: Source,
        partial: PartialFile,
        tell: ByteCallback,
        expected: Expected,
        known: Validators | None,
    ) -> None:
        self.source = source
        self.partial = partial
        self.tell = tell
        self.expected = expected
        self._known = known
        self._resumed = False
        self._differed = False

    def headers(self, offset: int) -> dict[str, str]:
        if offset:
            return {"Range": f"bytes={offset}-", "If-Range": self.partial.whole.etag or ""}
        if self._known is None:
            return {}
        if self._known.etag is not None:
            return {"If-None-Match": self._known.etag}
        if self._known.modified is not None:
            return {"If-Modified-Since": self._known.modified}
        return {}

    def asks_for_news(self, offset: int) -> bool:
        """Whether "not modified" is an answer to what `headers` asks."""
        return offset == 0 and bool(self.headers(0))

    async def go_on(self, answer: aiohttp.ClientResponse, offset: int) -> None:
        """Raises Passing where the answer is not the rest of what has arrived."""
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        whole = self.partial.whole
        fits = (
            match is not None
            and int(match[1]) == offset
            and (whole.size is None or match[2] in ("*", str(whole.size)))
            and strong_etag(answer.headers) == whole.etag
        )
        if not fits:
            await asyncio.to_thread(self.partial.discard)
            raise TransientError("has changed while it was fetched")
        if whole.size is None and match is not None and match[2] != "*":
            self.partial.whole = replace(whole, size=int(match[2]))
        self._resumed = True
        await asyncio.to_thread(self.partial.go_on)

    async def check(self) -> None:
        """Size and checksums. Raises Passing, or InputError where another attempt is no use."""
        tally, whole = self.partial.tally, self.partial.whole
        if whole.size is not None and tally.size < whole.size:
            raise TransientError(f"broke off after {tally.size} of {whole.size} bytes")
        too_long = whole.size is not None and tally.size > whole.size
        pinned = self.source.sha256
        pin = () if pinned is None else (Checksum(SHA256, bytes.fromhex(pinned)),)
        wrong = tally.first_mismatch((*pin, *whole.checksums))
        if wrong is None and not too_long:
            return
        await asyncio.to_thread(self.partial.close)
        await asyncio.to_thread(self.partial.discard)
        if too_long:
            raise TransientError(f"sent {tally.size} bytes where {whole.size} were announced")
        assert wrong is not None
        last = self._differed or (wrong in pin and not self._resumed)
        self._differed, self._resumed = True, False
        reason = (
            f"arrived with the {wrong.algorithm} {(tally.value(wrong.algorithm) or b'').hex()}, "
            f"not {wrong.value.hex()} as {'the request' if wrong in pin else 'its server'} says"
        )
        if not last:
            raise TransientError(reason)
        advice = "correct the checksum, or the address" if wrong in pin else "it is damaged there"
        raise InputError(f"{self.source.shown} {reason}; {advice}", file=self.source.shown)


def unquoted_etag(etag: str | None) -> str:
    """What SDKs and servers agree on: without quotes, in lower case."""
    return (etag or "").strip('"').lower()


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """The strong ETag (RFC 9110, 8.8.3) in an answer's headers."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') and etag.endswith('"') and len(etag) > 2 else None
