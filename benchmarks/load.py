"""Bounded load on a local server: 8 connections, each with one request at a time."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

LOOPBACK = "127.0.0.1"
_CONNECTIONS = 8
_MOST_REQUESTS = 50_000
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
_OK = b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of a load. `latencies` are in seconds, `seconds` is the total duration."""

    latencies: Sequence[float]
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


def load(
    port: int, paths: Sequence[str], seconds: float, *, most: int = _MOST_REQUESTS
) -> LoadResult:
    """GET `paths` in turns for `seconds`, at most `most` requests.

    Raise RuntimeError for a response other than 200, ConnectionError for a lost connection.
    """
    return asyncio.run(_load(port, paths, seconds, most))


async def _load(port: int, paths: Sequence[str], seconds: float, most: int) -> LoadResult:
    loop = asyncio.get_running_loop()
    source = _RequestSource(paths, most, time.perf_counter() + seconds)
    ended = [loop.create_future() for _ in range(_CONNECTIONS)]
    start = time.perf_counter()
    for future in ended:
        await loop.create_connection(partial(_Connection, source, future), LOOPBACK, port)
    await asyncio.gather(*ended)
    return LoadResult(source.latencies, time.perf_counter() - start)


class _RequestSource:
    """Yields the next request until the time or the number is exhausted; collects latencies."""

    def __init__(self, paths: Sequence[str], most: int, deadline: float) -> None:
        self.latencies: list[float] = []
        self._requests = cycle(
            [f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode() for path in paths]
        )
        self._left = most
        self._deadline = deadline

    def next(self) -> bytes | None:
        self._left -= 1
        if self._left < 0 or time.perf_counter() > self._deadline:
            return None
        return next(self._requests)


class _Connection(asyncio.Protocol):
    def __init__(self, source: _RequestSource, ended: "asyncio.Future[None]") -> None:
        self._source = source
        self._ended = ended
        self._received = bytearray()
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        length = response_length(self._received)
        if length is None or len(self._received) < length:
            return
        if not self._received.startswith(_OK):
            self._end(RuntimeError(self._received[:500].decode(errors="replace")))
            return
        self._source.latencies.append(time.perf_counter() - self._sent)
        del self._received[:length]
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(ConnectionError(f"the server closed a connection: {error}"))

    def _send(self) -> None:
        assert self._transport is not None
        request = self._source.next()
        if request is None:
            self._end(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def _end(self, error: Exception | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
        assert self._transport is not None
        self._transport.close()


def response_length(received: bytes | bytearray) -> int | None:
    """Return the length of the first response in `received`, None while its head is incomplete.

    Raise ValueError for a response without Content-Length.
    """
    end = received.find(_END_OF_HEAD)
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    start = head.find(_LENGTH)
    if start < 0:
        raise ValueError("the response has no Content-Length")
    return end + len(_END_OF_HEAD) + int(head[start + len(_LENGTH) :].split(b"\r\n", 1)[0])
