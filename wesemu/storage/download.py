"""HTTP downloads: streamed to disk, resumed after failures, verified by size and checksum.

Responses are not decoded: the stored bytes are those that the server calls the file's.
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
from wesemu.storage.remote import RETRIED, ByteCallback, Expected, Source, redacted_url
from wesemu.storage.retry import DELAYS, Retry
from wesemu.util.ssrf import AddressGuard, AddressRefused, GuardedResolver

_WRITE_SIZE = 1 << 20
_MAX_REDIRECTS = 5
_CONNECT_SECONDS = 15.0
_MAX_RETRY_AFTER = 60.0
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_ADVICE = {
    301: "it is in another region: correct the bucket's region or endpoint",
    307: "it is in another region: correct the bucket's region or endpoint",
    401: "it needs credentials: use a signed URL",
    403: "it is not public, or its signed URL has expired: sign it again",
    404: "check the address",
    410: "it is gone: look for its new address",
}


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
        self._largest = largest
        self._delays = delays
        self._stall_seconds = stall_seconds
        self._now = now
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
        attempt = DownloadAttempt(source, partial, report, expected or Expected(), known)
        retry = Retry(source.display_name, self._delays)
        furthest = 0
        while True:
            try:
                return await self._fetch_once(attempt)
            except TransientError as failure:
                received = await asyncio.to_thread(partial.resume_offset)
                # A slow but progressing download may take any number of attempts.
                if received >= furthest + LEAST_BYTES:
                    retry.reset()
                furthest = max(furthest, received)
                await retry.wait_or_raise(failure)
            finally:
                await asyncio.to_thread(partial.close)

    async def _fetch_once(self, attempt: DownloadAttempt) -> ReceivedFile | None:
        partial, source = attempt.partial, attempt.source
        offset = await asyncio.to_thread(partial.resume_offset)
        async with self._open(source, attempt.headers(offset)) as response:
            match response.status:
                case 304 if attempt.is_conditional(offset):
                    return None
                case 206 if offset:
                    await attempt.resume(response, offset)
                case 200:
                    await self._start(attempt, response)
                case 416 if offset:  # the file is shorter than what has been received
                    await asyncio.to_thread(partial.discard)
                    raise TransientError("has changed while it was fetched")
                case status:
                    raise _status_error(source, status, response)
            await self._receive(attempt, response)
            await attempt.check()
            validators = Validators(
                response.headers.get("ETag"), response.headers.get("Last-Modified")
            )
        sha256 = partial.checksums.value(SHA256) or b""
        await asyncio.to_thread(partial.finish)
        return ReceivedFile(partial.checksums.size, sha256.hex(), validators)

    async def _start(self, attempt: DownloadAttempt, response: aiohttp.ClientResponse) -> None:
        size = response.content_length
        stated = attempt.expected
        etag = unquoted_etag(response.headers.get("ETag"))
        if stated.etag is not None and etag not in ("", unquoted_etag(stated.etag)):
            raise TransientError("has changed while it was fetched")
        if stated.size is not None and size not in (None, stated.size):
            raise TransientError(f"sends {size} bytes where its store states {stated.size}")
        if size is not None and size > self._largest:
            raise self._too_large(attempt.source, size)
        checksums = (*stated_checksums(response.headers), *stated.checksums)
        size = stated.size if size is None else size
        expected = ExpectedFile(strong_etag(response.headers), size, checksums)
        await asyncio.to_thread(attempt.partial.begin, expected)

    async def _receive(self, attempt: DownloadAttempt, response: aiohttp.ClientResponse) -> None:
        partial, pending = attempt.partial, bytearray()
        total = partial.expected.size
        guard = ThroughputGuard(self._now)
        try:
            async for chunk in response.content.iter_any():
                pending += chunk
                size = partial.checksums.size + len(pending)
                if size > self._largest:
                    raise self._too_large(attempt.source, size)
                guard.add(len(chunk), is_last=size == total)
                if len(pending) >= _WRITE_SIZE:
                    await asyncio.to_thread(partial.write, bytes(pending))
                    pending.clear()
                    attempt.report(partial.checksums.size, total)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await asyncio.to_thread(partial.write, bytes(pending))
            raise TransientError(f"broke off after {partial.checksums.size} bytes") from error
        except TransientError:
            await asyncio.to_thread(partial.write, bytes(pending))
            raise
        await asyncio.to_thread(partial.write, bytes(pending))
        attempt.report(partial.checksums.size, total)

    @asynccontextmanager
    async def _open(
        self, source: Source, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open the source and follow redirects, each checked like the first address."""
        address = await source.address()
        url = URL(address, encoded=address.isascii())  # do not requote a signed URL
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._request(source, url, headers) as response:
                target = response.headers.get("Location")
                # Only callers' addresses may redirect: signed URLs of settings do not.
                if (
                    response.status not in _REDIRECT_STATUSES
                    or target is None
                    or not source.guarded
                ):
                    yield response
                    return
            url = _redirect_target(source, url, target)
        message = f"{source.display_name} redirects more than {_MAX_REDIRECTS} times"
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

    def _too_large(self, source: Source, size: int) -> InputError:
        return InputError(
            f"{source.display_name} has {size} bytes or more and an input may have "
            f"{self._largest}; the setting inputs.largest_gib sets the limit",
            file=source.display_name,
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
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _seconds_until(text: str) -> float:
    return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
