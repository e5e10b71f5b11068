"""JSON Web Tokens of one issuer (RFC 7519), checked as RFC 8725 advises. Needs PyJWT."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from wesemu.clock import Clock
from wesemu.errors import ScopeMissing, TokenRefused
from wesemu.identity.keys import KeyRing
from wesemu.runs.model import Owner

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Signatures by a private key only: with `none` anybody could make tokens, with HS* whoever knows
what verifies them."""

_LONGEST = 16 << 10
_LONGEST_OWNER = 255


@dataclass(frozen=True, slots=True)
class Demands:
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

    def __init__(self, ring: KeyRing, demands: Demands, clock: Clock) -> None:
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
