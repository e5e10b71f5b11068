"""What is fetched: where it lies, how it is called, what is known of it beforehand."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from yarl import URL

from wesemu.errors import InvalidRequest
from wesemu.transfers.checksums import Checksum

Tell = Callable[[int, int | None], None]
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
        return shown(self.url)

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
            f"{shown(base)} ends with '#{fragment[:20]}…'; after # only sha256=<64 hexadecimal "
            "digits> may stand",
            field=field,
        )
    return base, match[1].lower()


def server_of(url: str) -> str:
    """Host and port of a URL, the port of its scheme where it names none."""
    parsed = URL(url)
    return f"{parsed.host}:{parsed.port}"


def shown(url: str) -> str:
    """A URL without query, fragment and user: what may stand in messages and records."""
    base, _, _ = url.partition("#")
    base, query, _ = base.partition("?")
    scheme, mark, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    text = f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else base
    text = text if len(text) <= 200 else f"{text[:200]}…"
    return f"{text}?…" if query else text
