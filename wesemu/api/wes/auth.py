"""WES authentication: tokens in the forms that WES clients send (WES 1.1.0, "Authorization &
Authentication")."""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Protocol

from aiohttp import web

from wesemu.errors import TokenRefused, Unauthorized
from wesemu.runs.model import LOCAL_OWNER, Owner

_DOTS = 2
"""A signed JSON Web Token has three parts (RFC 7515, section 3.1)."""


class Verifier(Protocol):
    """Verifies tokens that are not listed in the settings (OpenID Connect)."""

    async def owner(self, token: str) -> Owner:
        """Return the token's owner. Raises TokenRefused, Forbidden or IssuerUnreachable."""
        ...


class TokenAuthenticator:
    """Maps a request's token to its owner.

    Without tokens and verifier, every caller is the owner `local`. With `guarded`, the server
    requires credentials of another kind, so requests without a valid token are refused.

    Accepted forms: `Authorization: Bearer T`; a bare `Authorization: T` (wes-client); Basic with T
    as the password, or as the user if the password is empty (toil); `x-api-key: T` (gxy-wes). A
    token is compared with all listed ones in constant time. An unlisted token that looks like a
    JSON Web Token goes to `verifier`.
    """

    def __init__(
        self, tokens: Mapping[str, str], *, guarded: bool = False, verifier: Verifier | None = None
    ) -> None:
        self._is_open = not tokens and not guarded and verifier is None
        self._verifier = verifier
        self._owners = [(_digest(token), Owner(owner)) for token, owner in tokens.items()]

    async def __call__(self, request: web.Request) -> Owner:
        """Return the owner. Raises Unauthorized, or the verifier's Forbidden or
        IssuerUnreachable."""
        if self._is_open:
            return LOCAL_OWNER
        sent = list(_tokens(request))
        owners = [owner for token in sent if (owner := self.find(token)) is not None]
        if owners:
            return owners[0]
        for token in sent:
            if self._verifier is not None and token.count(".") == _DOTS:
                return await self._verifier.owner(token)
        if sent:
            raise TokenRefused("it is unknown")
        raise Unauthorized("credentials are missing; send 'Authorization: Bearer <token>'")

    async def find_or_verify(self, token: str) -> Owner | None:
        """Like `find`, but also ask the verifier. Raises its errors."""
        owner = self.find(token)
        if owner is None and self._verifier is not None and token.count(".") == _DOTS:
            return await self._verifier.owner(token)
        return owner

    def find(self, token: str) -> Owner | None:
        """Return the owner of a listed token, or None."""
        digest = _digest(token)
        owners = [owner for known, owner in self._owners if hmac.compare_digest(known, digest)]
        return owners[0] if owners else None


def _tokens(request: web.Request) -> Iterator[str]:
    scheme, _, value = request.headers.get("Authorization", "").strip().partition(" ")
    match scheme.lower():
        case "bearer":
            yield value.strip()
        case "basic":
            yield from _basic(value)
        case _ if scheme and not value:
            yield scheme
    if (key := request.headers.get("X-Api-Key")) is not None:
        yield key


def _basic(value: str) -> Iterator[str]:
    try:
        user, _, password = base64.b64decode(value.strip()).decode().partition(":")
    except ValueError:
        return
    yield password or user


def _digest(token: str) -> bytes:
    """Return a digest. Equal lengths keep the comparison from revealing a token's length."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
