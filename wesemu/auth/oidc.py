"""OpenID Connect: verifies JSON Web Tokens of one issuer (RFC 7519, RFC 8725). Needs PyJWT.

`JwksCache` caches the issuer's public keys (JWK Set, RFC 7517), a `KeySource` reads them from a
file, a URL or the discovery document, and `TokenVerifier` checks tokens.
"""

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

# Public keys.

FRESH_SECONDS = 3600.0
"""Keys older than this are read again."""

STALE_SECONDS = 24 * 3600.0
"""Keys up to this age stay valid while the issuer does not answer."""

PAUSE_SECONDS = 30.0
"""Least time between two reads, so tokens with unknown key ids cannot flood the issuer."""

RETRY_SECONDS = 5.0
"""Least time after a failed read."""

_KEYS_LIMIT = 100
_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The `kty` of an algorithm, by its first two letters. Symmetric algorithms are not allowed."""

log = structlog.get_logger("wesemu.identity")


class KeySource(Protocol):
    """A place to read a JWK Set from."""

    async def read(self) -> JsonObject:
        """Return the JWK Set. Raises OSError, TimeoutError or ValueError with a message to log."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Key:
    """A public key for signatures. `jwk` is the JSON Web Key; `id` is its `kid`."""

    id: str | None
    type: str
    algorithm: str | None
    jwk: Mapping[str, Any]

    def fits(self, algorithm: str) -> bool:
        return self.type == _TYPES.get(algorithm[:2]) and self.algorithm in (None, algorithm)


def read_keys(document: JsonObject) -> tuple[Key, ...]:
    """Return the usable keys of a JWK Set; ignore others (RFC 7517, 5). Raises ValueError."""
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
    """Finds keys by id and reads them from `source` when necessary.

    Concurrent callers share one read. Reads are at least `PAUSE_SECONDS` apart, `RETRY_SECONDS`
    after a failure. `clock` is the wall clock.
    """

    def __init__(self, source: KeySource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._reading = asyncio.Lock()
        self._keys: tuple[Key, ...] = ()
        self._read: float | None = None
        self._tried: float | None = None
        self._problem = ""

    async def find(self, key_id: str | None, algorithm: str) -> Key:
        """Return the key with this id, or else the only one for `algorithm`.

        Raises TokenRefused for a key that the issuer does not have, IssuerUnreachable.
        """
        if not self._within(self._read, FRESH_SECONDS):
            await self._refresh()
        keys = _matching(self._keys, key_id, algorithm)
        if not keys and await self._refresh():  # the issuer may have rotated its keys
            keys = _matching(self._keys, key_id, algorithm)
        match keys:
            case [key]:
                return key
            case []:
                raise TokenRefused("its issuer has no such key; get a new token")
            case _:
                raise TokenRefused("it does not say by which of the issuer's keys it is signed")

    async def close(self) -> None:
        await self._source.close()

    async def _refresh(self) -> bool:
        """Return whether new keys were read. Raises IssuerUnreachable if there are none."""
        before = self._read
        async with self._reading:
            if self._read != before:
                return True  # another caller has read them
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
            log.warning("reading the issuer's keys failed", problem=self._problem)
            return
        finally:
            # The end of the read: callers that waited for it must not read again.
            self._tried = self._now()
        self._read, self._problem = self._tried, ""

    def _within(self, timestamp: float | None, seconds: float) -> bool:
        """Return whether `timestamp` is less than `seconds` ago; False for one in the future."""
        return timestamp is not None and 0 <= self._now() - timestamp < seconds

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _matching(keys: Sequence[Key], key_id: str | None, algorithm: str) -> list[Key]:
    """Return the key with the id, or without an id all keys that fit (OpenID Connect, 10.1)."""
    fitting = [key for key in keys if key.fits(algorithm)]
    return fitting if key_id is None else [key for key in fitting if key.id == key_id][:1]


# Sources of keys.

_DISCOVERY = "/.well-known/openid-configuration"
_TIMEOUT_SECONDS = 5.0
_LONGEST_DOCUMENT = 1 << 20


def key_source(issuer: str, jwks: str) -> KeySource:
    """Return the source for `jwks`, a URL or a file; empty: the issuer's discovery document."""
    if not jwks:
        return DiscoveredKeys(issuer)
    return KeyUrl(jwks) if "://" in jwks else KeyFile(Path(jwks))


class KeyFile:
    """A JWK Set in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> JsonObject:
        return _parse(await asyncio.to_thread(self._path.read_bytes), str(self._path))

    async def close(self) -> None:
        """Do nothing."""


class KeyUrl:
    """A JWK Set at a URL. Redirects are not followed: the operator has named the location."""

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
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise ValueError(f"{url} answered {response.status}")
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > _LONGEST_DOCUMENT:
                        raise ValueError(f"{url} sends more than {_LONGEST_DOCUMENT} bytes")
                return _parse(bytes(content), url)
        except TimeoutError as error:
            raise TimeoutError(f"{url} gave no answer within {_TIMEOUT_SECONDS:.0f} s") from error
        except aiohttp.ClientError as error:
            raise OSError(f"{url}: {error}") from error


class DiscoveredKeys(KeyUrl):
    """A JWK Set that the issuer's discovery document locates (OpenID Connect Discovery 1.0)."""

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
        return await self._get(_check_scheme(str(document.get("jwks_uri")), self._issuer))


def _check_scheme(url: str, issuer: str) -> str:
    """Return `url`. Raises ValueError for an http URL of an https issuer."""
    schemes = ("https",) if URL(issuer).scheme == "https" else ("https", "http")
    if URL(url).scheme not in schemes:
        raise ValueError(f"the issuer's jwks_uri is {url[:200]!r}, no {' or '.join(schemes)} URL")
    return url


def _parse(content: bytes, place: str) -> JsonObject:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{place} holds no JSON object")
    return document


# Tokens.

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Asymmetric signatures only. With `none` anybody could create tokens; with HS*, the public key
would be the secret."""

_LONGEST = 16 << 10
_LONGEST_OWNER = 255
_LARGEST_DATE = 1e20
"""Seconds; some integers above it have no float."""


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """Requirements of a token: one of `audiences` and all of `scopes`.

    `owner_claim` is the claim with the owner. `leeway` is the tolerance of times in seconds.
    """

    issuer: str
    audiences: Sequence[str]
    owner_claim: str = "sub"
    scopes: Sequence[str] = ()
    leeway: float = 30.0


class TokenVerifier:
    """Verifies tokens and returns their owners. `clock` is the wall clock, as the issuer's."""

    def __init__(self, keys: JwksCache, policy: TokenPolicy, clock: Clock) -> None:
        self._keys = keys
        self._policy = policy
        self._clock = clock

    async def owner(self, token: str) -> Owner:
        """Return the owner. Raises TokenRefused, ScopeMissing (valid token), IssuerUnreachable."""
        claims = await self._claims(token)
        self._check_times(claims)
        self._check_scopes(claims)
        owner = claims.get(self._policy.owner_claim)
        if not isinstance(owner, str) or not owner or not owner.isprintable():
            raise ScopeMissing(
                f"the token is valid, but its claim {self._policy.owner_claim!r} names no owner"
            )
        if len(owner) > _LONGEST_OWNER:
            raise ScopeMissing(
                f"the token's claim {self._policy.owner_claim!r} has more than "
                f"{_LONGEST_OWNER} letters"
            )
        return Owner(owner)

    async def close(self) -> None:
        await self._keys.close()

    async def _claims(self, token: str) -> Mapping[str, Any]:
        """Check signature, issuer and audience. Return the claims."""
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
            key = await self._keys.find(key_id, algorithm)
            claims: Mapping[str, Any] = jwt.decode(
                token,
                jwt.PyJWK(dict(key.jwk), algorithm=algorithm),
                algorithms=[algorithm],
                audience=list(self._policy.audiences),
                issuer=self._policy.issuer,
                options={  # `_check_times` checks times with this server's clock
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
                f"{', '.join(self._policy.audiences)}"
            ) from error
        except jwt.InvalidIssuerError as error:
            raise TokenRefused(f"it is not of the issuer {self._policy.issuer}") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenRefused(str(error) or "it cannot be read") from error

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now, leeway = self._clock.now().timestamp(), self._policy.leeway
        if now >= _numeric_date(claims, "exp", 0.0) + leeway:
            raise TokenRefused("it has expired; get a new one")
        for name in ("nbf", "iat"):
            if now + leeway < _numeric_date(claims, name, now):
                raise TokenRefused(
                    f"it is not valid yet ({name}); do the issuer's clock and this machine's agree?"
                )

    def _check_scopes(self, claims: Mapping[str, Any]) -> None:
        """RFC 8693, 4.2: `scope` has names and spaces; some issuers send a list, or use `scp`."""
        scope = claims.get("scope", claims.get("scp", ""))
        granted = scope.split() if isinstance(scope, str) else scope
        if not isinstance(granted, list):
            granted = []
        missing = [scope for scope in self._policy.scopes if scope not in granted]
        if missing:
            raise ScopeMissing(
                f"the token is valid, but lacks the scope {' '.join(missing)}",
                scopes=tuple(self._policy.scopes),
            )


def _numeric_date(claims: Mapping[str, Any], name: str, default: float) -> float:
    """Return a NumericDate: seconds since 1970. Raises TokenRefused."""
    value = claims.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < _LARGEST_DATE:  # NaN is not below anything
        raise TokenRefused(f"its claim {name} is not a time")
    return float(value)
