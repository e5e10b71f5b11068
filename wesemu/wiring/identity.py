"""Who verifies JSON Web Tokens, where an issuer is set."""

from typing import TYPE_CHECKING

from wesemu.clock import WallClock
from wesemu.errors import ToolMissing
from wesemu.identity.keys import KeyRing
from wesemu.identity.sources import key_source
from wesemu.settings import OidcSettings

if TYPE_CHECKING:
    from wesemu.identity.tokens import TokenVerifier


def found_verifier(settings: OidcSettings) -> "TokenVerifier | None":
    """None without an issuer. Raises ToolMissing where the extra `oidc` is not installed."""
    if not settings.issuer:
        return None
    try:
        from wesemu.identity.tokens import Demands, TokenVerifier
    except ImportError as error:
        raise ToolMissing(
            "auth.oidc.issuer is set, but what verifies its tokens is not installed: "
            "pip install 'wesemu[oidc]'"
        ) from error
    clock = WallClock()
    demands = Demands(
        issuer=settings.issuer,
        audiences=tuple(settings.audiences),
        owner_claim=settings.owner_claim,
        scopes=tuple(settings.scopes),
        leeway=settings.leeway_seconds,
    )
    return TokenVerifier(KeyRing(key_source(settings.issuer, settings.jwks), clock), demands, clock)
