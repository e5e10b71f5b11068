"""A bucket that lies elsewhere: its objects as sources, and as places for results."""

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from yarl import URL

from wesemu.errors import InputError, InvalidRequest, PermanentError
from wesemu.storage.buckets import check_key
from wesemu.storage.checksums import Checksum
from wesemu.storage.retry import DELAYS, with_retry

# Calls that block, on threads that nobody has to wait for.


_T = TypeVar("_T")


async def run_in_own_thread(work: Callable[[], _T], name: str) -> _T:
    """What `work` returns or raises, on a thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():  # who waited was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


# What a remote bucket's service can do, whichever it is.


DIGEST = "wesemu-sha256"
"""The metadata by which an object tells what this server has sent."""

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which a request is sent again."""


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """`sha256` is what this server said when it sent the object; others' have none."""

    size: int
    etag: str
    checksums: tuple[Checksum, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RemotePart:
    """A part of a multipart upload, from number 1."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """Where a bucket is, and the credentials for it; without any the service's usual places are
    looked into, unless `anonymous`. `endpoint` empty means the service's own."""

    bucket: str
    endpoint: str = ""
    region: str = ""
    key_id: str = ""
    secret: str = ""
    token: str = ""
    anonymous: bool = False
    path_style: bool = False

    def __repr__(self) -> str:
        """Nothing secret may come into a log by accident."""
        return f"Access({self.bucket!r}, {self.endpoint!r})"


class RemoteStore(Protocol):
    """One bucket. Every method blocks; raises Passing, or Refusal with the service's word."""

    def head(self, key: str) -> RemoteObject | None:
        """None where there is no such object."""
        ...

    def keys(self, prefix: str, limit: int) -> list[str]:
        """The first keys that begin with `prefix`, in order."""
        ...

    def sign(self, key: str, seconds: int) -> str:
        """A URL by which the object can be fetched for some time."""
        ...

    def put(self, key: str, data: bytes, md5: bytes, sha256: str) -> None: ...

    def begin(self, key: str, sha256: str) -> str:
        """Begin a multipart upload; returns its id."""
        ...

    def send(self, key: str, upload: str, number: int, data: bytes, md5: bytes) -> RemotePart: ...

    def parts(self, key: str, upload: str) -> list[RemotePart] | None:
        """What has arrived; None where the upload is not known (any more)."""
        ...

    def complete(self, key: str, upload: str, parts: Sequence[RemotePart]) -> None: ...

    def abort(self, key: str, upload: str) -> None: ...


# What is fetched: where it lies, how it is called, what is known of it beforehand.


ByteCallback = Callable[[int, int | None], None]
"""Is told, often: bytes so far, and bytes in all where that is known."""

_PIN = re.compile(r"sha256=([0-9a-fA-F]{64})")
_SIGNED = re.compile(
    r"x-(amz|oss|goog)-.*|signature|expires|ossaccesskeyid|awsaccesskeyid|googleaccessid"
    r"|security-token",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What its store tells of an object: `etag` changes with its bytes."""

    size: int | None = None
    etag: str | None = None
    checksums: tuple[Checksum, ...] = ()


class Source(Protocol):
    """A file elsewhere."""

    @property
    def shown(self) -> str:
        """Its name in messages, without anything secret."""
        ...

    @property
    def key(self) -> str:
        """Its name in the cache: one name, one file; its server is asked before it is given."""
        ...

    @property
    def asked(self) -> str:
        """All that its server decides by, signatures as well. Only those who ask the same share
        an answer."""
        ...

    @property
    def server(self) -> str:
        """Who sends it, whatever it is called: a host and its port."""
        ...

    @property
    def sha256(self) -> str | None:
        """What the caller says that it is, in lower-case hexadecimal."""
        ...

    @property
    def guarded(self) -> bool:
        """Whether a caller chose its address: then it has to be public, or allowed."""
        ...

    async def describe(self) -> Expected | None:
        """What can be known without fetching it; None where only fetching tells."""
        ...

    async def address(self) -> str:
        """An http(s) URL, good for the next attempt."""
        ...


@dataclass(frozen=True, slots=True)
class WebFile:
    """An http or https URL that a caller wrote; `#sha256=<hex>` at its end pins its content."""

    url: str = field(repr=False)
    sha256: str | None = None
    guarded: bool = True

    @property
    def shown(self) -> str:
        return redacted_url(self.url)

    @property
    def key(self) -> str:
        """Without what signs a URL: the server is asked each time, with the whole URL."""
        url = URL(self.url)
        kept = [(name, value) for name, value in url.query.items() if not _SIGNED.fullmatch(name)]
        return str(url.with_query(kept))

    @property
    def asked(self) -> str:
        return self.url

    @property
    def server(self) -> str:
        return server_of(self.url)

    async def describe(self) -> None:
        return None

    async def address(self) -> str:
        return self.url


def web_file(location: str, *, field: str | None = None) -> WebFile:
    """Raises InvalidRequest for a fragment that pins nothing."""
    url, pin = split_pin(location, field=field)
    return WebFile(url, pin)


def split_pin(location: str, *, field: str | None = None) -> tuple[str, str | None]:
    """A location without its `#sha256=…`, and that checksum. Raises InvalidRequest."""
    base, mark, fragment = location.partition("#")
    if not mark:
        return base, None
    match = _PIN.fullmatch(fragment)
    if match is None:
        raise InvalidRequest(
            f"{redacted_url(base)} ends with '#{fragment[:20]}…'; after # only sha256=<64 "
            "hexadecimal "
            "digits> may stand",
            field=field,
        )
    return base, match[1].lower()


def server_of(url: str) -> str:
    """Host and port of a URL, the port of its scheme where it names none."""
    parsed = URL(url)
    return f"{parsed.host}:{parsed.port}"


def redacted_url(url: str) -> str:
    """A URL without query, fragment and user: what may stand in messages and records."""
    base, _, _ = url.partition("#")
    base, query, _ = base.partition("?")
    scheme, mark, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    text = f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else base
    text = text if len(text) <= 200 else f"{text[:200]}…"
    return f"{text}?…" if query else text


_SIGNED_SECONDS = 3600
_MOST_KEYS = 10_000


class RemoteBucket:
    """The bucket that is called `name` here; keys lie below `prefix` there.

    The service's SDK is loaded and `connect` called when first needed. `part_size` in bytes.
    Buckets of one service have the same `server`.
    Methods raise InputError for what the service refuses, RemoteFault where it fails for good.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], RemoteStore],
        *,
        server: str,
        prefix: str = "",
        part_size: int = 16 << 20,
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self.name = name
        self.server = server
        self.part_size = part_size
        self._connect = connect
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._delays = delays
        self._store: RemoteStore | None = None
        self._connecting = threading.Lock()

    def shown(self, key: str) -> str:
        return f"oss://{self.name}/{key}"

    def check(self, key: str, *, field: str | None = None) -> None:
        """Raises InvalidRequest for a key that would leave the prefix or be no path."""
        check_key(key, field=field)

    async def find(self, key: str) -> RemoteObject | None:
        """The object of a key, None where there is none."""
        return await self.ask(key, lambda store, there: store.head(there))

    async def below(self, folder: str) -> list[str]:
        """The keys below a folder, relative to it; 10,000 at most."""
        start = f"{folder.rstrip('/')}/"
        keys = await self.ask(start, lambda store, there: store.keys(there, _MOST_KEYS))
        return [key.removeprefix(self._prefix + start) for key in keys if not key.endswith("/")]

    async def ask(self, key: str, question: Callable[[RemoteStore, str], _T]) -> _T:
        """What the service answers about a key, which is given to `question` as it is there."""

        async def attempt() -> _T:
            def work() -> _T:
                return question(self._connected(), self._prefix + key)

            return await run_in_own_thread(work, f"bucket {self.name}")

        name = self.shown(key)
        try:
            return await with_retry(name, attempt, self._delays)
        except PermanentError as refusal:
            raise InputError(
                f"{name} {refusal.reason}; look at the settings of remote_buckets.{self.name} and "
                "at what its credentials may do",
                file=name,
            ) from None

    def _connected(self) -> RemoteStore:
        with self._connecting:
            if self._store is None:
                self._store = self._connect()
            return self._store


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object of a remote bucket; implements `Source`. Nobody but the settings chose its
    address, which is signed for an hour."""

    bucket: RemoteBucket
    object_key: str
    sha256: str | None = None
    guarded: bool = False

    @property
    def shown(self) -> str:
        return self.bucket.shown(self.object_key)

    @property
    def key(self) -> str:
        return self.shown

    @property
    def asked(self) -> str:
        return self.shown

    @property
    def server(self) -> str:
        return self.bucket.server

    async def describe(self) -> Expected:
        found = await self.bucket.find(self.object_key)
        if found is None:
            raise InputError(
                f"{self.shown} is not there; upload it, or correct the key", file=self.shown
            )
        return Expected(found.size, found.etag, found.checksums)

    async def address(self) -> str:
        return await self.bucket.ask(
            self.object_key, lambda store, there: store.sign(there, _SIGNED_SECONDS)
        )
