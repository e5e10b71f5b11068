"""Settings groups of the server: credentials, connections, WES, callbacks."""

import base64
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wesemu.api.connections import check_public_url
from wesemu.api.csrf import check_origin


class OidcSettings(BaseModel):
    """JSON Web Tokens of an OpenID Connect issuer. Needs the extra `oidc`."""

    model_config = ConfigDict(extra="forbid")

    issuer: str = Field(default="", pattern=r"^(https?://[^?#\s]+)?$")
    """The issuer's URL, exactly as in `iss` of its tokens; empty: none."""
    audiences: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Accepted values of `aud`; a token must have one of them."""
    jwks: str = ""
    """URL or file of the issuer's keys; empty: from its discovery document."""
    owner_claim: str = Field(default="sub", min_length=1)
    """The claim with the owner."""
    scopes: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Scopes that a token must have (all of them)."""
    leeway_seconds: float = Field(default=30.0, ge=0, le=300, allow_inf_nan=False)
    """Tolerance for clocks that differ, in seconds."""

    @model_validator(mode="after")
    def _has_audience(self) -> Self:
        if self.issuer and not self.audiences:
            raise ValueError(
                "set the audiences of tokens for this server; without them, tokens for any other "
                "service of the issuer would be accepted"
            )
        return self


class AuthSettings(BaseModel):
    """Credentials. Without keys, tokens and issuer, every caller is the owner `local`."""

    model_config = ConfigDict(extra="forbid")

    ags_keys: dict[str, str] = Field(default_factory=dict)
    """AGS and OSS: access key id = secret; the id is the owner."""

    tokens: dict[str, str] = Field(default_factory=dict)
    """WES: bearer token = owner."""
    oidc: OidcSettings = Field(default_factory=OidcSettings)

    admin_token: str = ""
    """The bearer token for the control API below `/_wesemu/`; without one, only this machine may
    use it."""

    @property
    def bearers(self) -> bool:
        """Whether WES requires tokens."""
        return bool(self.tokens or self.oidc.issuer)

    @property
    def closed(self) -> bool:
        """Whether any API requires credentials."""
        return bool(self.ags_keys) or self.bearers


class ServerSettings(BaseModel):
    """Connections and addresses of the server."""

    model_config = ConfigDict(extra="forbid")

    connections: int = Field(default=0, ge=0, le=100_000)
    """Most open connections; 0: as many as the limit of open files allows, at most 4096."""

    idle_seconds: float = Field(default=75.0, gt=0, le=86_400, allow_inf_nan=False)
    """Connections without a request are closed after so many seconds."""

    header_seconds: float = Field(default=30.0, gt=0, le=3600, allow_inf_nan=False)
    """Most seconds for the headers of a request."""

    stalled_seconds: float = Field(default=120.0, gt=0, le=86_400, allow_inf_nan=False)
    """Connections whose request body or response makes no progress are closed after so many
    seconds."""

    public_url: str = ""
    """The server's address for URLs in responses; empty: the address in each request."""

    trusted_proxies: list[IPv4Network | IPv6Network | Literal["unix"]] = Field(default_factory=list)
    """Proxies whose headers about the client are trusted: `["127.0.0.1/32", "unix"]`."""

    cors_origins: list[str] = Field(default_factory=list)
    """Origins of web pages that may call the APIs: `["https://portal.example.org"]`."""

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        return check_public_url(url)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        return [check_origin(origin) for origin in origins]


class WesSettings(BaseModel):
    """The WES API."""

    model_config = ConfigDict(extra="forbid")

    version: Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"] = "0.3.0"
    """The WES version of the unversioned path."""


class CallbackSettings(BaseModel):
    """Callbacks of runs with a `callback_url`."""

    model_config = ConfigDict(extra="forbid")

    secret: str = ""
    """Secret for signatures (Standard Webhooks): `whsec_` and base64, or plain text."""

    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that callbacks may go to although they are not public: `["127.0.0.0/8"]`."""

    @field_validator("secret")
    @classmethod
    def _decodable(cls, secret: str) -> str:
        if secret.startswith("whsec_"):
            try:
                base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except ValueError as error:
                raise ValueError("the text after whsec_ must be base64") from error
        return secret
