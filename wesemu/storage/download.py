"""HTTP downloads: streamed to disk, resumed after failures, verified by size and checksum.

Responses are stored as sent: a Content-Encoding is not decoded.

The parts of this module are `HttpFetcher`, which opens URLs, the download of one file, and the
minimum throughput of a response.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from wesemu import __version__
from wesemu.errors import InputError, TransientError
from wesemu.storage.checksums import SHA256, Checksum, stated_checksums
from wesemu.storage.partial_download import ExpectedFile, PartialFile
from wesemu.storage.remote import RETRIED, ByteCallback, Expected, Source, redacted_url
from wesemu.storage.retry import DELAYS, Retry
from wesemu.util.ssrf import (
    MAX_REDIRECTS,
    REDIRECT_STATUSES,
    AddressGuard,
    AddressRefused,
    GuardedResolver,
)

_WRITE_SIZE = 1 << 20
_CONNECT_SECONDS = 15.0
_MAX_RETRY_AFTER = 60.0
_ADVICE = {
    301: "it is in another region: correct the bucket's region or endpoint",
    307: "it is in another region: correct the bucket's region or endpoint",
    401: "it needs credentials: use a signed URL",
    403: "it is not public, or its signed URL has expired: sign it again",
    404: "check the address",
    410: "it is gone: look for its new address",
}


@dataclass(frozen=True, slots=True)
class Validators:
    """The headers with which a server recognises an unchanged file."""

    etag: str | None
    modified: str | None


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A completed download; the file is at the `path` of its PartialFile."""

    size: int
    sha256: str
    validators: Validators


class HttpFetcher:
    """Downloads sources.

    `guard` restricts the addresses that callers choose. `largest` is in bytes. `stall_seconds` is
    the longest silence of a server. `now` returns seconds and measures the throughput.
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
        self.largest = largest
        self.delays = delays
        self._stall_seconds = stall_seconds
        self.now = now
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close the sessions; running downloads fail. Idempotent."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def fetch(
        self,
        source: Source,
        partial: PartialFile,
        report: ByteCallback,
        *,
        expected: Expected | None = None,
        known: Validators | None = None,
    ) -> ReceivedFile | None:
        """Download the file into `partial`; return None if it is still the `known` one.

        Raise InputError for a refusal, a wrong checksum and a too large file; RemoteFault if every
        attempt fails or is too slow; SystemFault for a full disk. Bytes of a file with a strong
        ETag are kept for the next call.
        """
        return await _Download(self, source, partial, report, expected or Expected(), known).run()

    @asynccontextmanager
    async def open(
        self, source: Source, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open the source and follow redirects, each checked like the first address."""
        address = await source.address()
        url = URL(address, encoded=address.isascii())  # do not requote a signed URL
        for _ in range(MAX_REDIRECTS + 1):
            async with self._request(source, url, headers) as response:
                target = response.headers.get("Location")
                # Only callers' addresses may redirect: signed URLs of settings do not.
                if response.status not in REDIRECT_STATUSES or target is None or not source.guarded:
                    yield response
                    return
            url = _redirect_target(source, url, target)
        message = f"{source.display_name} redirects more than {MAX_REDIRECTS} times"
        raise InputError(message, file=source.display_name)

    @asynccontextmanager
    async def _request(
        self, source: Source, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            if source.guarded:
                self._guard.check(str(url))
            session = self._session(source.guarded)
            async with asyncio.timeout(_CONNECT_SECONDS + self._stall_seconds):
                response = await session.get(url, headers=headers, allow_redirects=False)
        except AddressRefused as error:
            raise _address_error(source, url, error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # aiohttp wraps the error of the resolver, which refuses addresses, in its own.
            cause = getattr(error, "os_error", None) or error.__cause__
            if isinstance(cause, AddressRefused):
                raise _address_error(source, url, cause) from error
            if isinstance(error, aiohttp.InvalidURL):
                raise InputError(
                    f"{source.display_name} is not a URL that can be fetched",
                    file=source.display_name,
                ) from None
            raise TransientError(f"cannot be reached ({type(error).__name__})") from error
        try:
            yield response
        finally:
            response.close()

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


# The download of one file.

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Download:
    """Sends the requests of one download, validates the responses and writes the partial file."""

    def __init__(
        self,
        fetcher: HttpFetcher,
        source: Source,
        partial: PartialFile,
        report: ByteCallback,
        stated: Expected,
        known: Validators | None,
    ) -> None:
        self._fetcher = fetcher
        self._source = source
        self._partial = partial
        self._report = report
        self._stated = stated
        self._known = known
        self._resumed = False
        self._mismatched = False

    async def run(self) -> ReceivedFile | None:
        """Make attempts until one succeeds. Raise as `HttpFetcher.fetch`."""
        retry = Retry(self._source.display_name, self._fetcher.delays)
        furthest = 0
        while True:
            try:
                return await self._attempt()
            except TransientError as failure:
                received = await asyncio.to_thread(self._partial.resume_offset)
                # A slow but progressing download may take any number of attempts.
                if received >= furthest + LEAST_BYTES:
                    retry.reset()
                furthest = max(furthest, received)
                await retry.wait_or_raise(failure)
            except asyncio.CancelledError:
                await asyncio.to_thread(self._partial.abandon)
                raise
            finally:
                await asyncio.to_thread(self._partial.close)

    async def _attempt(self) -> ReceivedFile | None:
        partial = self._partial
        offset = await asyncio.to_thread(partial.resume_offset)
        headers = self._headers(offset)
        async with self._fetcher.open(self._source, headers) as response:
            match response.status:
                case 304 if headers and not offset:
                    return None
                case 206 if offset:
                    await self._resume(response, offset)
                case 200:
                    await self._start(response)
                case 416 if offset:  # the file is shorter than what has been received
                    await asyncio.to_thread(partial.discard)
                    raise TransientError("has changed while it was fetched")
                case status:
                    raise _status_error(self._source, status, response)
            await self._receive(response)
            await self._check()
            validators = Validators(
                response.headers.get("ETag"), response.headers.get("Last-Modified")
            )
        sha256 = partial.checksums.value(SHA256) or b""
        await asyncio.to_thread(partial.finish)
        return ReceivedFile(partial.checksums.size, sha256.hex(), validators)

    def _headers(self, offset: int) -> dict[str, str]:
        """Return the headers of the next request: for the rest of the file, or for a changed file
        only."""
        if offset:
            return {"Range": f"bytes={offset}-", "If-Range": self._partial.expected.etag or ""}
        if self._known is None:
            return {}
        if self._known.etag is not None:
            return {"If-None-Match": self._known.etag}
        if self._known.modified is not None:
            return {"If-Modified-Since": self._known.modified}
        return {}

    async def _start(self, response: aiohttp.ClientResponse) -> None:
        """Start with an empty file. Raise TransientError if the store states another file."""
        size, stated = response.content_length, self._stated
        etag = unquoted_etag(response.headers.get("ETag"))
        if stated.etag is not None and etag not in ("", unquoted_etag(stated.etag)):
            raise TransientError("has changed while it was fetched")
        if stated.size is not None and size not in (None, stated.size):
            raise TransientError(f"sends {size} bytes where its store states {stated.size}")
        if size is not None:
            self._check_size(size)
        checksums = (*stated_checksums(response.headers), *stated.checksums)
        size = stated.size if size is None else size
        expected = ExpectedFile(strong_etag(response.headers), size, checksums)
        await asyncio.to_thread(self._partial.begin, expected)

    async def _resume(self, response: aiohttp.ClientResponse, offset: int) -> None:
        """Resume with a 206 response. Raise TransientError if it is not the missing rest."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        expected = self._partial.expected
        is_rest = (
            match is not None
            and int(match[1]) == offset
            and (expected.size is None or match[2] in ("*", str(expected.size)))
            and strong_etag(response.headers) == expected.etag
        )
        if not is_rest:
            await asyncio.to_thread(self._partial.discard)
            raise TransientError("has changed while it was fetched")
        if expected.size is None and match is not None and match[2] != "*":
            self._partial.expected = replace(expected, size=int(match[2]))
        self._resumed = True
        await asyncio.to_thread(self._partial.resume)

    async def _receive(self, response: aiohttp.ClientResponse) -> None:
        partial, pending = self._partial, bytearray()
        total = partial.expected.size
        guard = ThroughputGuard(self._fetcher.now)
        try:
            async for chunk in response.content.iter_any():
                pending += chunk
                size = partial.checksums.size + len(pending)
                self._check_size(size)
                guard.add(len(chunk), is_last=size == total)
                if len(pending) >= _WRITE_SIZE:
                    await asyncio.to_thread(partial.write, bytes(pending))
                    pending.clear()
                    self._report(partial.checksums.size, total)
        except (aiohttp.ClientError, TimeoutError, OSError, TransientError) as error:
            await asyncio.to_thread(partial.write, bytes(pending))
            if isinstance(error, TransientError):
                raise
            raise TransientError(f"broke off after {partial.checksums.size} bytes") from error
        await asyncio.to_thread(partial.write, bytes(pending))
        self._report(partial.checksums.size, total)

    async def _check(self) -> None:
        """Verify size and checksums.

        Raise TransientError, or InputError if a further attempt would not help.
        """
        checksums, expected = self._partial.checksums, self._partial.expected
        if expected.size is not None and checksums.size < expected.size:
            raise TransientError(f"broke off after {checksums.size} of {expected.size} bytes")
        too_long = expected.size is not None and checksums.size > expected.size
        pinned = self._source.sha256
        pinned_checksums = () if pinned is None else (Checksum(SHA256, bytes.fromhex(pinned)),)
        wrong = checksums.first_mismatch((*pinned_checksums, *expected.checksums))
        if wrong is None and not too_long:
            return
        await asyncio.to_thread(self._partial.close)
        await asyncio.to_thread(self._partial.discard)
        if too_long:
            raise TransientError(
                f"sent {checksums.size} bytes where {expected.size} were announced"
            )
        assert wrong is not None
        # A mismatch after a resume may come from a damaged partial file: start again once.
        by_request = wrong in pinned_checksums
        last = self._mismatched or (by_request and not self._resumed)
        self._mismatched, self._resumed = True, False
        reason = (
            f"arrived with the {wrong.algorithm} "
            f"{(checksums.value(wrong.algorithm) or b'').hex()}, not {wrong.value.hex()} as "
            f"{'the request' if by_request else 'its server'} says"
        )
        if not last:
            raise TransientError(reason)
        advice = "correct the checksum, or the address" if by_request else "it is damaged there"
        name = self._source.display_name
        raise InputError(f"{name} {reason}; {advice}", file=name)

    def _check_size(self, size: int) -> None:
        """Raise InputError for a file of at least `size` bytes that is too large."""
        name, largest = self._source.display_name, self._fetcher.largest
        if size > largest:
            raise InputError(
                f"{name} has {size} bytes or more and an input may have {largest}; the setting "
                "inputs.largest_gib sets the limit",
                file=name,
            )


def _redirect_target(source: Source, url: URL, target: str) -> URL:
    try:
        next_url = url.join(URL(target, encoded=True)).with_fragment(None)
    except ValueError:
        next_url = URL()
    if next_url.scheme not in ("http", "https") or (url.scheme, next_url.scheme) == (
        "https",
        "http",
    ):
        raise InputError(
            f"{source.display_name} redirects to {redacted_url(str(next_url)) or 'no URL'}, which "
            f"is not followed from {url.scheme}",
            file=source.display_name,
        )
    return next_url


def _address_error(source: Source, url: URL, error: AddressRefused) -> InputError:
    redirect = (
        ""
        if redacted_url(str(url)) == source.display_name
        else f" (redirected to {redacted_url(str(url))})"
    )
    return InputError(
        f"{source.display_name}{redirect} is not fetched: {error}", file=source.display_name
    )


def _status_error(source: Source, status: int, response: aiohttp.ClientResponse) -> Exception:
    message = f"answered {status} {response.reason or ''}".strip()
    if status in RETRIED:
        return TransientError(message, after=_retry_after(response.headers.get("Retry-After", "")))
    advice = _ADVICE.get(status, "it cannot be fetched by a plain GET")
    return InputError(f"{source.display_name} {message}; {advice}", file=source.display_name)


def _retry_after(text: str) -> float:
    """Return Retry-After (RFC 9110, 10.2.3) in seconds, limited; 0 if it is invalid."""
    try:
        seconds = float(text) if text.isdecimal() else _seconds_until(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _seconds_until(text: str) -> float:
    return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()


def unquoted_etag(etag: str | None) -> str:
    """Return the ETag without quotes, in lower case; SDKs and servers differ in both."""
    return (etag or "").strip('"').lower()


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """Return the strong ETag (RFC 9110, 8.8.3) in the response headers, or None."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') and etag.endswith('"') and len(etag) > 2 else None


# The minimum throughput.

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
