"""Fetching by HTTP: streamed to disk, gone on with after a break, checked by size and checksum.

No answer is decoded: what is stored is what the server calls the file's bytes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from wesemu import __version__
from wesemu.errors import InputError, TransientError
from wesemu.storage.checksums import SHA256, stated_checksums
from wesemu.storage.partial_download import (
    LEAST_BYTES,
    DownloadAttempt,
    ExpectedFile,
    PartialFile,
    ThroughputGuard,
    Validators,
    strong_etag,
    unquoted_etag,
)
from wesemu.storage.remote import ByteCallback, Expected, Source, redacted_url
from wesemu.storage.retry import DELAYS, Retry
from wesemu.util.ssrf import AddressGuard, AddressRefused, GuardedResolver

_WRITE_SIZE = 1 << 20
_REDIRECTS = 5
_CONNECT_SECONDS = 15.0
_LONGEST_PAUSE = 60.0
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_ADVICE = {
    301: "it lies in another region: correct the bucket's region or endpoint",
    307: "it lies in another region: correct the bucket's region or endpoint",
    401: "it wants credentials: use a URL that is signed",
    403: "it is not for everybody, or a signed URL is no longer good: sign it anew",
    404: "check the address",
    410: "it is gone: look for where it is now",
}


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file that has arrived whole; it lies where its Partial says."""

    size: int
    sha256: str
    validators: Validators


class HttpFetcher:
    """Fetches sources. `guard` says where those may lie that a caller chose.

    `largest` is in bytes; `stall_seconds` is how long a server may be silent. `now` tells
    seconds, by which it is seen whether a server sends too slowly.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        largest: int = 1 << 40,
        delays: Sequence[float] = DELAYS,
        stall_seconds: float = 60.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard = guard
        self._largest = largest
        self._delays = delays
        self._stall_seconds = stall_seconds
        self._now = now
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Idempotent; what is being fetched fails."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def fetch(
        self,
        source: Source,
        partial: PartialFile,
        tell: ByteCallback,
        *,
        expected: Expected | None = None,
        known: Validators | None = None,
    ) -> ReceivedFile | None:
        """Fetch the whole file into `partial`; None where it is still the one that is `known`.

        Raises InputError for what the server refuses, for a wrong checksum and for a file that is
        too large; RemoteFault where it fails, or comes too slowly, time after time; SystemFault
        for a full disk. What has arrived of a file with a strong ETag is gone on with next time.
        """
        effort = DownloadAttempt(source, partial, tell, expected or Expected(), known)
        patience = Retry(source.shown, self._delays)
        furthest = 0
        while True:
            try:
                return await self._attempt(effort)
            except TransientError as failure:
                arrived = await asyncio.to_thread(partial.arrived)
                if arrived >= furthest + LEAST_BYTES:
                    patience.renew()
                furthest = max(furthest, arrived)
                await patience.bear(failure)
            finally:
                await asyncio.to_thread(partial.close)

    async def _attempt(self, effort: DownloadAttempt) -> ReceivedFile | None:
        partial, source = effort.partial, effort.source
        offset = await asyncio.to_thread(partial.arrived)
        async with self._answer(source, effort.headers(offset)) as answer:
            match answer.status:
                case 304 if effort.asks_for_news(offset):
                    return None
                case 206 if offset:
                    await effort.go_on(answer, offset)
                case 200:
                    await self._begin(effort, answer)
                case 416 if offset:
                    await asyncio.to_thread(partial.discard)
                    raise TransientError("has changed while it was fetched")
                case status:
                    raise _refused(source, status, answer)
            await self._receive(effort, answer)
            await effort.check()
            validators = Validators(answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
        sha256 = partial.tally.value(SHA256) or b""
        await asyncio.to_thread(partial.finish)
        return ReceivedFile(partial.tally.size, sha256.hex(), validators)

    async def _begin(self, effort: DownloadAttempt, answer: aiohttp.ClientResponse) -> None:
        size = answer.content_length
        if unquoted_etag(answer.headers.get("ETag")) not in (
            "",
            unquoted_etag(effort.expected.etag),
        ) and (effort.expected.etag is not None):
            raise TransientError("has changed while it was fetched")
        if effort.expected.size is not None and size not in (None, effort.expected.size):
            raise TransientError(f"sends {size} bytes where its store tells {effort.expected.size}")
        if size is not None and size > self._largest:
            raise self._too_large(effort.source, size)
        checksums = (*stated_checksums(answer.headers), *effort.expected.checksums)
        size = effort.expected.size if size is None else size
        whole = ExpectedFile(strong_etag(answer.headers), size, checksums)
        await asyncio.to_thread(effort.partial.begin, whole)

    async def _receive(self, effort: DownloadAttempt, answer: aiohttp.ClientResponse) -> None:
        partial, pending = effort.partial, bytearray()
        total = partial.whole.size
        pace = ThroughputGuard(self._now)
        try:
            async for chunk in answer.content.iter_any():
                pending += chunk
                size = partial.tally.size + len(pending)
                if size > self._largest:
                    raise self._too_large(effort.source, size)
                pace.add(len(chunk), whole=size == total)
                if len(pending) >= _WRITE_SIZE:
                    await asyncio.to_thread(partial.write, bytes(pending))
                    pending.clear()
                    effort.tell(partial.tally.size, total)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await asyncio.to_thread(partial.write, bytes(pending))
            raise TransientError(f"broke off after {partial.tally.size} bytes") from error
        except TransientError:
            await asyncio.to_thread(partial.write, bytes(pending))
            raise
        await asyncio.to_thread(partial.write, bytes(pending))
        effort.tell(partial.tally.size, total)

    @asynccontextmanager
    async def _answer(
        self, source: Source, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer after redirects, each of which is checked like the first address."""
        address = await source.address()
        url = URL(address, encoded=address.isascii())  # what is signed stays as it is
        for _ in range(_REDIRECTS + 1):
            async with self._request(source, url, headers) as answer:
                target = answer.headers.get("Location")
                if answer.status not in _REDIRECTED or target is None or not source.guarded:
                    yield answer
                    return
            url = _next(source, url, target)
        told = f"{source.shown} redirects more than {_REDIRECTS} times"
        raise InputError(told, file=source.shown)

    @asynccontextmanager
    async def _request(
        self, source: Source, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            if source.guarded:
                self._guard.check(str(url))
            session = self._session(source.guarded)
            async with asyncio.timeout(_CONNECT_SECONDS + self._stall_seconds):
                answer = await session.get(url, headers=headers, allow_redirects=False)
        except AddressRefused as error:
            raise _not_there(source, url, error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            cause = getattr(error, "os_error", None) or error.__cause__
            if isinstance(cause, AddressRefused):
                raise _not_there(source, url, cause) from error
            if isinstance(error, aiohttp.InvalidURL):
                raise InputError(
                    f"{source.shown} is not a URL that can be asked for", file=source.shown
                ) from None
            raise TransientError(f"cannot be reached ({type(error).__name__})") from error
        try:
            yield answer
        finally:
            answer.close()

    def _session(self, guarded: bool) -> aiohttp.ClientSession:
        if guarded not in self._sessions:
            resolver = GuardedResolver(self._guard) if guarded else None
            self._sessions[guarded] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, force_close=True),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._stall_seconds
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={
                    "User-Agent": f"wesemu/{__version__}",
                    "Accept": "*/*",
                    "Accept-Encoding": "identity",
                },
            )
        return self._sessions[guarded]

    def _too_large(self, source: Source, size: int) -> InputError:
        return InputError(
            f"{source.shown} has {size} bytes or more and an input may have {self._largest}; the "
            "setting inputs.largest_gib says so",
            file=source.shown,
        )


def _next(source: Source, url: URL, target: str) -> URL:
    try:
        following = url.join(URL(target, encoded=True)).with_fragment(None)
    except ValueError:
        following = URL()
    if following.scheme not in ("http", "https") or (url.scheme, following.scheme) == (
        "https",
        "http",
    ):
        raise InputError(
            f"{source.shown} redirects to {redacted_url(str(following)) or 'no URL'}, which is not "
            f"followed from {url.scheme}",
            file=source.shown,
        )
    return following


def _not_there(source: Source, url: URL, error: AddressRefused) -> InputError:
    way = (
        ""
        if redacted_url(str(url)) == source.shown
        else f" (redirected to {redacted_url(str(url))})"
    )
    return InputError(f"{source.shown}{way} is not fetched: {error}", file=source.shown)


def _refused(source: Source, status: int, answer: aiohttp.ClientResponse) -> Exception:
    told = f"answered {status} {answer.reason or ''}".strip()
    if status in _PASSING:
        return TransientError(told, after=_pause(answer.headers.get("Retry-After", "")))
    advice = _ADVICE.get(status, "it cannot be fetched by a plain GET")
    return InputError(f"{source.shown} {told}; {advice}", file=source.shown)


def _pause(text: str) -> float:
    """Retry-After (RFC 9110, 10.2.3) in seconds, bounded; 0 where it makes no sense."""
    try:
        seconds = float(text) if text.isdecimal() else _until(text)
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE)


def _until(text: str) -> float:
    return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
