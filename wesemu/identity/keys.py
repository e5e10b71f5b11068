"""An issuer's public keys (JWK Set, RFC 7517): read when they are needed, kept for an hour."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from wesemu.clock import Clock
from wesemu.errors import IssuerUnreachable, TokenRefused
from wesemu.runs.model import JsonObject

FRESH_SECONDS = 3600.0
"""After that the keys are read again."""

STALE_SECONDS = 24 * 3600.0
"""So long they are used nevertheless while the issuer does not answer."""

PAUSE_SECONDS = 30.0
"""Between two readings, whatever tokens come: an unknown key id must not become a flood."""

RETRY_SECONDS = 5.0
"""The same after a reading that failed."""

_KEYS_LIMIT = 100
_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The `kty` that an algorithm needs, by its first two letters. No symmetric one is among them."""

log = structlog.get_logger("wesemu.identity")


class KeySource(Protocol):
    """Where a JWK Set is read."""

    async def read(self) -> JsonObject:
        """Raises OSError, TimeoutError or ValueError, whose text says what was wrong."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Key:
    """A public key for signatures. `jwk` has its own members; `id` is its `kid`."""

    id: str | None
    type: str
    algorithm: str | None
    jwk: Mapping[str, Any]

    def fits(self, algorithm: str) -> bool:
        return self.type == _TYPES.get(algorithm[:2]) and self.algorithm in (None, algorithm)


def read_keys(document: JsonObject) -> tuple[Key, ...]:
    """The usable keys of a JWK Set; others are passed over (RFC 7517, 5). Raises ValueError."""
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise ValueError("it has no list of keys")
    keys = [_key(jwk) for jwk in listed[:_KEYS_LIMIT] if isinstance(jwk, dict)]
    usable = tuple(key for key in keys if key is not None)
    if not usable:
        raise ValueError("it has no public key for signatures (RSA, EC or OKP)")
    return usable


def _key(jwk: Mapping[str, Any]) -> Key | None:
    kind, operations = jwk.get("kty"), jwk.get("key_ops", ["verify"])
    if kind not in _TYPES.values() or jwk.get("use", "sig") != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    return Key(kid if isinstance(kid, str) else None, str(kind), algorithm, jwk)


class KeyRing:
    """Finds keys by id. However many ask, the source is read once at a time, and not again
    within `PAUSE_SECONDS`, or `RETRY_SECONDS` of a failure. `clock` is the wall clock."""

    def __init__(self, source: KeySource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._reading = asyncio.Lock()
        self._keys: tuple[Key, ...] = ()
        self._read: float | None = None
        self._tried: float | None = None
        self._problem = ""

    async def find(self, key_id: str | None, algorithm: str) -> Key:
        """Raises TokenRefused for a key that the issuer does not have, IssuerUnreachable."""
        if not self._within(self._read, FRESH_SECONDS):
            await self._refresh()
        found = _matching(self._keys, key_id, algorithm)
        if not found and await self._refresh():
            found = _matching(self._keys, key_id, algorithm)
        match found:
            case [key]:
                return key
            case []:
                raise TokenRefused("its issuer has no such key; get a new token")
            case _:
                raise TokenRefused("it does not say by which of the issuer's keys it is signed")

    async def close(self) -> None:
        await self._source.close()

    async def _refresh(self) -> bool:
        """Whether the keys were read anew. Raises IssuerUnreachable where there are none."""
        before = self._read
        async with self._reading:
            if self._read != before:
                return True  # somebody else's reading
            pause = RETRY_SECONDS if self._problem else PAUSE_SECONDS
            if not self._within(self._tried, pause):
                await self._try()
            if not self._within(self._read, STALE_SECONDS):
                raise IssuerUnreachable(
                    "the tokens' issuer cannot be asked for its keys (the server's log says why); "
                    f"try again in {RETRY_SECONDS:.0f} s"
                )
            return self._read != before

    async def _try(self) -> None:
        try:
            self._keys = read_keys(await self._source.read())
        except (OSError, TimeoutError, ValueError) as error:
            self._problem = str(error) or "no answer in time"
            log.warning("an issuer's keys cannot be read", problem=self._problem)
            return
        finally:
            self._tried = self._now()  # at its end: who waited meanwhile does not read once more
        self._read, self._problem = self._tried, ""

    def _within(self, moment: float | None, seconds: float) -> bool:
        """A clock that was set back makes nothing fresh."""
        return moment is not None and 0 <= self._now() - moment < seconds

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _matching(keys: Sequence[Key], key_id: str | None, algorithm: str) -> list[Key]:
    """With an id the key of that id; without one every key that fits (OpenID Connect, 10.1)."""
    fitting = [key for key in keys if key.fits(algorithm)]
    return fitting if key_id is None else [key for key in fitting if key.id == key_id][:1]
