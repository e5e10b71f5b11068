"""Who asks: tokens as the known WES clients send them."""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Protocol

from aiohttp import web

from wesemu.errors import TokenRefused, Unauthorized
from wesemu.runs.model import LOCAL_OWNER, Owner

_DOTS = 2
"""A signed JSON Web Token has three parts."""


class Verifier(Protocol):
    """Knows tokens that nobody had to write down before."""

    async def owner(self, token: str) -> Owner:
        """Raises TokenRefused, Forbidden or IssuerUnreachable."""
        ...


class TokenAuthenticator:
    """Maps a request's token to its owner. Without any token, everybody is the owner `local`,
    or nobody may come in where credentials of another kind are configured (`guarded`).

    Taken are `Authorization: Bearer T`, a bare `Authorization: T` (wes-client), Basic with T as
    the password, or as the user without one (toil), and `x-api-key: T` (gxy-wes). A token is
    compared in constant time with every known one. One that is none of them and looks like a
    JSON Web Token is the `verifier`'s, where there is one.
    """

    def __init__(
        self,
        tokens: Mapping[str, str],
        *,
        guarded: bool = False,
        verifier: Verifier | None = None,
    ) -> None:
        self._open = not tokens and not guarded and verifier is None
        self._verifier = verifier
        self._owners = [(_digest(token), Owner(owner)) for token, owner in tokens.items()]

    async def __call__(self, request: web.Request) -> Owner:
        """Raises Unauthorized; Forbidden or IssuerUnreachable of a verifier."""
        if self._open:
            return LOCAL_OWNER
        shown = list(_tokens(request))
        found = [owner for token in shown if (owner := self.find(token)) is not None]
        if found:
            return found[0]
        for token in shown:
            if self._verifier is not None and token.count(".") == _DOTS:
                return await self._verifier.owner(token)
        if shown:
            raise TokenRefused("nobody here knows it")
        raise Unauthorized("credentials are missing; send 'Authorization: Bearer <token>'")

    async def ask(self, token: str) -> Owner | None:
        """As `find`, and of the verifier where it may be its token. Raises what that raises."""
        owner = self.find(token)
        if owner is None and self._verifier is not None and token.count(".") == _DOTS:
            return await self._verifier.owner(token)
        return owner

    def find(self, token: str) -> Owner | None:
        """Whose token it is; None for one that nobody here knows."""
        digest = _digest(token)
        found = [owner for known, owner in self._owners if hmac.compare_digest(known, digest)]
        return found[0] if found else None


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
    """Of equal length for all tokens, so that comparing tells nothing of theirs."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
