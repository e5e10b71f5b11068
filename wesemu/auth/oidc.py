"""JSON Web Tokens of one issuer (RFC 7519), checked as RFC 8725 advises. Needs PyJWT."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import jwt
import structlog
from yarl import URL

from wesemu import __version__
from wesemu.errors import IssuerUnreachable, ScopeMissing, TokenRefused
from wesemu.runs.clock import Clock
from wesemu.runs.model import JsonObject, Owner

# An issuer's public keys (JWK Set, RFC 7517): read when they are needed, kept for an hour.


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


class JwksCache:
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


# Where an issuer's keys are read: by its discovery document, at a URL, or in a file.


_DISCOVERY = "/.well-known/openid-configuration"
_TIMEOUT_SECONDS = 5.0
_LONGEST_DOCUMENT = 1 << 20


def key_source(issuer: str, jwks: str) -> KeySource:
    """`jwks` is the URL of a key set or a file with one; empty: the issuer says where it is."""
    if not jwks:
        return DiscoveredKeys(issuer)
    return KeyUrl(jwks) if "://" in jwks else KeyFile(Path(jwks))


class KeyFile:
    """A JWK Set on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> JsonObject:
        return _parse(await asyncio.to_thread(self._path.read_bytes), str(self._path))

    async def close(self) -> None:
        """Nothing is open."""


class KeyUrl:
    """A JWK Set on the web. Redirects are not followed: the operator has named the place."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> JsonObject:
        return await self._get(self._url)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str) -> JsonObject:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"wesemu/{__version__}", "Accept": "application/json"},
            )
        try:
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ValueError(f"{url} answered {answer.status}")
                content = bytearray()
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > _LONGEST_DOCUMENT:
                        raise ValueError(f"{url} sends more than {_LONGEST_DOCUMENT} bytes")
                return _parse(bytes(content), url)
        except TimeoutError as error:
            raise TimeoutError(f"{url} gave no answer within {_TIMEOUT_SECONDS:.0f} s") from error
        except aiohttp.ClientError as error:
            raise OSError(f"{url}: {error}") from error


class DiscoveredKeys(KeyUrl):
    """As OpenID Connect Discovery 1.0 has it: the issuer's document says where its keys are."""

    def __init__(self, issuer: str) -> None:
        super().__init__(issuer.rstrip("/") + _DISCOVERY)
        self._issuer = issuer

    async def read(self) -> JsonObject:
        document = await self._get(self._url)
        if document.get("issuer") != self._issuer:
            raise ValueError(
                f"{self._url} is of the issuer {str(document.get('issuer'))[:200]!r}, not of "
                f"{self._issuer!r}"
            )
        return await self._get(_usable(str(document.get("jwks_uri")), self._issuer))


def _usable(url: str, issuer: str) -> str:
    """What was asked for safely is not gone on with unsafely."""
    schemes = ("https",) if URL(issuer).scheme == "https" else ("https", "http")
    if URL(url).scheme not in schemes:
        raise ValueError(f"the issuer's jwks_uri is {url[:200]!r}, no {' or '.join(schemes)} URL")
    return url


def _parse(content: bytes, place: str) -> JsonObject:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{place} holds no JSON object")
    return document


ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Signatures by a private key only: with `none` anybody could make tokens, with HS* whoever knows
what verifies them."""

_LONGEST = 16 << 10
_LONGEST_OWNER = 255


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What a token has to say. `audiences`: one of them; `scopes`: all of them; `owner_claim`
    names its bearer. Times may be wrong by `leeway` seconds."""

    issuer: str
    audiences: Sequence[str]
    owner_claim: str = "sub"
    scopes: Sequence[str] = ()
    leeway: float = 30.0


class TokenVerifier:
    """Tells the owner that a token stands for. `clock` is the wall clock, never the emulated one:
    issuers know no other."""

    def __init__(self, ring: JwksCache, demands: TokenPolicy, clock: Clock) -> None:
        self._ring = ring
        self._demands = demands
        self._clock = clock

    async def owner(self, token: str) -> Owner:
        """Raises TokenRefused, ScopeMissing (of a valid token), IssuerUnreachable."""
        claims = await self._claims(token)
        self._check_times(claims)
        self._check_scopes(claims)
        owner = claims.get(self._demands.owner_claim)
        if not isinstance(owner, str) or not owner or not owner.isprintable():
            raise ScopeMissing(
                f"the token is valid, but its claim {self._demands.owner_claim!r} names nobody"
            )
        if len(owner) > _LONGEST_OWNER:
            raise ScopeMissing(
                f"the token's claim {self._demands.owner_claim!r} has more than "
                f"{_LONGEST_OWNER} letters"
            )
        return Owner(owner)

    async def close(self) -> None:
        await self._ring.close()

    async def _claims(self, token: str) -> Mapping[str, Any]:
        """Of a token that the issuer has signed for this server."""
        if len(token) > _LONGEST:
            raise TokenRefused("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS:
                raise TokenRefused(
                    f"its algorithm is {str(algorithm)[:20]!r}; it must be one of "
                    f"{', '.join(ALGORITHMS)}"
                )
            key = await self._ring.find(key_id, algorithm)
            claims: Mapping[str, Any] = jwt.decode(
                token,
                jwt.PyJWK(dict(key.jwk), algorithm=algorithm),
                algorithms=[algorithm],
                audience=list(self._demands.audiences),
                issuer=self._demands.issuer,
                options={  # times are told by this server's clock, below
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            return claims
        except jwt.InvalidAudienceError as error:
            raise TokenRefused(
                f"it is not for this server: its audience is none of "
                f"{', '.join(self._demands.audiences)}"
            ) from error
        except jwt.InvalidIssuerError as error:
            raise TokenRefused(f"it is not of the issuer {self._demands.issuer}") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenRefused(str(error) or "it cannot be read") from error

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now, leeway = self._clock.now().timestamp(), self._demands.leeway
        if now >= _moment(claims, "exp", 0.0) + leeway:
            raise TokenRefused("it has expired; get a new one")
        for name in ("nbf", "iat"):
            if now + leeway < _moment(claims, name, now):
                raise TokenRefused(
                    f"it is not valid yet ({name}); do the issuer's clock and this machine's agree?"
                )

    def _check_scopes(self, claims: Mapping[str, Any]) -> None:
        """RFC 8693, 4.2: words in `scope`; some issuers send a list, or call it `scp`."""
        told = claims.get("scope", claims.get("scp", ""))
        granted = told.split() if isinstance(told, str) else told
        if not isinstance(granted, list):
            granted = []
        missing = [scope for scope in self._demands.scopes if scope not in granted]
        if missing:
            raise ScopeMissing(
                f"the token is valid, but lacks the scope {' '.join(missing)}",
                scopes=tuple(self._demands.scopes),
            )


def _moment(claims: Mapping[str, Any], name: str, default: float) -> float:
    """NumericDate: seconds since 1970."""
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused(f"its claim {name} is no time")
    return value
