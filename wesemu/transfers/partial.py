"""A file on its way in, which can be gone on with: `<name>.part`, and what it is a part of."""

import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wesemu.errors import SystemFault
from wesemu.objects.crc64 import Crc64
from wesemu.transfers.checksums import Checksum, Tally
from wesemu.wording import os_reason

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Whole:
    """The representation that arrives: its strong ETag if it has one, its size in bytes if it is
    known, and the checksums that its server tells."""

    etag: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


class Partial:
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
        self._tally = Tally((), crc64)
        self.whole = Whole()

    def arrived(self) -> int:
        """How many bytes can be gone on from; sets `whole` to what they are of."""
        try:
            told = json.loads(self._record.read_bytes())
            checksums = tuple(Checksum(name, bytes.fromhex(text)) for name, text in told["sums"])
            self.whole = Whole(str(told["etag"]), told["size"], checksums)
            return self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def begin(self, whole: Whole) -> None:
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
    def tally(self) -> Tally:
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

    def _new_tally(self) -> Tally:
        return Tally((each.algorithm for each in self.whole.checksums), self._crc64)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SystemFault(
            f"an input of {needed} bytes is to come and the data directory's disk has room for "
            f"{free}; make room and send the request again"
        )
