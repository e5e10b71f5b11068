"""The attempts to fetch one file: what each asks for, and whether its answer can be believed."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import aiohttp

from wesemu.errors import InputError
from wesemu.transfers.checksums import SHA256, Checksum
from wesemu.transfers.errors import Passing
from wesemu.transfers.partial import Partial
from wesemu.transfers.source import Expected, Source, Tell

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Validators:
    """By which a server can say that a file is still the one that it was."""

    etag: str | None
    modified: str | None


class Effort:
    """The attempts to fetch one file."""

    def __init__(
        self,
        source: Source,
        partial: Partial,
        tell: Tell,
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
            and strong(answer.headers) == whole.etag
        )
        if not fits:
            await asyncio.to_thread(self.partial.discard)
            raise Passing("has changed while it was fetched")
        if whole.size is None and match is not None and match[2] != "*":
            self.partial.whole = replace(whole, size=int(match[2]))
        self._resumed = True
        await asyncio.to_thread(self.partial.go_on)

    async def check(self) -> None:
        """Size and checksums. Raises Passing, or InputError where another attempt is no use."""
        tally, whole = self.partial.tally, self.partial.whole
        if whole.size is not None and tally.size < whole.size:
            raise Passing(f"broke off after {tally.size} of {whole.size} bytes")
        too_long = whole.size is not None and tally.size > whole.size
        pinned = self.source.sha256
        pin = () if pinned is None else (Checksum(SHA256, bytes.fromhex(pinned)),)
        wrong = tally.differing((*pin, *whole.checksums))
        if wrong is None and not too_long:
            return
        await asyncio.to_thread(self.partial.close)
        await asyncio.to_thread(self.partial.discard)
        if too_long:
            raise Passing(f"sent {tally.size} bytes where {whole.size} were announced")
        assert wrong is not None
        last = self._differed or (wrong in pin and not self._resumed)
        self._differed, self._resumed = True, False
        reason = (
            f"arrived with the {wrong.algorithm} {(tally.value(wrong.algorithm) or b'').hex()}, "
            f"not {wrong.value.hex()} as {'the request' if wrong in pin else 'its server'} says"
        )
        if not last:
            raise Passing(reason)
        advice = "correct the checksum, or the address" if wrong in pin else "it is damaged there"
        raise InputError(f"{self.source.shown} {reason}; {advice}", file=self.source.shown)


def bare(etag: str | None) -> str:
    """What SDKs and servers agree on: without quotes, in lower case."""
    return (etag or "").strip('"').lower()


def strong(headers: Mapping[str, str]) -> str | None:
    """The strong ETag (RFC 9110, 8.8.3) in an answer's headers."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') and etag.endswith('"') and len(etag) > 2 else None
