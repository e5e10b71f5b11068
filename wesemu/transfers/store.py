"""What a remote bucket's service can do, whichever it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wesemu.transfers.checksums import Checksum

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
class Part:
    """A part of a multipart upload, from number 1."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Access:
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

    def send(self, key: str, upload: str, number: int, data: bytes, md5: bytes) -> Part: ...

    def parts(self, key: str, upload: str) -> list[Part] | None:
        """What has arrived; None where the upload is not known (any more)."""
        ...

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None: ...

    def abort(self, key: str, upload: str) -> None: ...
