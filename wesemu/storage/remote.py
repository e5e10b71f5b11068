"""Remote buckets: the port to their SDKs, their objects as sources, and calls with retries.

The parts of this module are threads for blocking calls, the port `RemoteStore`, sources of inputs,
and `RemoteBucket`.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from yarl import URL

from wesemu.errors import InputError, InvalidRequest, PermanentError, TransientError
from wesemu.storage.buckets import check_key
from wesemu.storage.checksums import Checksum
from wesemu.storage.retry import DELAYS, with_retry
from wesemu.util.cancellation import result_despite_cancel

_T = TypeVar("_T")


async def run_in_own_thread(work: Callable[[], _T], name: str) -> _T:
    """Call `work` in a new daemon thread and return its result.

    A daemon thread that hangs in an SDK does not delay the server's exit. The worker threads of
    asyncio.to_thread and anyio do.
    """
    future: Future[_T] = Future()
    future.set_running_or_notify_cancel()  # a cancelled caller leaves the future as it is

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)


# The port to the SDKs of remote buckets.

DIGEST = "wesemu-sha256"
"""Metadata key for the SHA-256 of objects that this server has uploaded."""

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of responses after which a request is retried."""


class ObjectMissing(PermanentError):
    """The service responded 404."""


def status_error(status: int, reason: str) -> TransientError | PermanentError:
    """Return the error for a response with an error status."""
    if status in RETRIED:
        return TransientError(reason)
    return ObjectMissing(reason) if status == 404 else PermanentError(reason)


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object in a remote bucket; `sha256` is known for this server's own uploads only."""

    size: int
    etag: str
    checksums: tuple[Checksum, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RemotePart:
    """A part of a multipart upload; numbers start at 1."""

    number: int
    size: int
    etag: str


class RemoteBucketSettings(BaseModel):
    """A remote bucket; its key in `remote_buckets` is its local name."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["s3", "oss"]
    """The service: `s3` needs the extra `s3`, `oss` the extra `oss`."""

    bucket: str = ""
    """The remote name; empty: the local name."""

    prefix: str = ""
    """The remote folder that contains the keys; keys cannot leave it."""

    endpoint: str = ""
    """The service's URL; empty: Amazon's or Alibaba's, by region."""

    region: str = ""
    """The region, for signatures of version 4; OSS without a region uses version 1."""

    access_key_id: SecretStr = SecretStr("")
    """Empty: boto3's credential chain (`s3`), or OSS_ACCESS_KEY_ID … in the environment (`oss`)."""

    access_key_secret: SecretStr = SecretStr("")
    """The secret of `access_key_id`."""

    security_token: SecretStr = SecretStr("")
    """The token of temporary credentials."""

    anonymous: bool = False
    """Send no credentials, for public data."""

    path_style: bool = False
    """Put the bucket into the path instead of the host, as many self-hosted services need."""

    part_mib: int = Field(default=16, ge=5, le=5120)
    """Part size of multipart uploads in MiB; larger files are sent in parts."""

    @model_validator(mode="after")
    def _has_whole_credentials(self) -> Self:
        has_id = bool(self.access_key_id.get_secret_value())
        if has_id != bool(self.access_key_secret.get_secret_value()):
            raise ValueError("access_key_id and access_key_secret go together")
        if has_id and self.anonymous:
            raise ValueError("anonymous and access_key_id exclude each other")
        return self


class RemoteStore(Protocol):
    """One remote bucket.

    Every method blocks, and raises TransientError, or PermanentError with the service's reason.
    """

    def head(self, key: str) -> RemoteObject | None:
        """Return the object, or None if it does not exist."""
        ...

    def keys(self, prefix: str, limit: int) -> list[str]:
        """Return the first keys that begin with `prefix`, in order."""
        ...

    def sign(self, key: str, seconds: int) -> str:
        """Return a URL for downloading the object, valid for `seconds`."""
        ...

    def put(self, key: str, data: bytes, md5: bytes, sha256: str) -> None: ...

    def begin(self, key: str, sha256: str) -> str:
        """Start a multipart upload and return its id."""
        ...

    def send(self, key: str, upload: str, number: int, data: bytes, md5: bytes) -> RemotePart: ...

    def parts(self, key: str, upload: str) -> list[RemotePart] | None:
        """Return the uploaded parts, or None if the upload does not exist (any more)."""
        ...

    def complete(self, key: str, upload: str, parts: Sequence[RemotePart]) -> None: ...

    def abort(self, key: str, upload: str) -> None: ...


# Sources: what the download needs to know about a remote file.

ByteCallback = Callable[[int, int | None], None]
"""Receives bytes so far and total bytes (None if unknown). Called often."""

_PIN = re.compile(r"sha256=([0-9a-fA-F]{64})")
_SIGNED = re.compile(
    r"x-(amz|oss|goog)-.*|signature|expires|ossaccesskeyid|awsaccesskeyid|googleaccessid"
    r"|security-token",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the store states about an object; `etag` changes with its bytes."""

    size: int | None = None
    etag: str | None = None
    checksums: tuple[Checksum, ...] = ()


class Source(Protocol):
    """A remote file."""

    @property
    def display_name(self) -> str:
        """The name for messages, without secrets."""
        ...

    @property
    def cache_key(self) -> str:
        """The key in the cache. The server is asked for changes before a cached file is used."""
        ...

    @property
    def identity(self) -> str:
        """Everything that determines the response, including signatures. Only requests with the
        same identity share one download.
        """
        ...

    @property
    def server(self) -> str:
        """Host and port of the server, for the limit of downloads per server."""
        ...

    @property
    def sha256(self) -> str | None:
        """The expected SHA-256 in lower-case hexadecimal, if the caller has pinned it."""
        ...

    @property
    def guarded(self) -> bool:
        """True if a caller has chosen the address, which then has to be public or allowed."""
        ...

    async def describe(self) -> Expected | None:
        """Return what the store states about the file; None if a download has to find it out."""
        ...

    async def address(self) -> str:
        """Return an http(s) URL that is valid for the next attempt."""
        ...


@dataclass(frozen=True, slots=True)
class WebFile:
    """An http or https URL from a request; `#sha256=<hex>` at its end pins the content."""

    url: str = field(repr=False)
    sha256: str | None = None
    guarded: bool = True

    @property
    def display_name(self) -> str:
        return redacted_url(self.url)

    @property
    def cache_key(self) -> str:
        """The URL without its signature, which changes. Requests use the whole URL."""
        url = URL(self.url)
        kept = [(name, value) for name, value in url.query.items() if not _SIGNED.fullmatch(name)]
        return str(url.with_query(kept))

    @property
    def identity(self) -> str:
        return self.url

    @property
    def server(self) -> str:
        return server_of(self.url)

    async def describe(self) -> None:
        return None

    async def address(self) -> str:
        return self.url


def web_file(location: str, *, field: str | None = None) -> WebFile:
    """Parse a URL with an optional pin. Raise InvalidRequest for any other fragment."""
    url, pin = split_pin(location, field=field)
    return WebFile(url, pin)


def split_pin(location: str, *, field: str | None = None) -> tuple[str, str | None]:
    """Split a location from its `#sha256=…`. Raise InvalidRequest for any other fragment."""
    base, mark, fragment = location.partition("#")
    if not mark:
        return base, None
    match = _PIN.fullmatch(fragment)
    if match is None:
        raise InvalidRequest(
            f"{redacted_url(base)} ends with '#{fragment[:20]}…'; after # only "
            "sha256=<64 hexadecimal digits> is allowed",
            field=field,
        )
    return base, match[1].lower()


def server_of(url: str) -> str:
    """Return host and port of a URL; the scheme's default port if the URL has none."""
    parsed = URL(url)
    return f"{parsed.host}:{parsed.port}"


def redacted_url(url: str) -> str:
    """Return the URL without query, fragment and user, for messages and records."""
    base, _, _ = url.partition("#")
    base, query, _ = base.partition("?")
    scheme, mark, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    text = f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else base
    text = text if len(text) <= 200 else f"{text[:200]}…"
    return f"{text}?…" if query else text


_SIGNED_SECONDS = 3600
_FINAL_SECONDS = 10.0
_MAX_KEYS = 10_000


class RemoteBucket:
    """A remote bucket, named `name` in locations; keys are below `prefix` in the real bucket.

    The first call imports the SDK and connects. `part_size` is in bytes. Buckets of one service
    have the same `server`.

    Methods raise InputError if the service refuses, RemoteFault after the last retry.
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

    def url(self, key: str) -> str:
        return f"oss://{self.name}/{key}"

    def check(self, key: str, *, field: str | None = None) -> None:
        """Raise InvalidRequest for a key that leaves the prefix or is not a path."""
        check_key(key, field=field)

    async def find(self, key: str) -> RemoteObject | None:
        """Return the object of a key, or None."""
        return await self.call(key, lambda store, remote_key: store.head(remote_key))

    async def list_folder(self, folder: str) -> list[str]:
        """Return the keys in a folder, relative to it. Raise InputError for more than 10,000."""
        start = f"{folder.rstrip('/')}/"
        most = _MAX_KEYS + 1
        keys = await self.call(start, lambda store, remote_key: store.keys(remote_key, most))
        if len(keys) == most:
            name = self.url(start)
            raise InputError(
                f"the folder {name} holds more than {_MAX_KEYS:,} objects; name the files, or put "
                "the inputs into a folder of their own",
                file=name,
            )
        return [key.removeprefix(self._prefix + start) for key in keys if not key.endswith("/")]

    async def call(
        self, key: str, operation: Callable[[RemoteStore, str], _T], *, final: bool = False
    ) -> _T:
        """Call `operation` with the store and the full key, in a thread and with retries.

        `final`: the operation creates an object. A cancel then waits for the attempt in progress,
        at most 10 s, and has no effect if the attempt succeeds.
        """

        async def attempt() -> _T:
            def work() -> _T:
                return operation(self._connected(), self._prefix + key)

            call = run_in_own_thread(work, f"bucket {self.name}")
            if final:
                return await result_despite_cancel(call, f"bucket {self.name}", _FINAL_SECONDS)
            return await call

        name = self.url(key)
        try:
            return await with_retry(name, attempt, self._delays)
        except PermanentError as error:
            raise InputError(
                f"{name} {error.reason}; check the settings of remote_buckets.{self.name} and "
                "the permissions of its credentials",
                file=name,
            ) from None

    def _connected(self) -> RemoteStore:
        with self._connecting:
            if self._store is None:
                self._store = self._connect()
            return self._store


@dataclass(frozen=True, slots=True)
class RemoteKey:
    """A key of a remote bucket; `sha256` is the pinned checksum of its content.

    Implements `Source` for the object at the key. The settings have chosen its address. Download
    URLs are signed for an hour.
    """

    bucket: RemoteBucket
    key: str
    sha256: str | None = None
    guarded: bool = False

    @property
    def display_name(self) -> str:
        return self.bucket.url(self.key)

    @property
    def cache_key(self) -> str:
        return self.display_name

    @property
    def identity(self) -> str:
        return self.display_name

    @property
    def server(self) -> str:
        return self.bucket.server

    async def describe(self) -> Expected:
        remote = await self.bucket.find(self.key)
        if remote is None:
            raise InputError(
                f"{self.display_name} is not there; upload it, or correct the key",
                file=self.display_name,
            )
        return Expected(remote.size, remote.etag, remote.checksums)

    async def address(self) -> str:
        return await self.bucket.call(
            self.key, lambda store, remote_key: store.sign(remote_key, _SIGNED_SECONDS)
        )
