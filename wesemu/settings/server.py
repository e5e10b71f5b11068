"""Settings groups of the server: credentials, connections, WES, callbacks."""

import base64
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wesemu.api.connections import check_public_url
from wesemu.api.csrf import check_origin


class OidcSettings(BaseModel):
    """JSON Web Tokens of an OpenID Connect issuer, for WES. Needs the extra `oidc`."""

    model_config = ConfigDict(extra="forbid")

    issuer: str = Field(default="", pattern=r"^(https?://[^?#\s]+)?$")
    """The issuer's URL, letter by letter as its tokens have it in `iss`; empty: none."""
    audiences: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """What tokens for this server have in `aud`: one of these."""
    jwks: str = ""
    """The issuer's keys: a URL or a file; empty: where its discovery document says."""
    owner_claim: str = Field(default="sub", min_length=1)
    """The claim that names the owner."""
    scopes: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Scopes that a token must have, all of them."""
    leeway_seconds: float = Field(default=30.0, ge=0, le=300, allow_inf_nan=False)
    """How wrong the clocks may be."""

    @model_validator(mode="after")
    def _has_audience(self) -> Self:
        if self.issuer and not self.audiences:
            raise ValueError(
                "name the audiences that tokens for this server have; without them the tokens "
                "that the issuer gives to any other service would open this one"
            )
        return self


class AuthSettings(BaseModel):
    """Who may come in. With neither keys, tokens nor an issuer everybody is the owner `local`."""

    model_config = ConfigDict(extra="forbid")

    ags_keys: dict[str, str] = Field(default_factory=dict)
    """AGS: access key id = secret; the id is the owner."""

    tokens: dict[str, str] = Field(default_factory=dict)
    """WES: bearer token = owner."""
    oidc: OidcSettings = Field(default_factory=OidcSettings)

    admin_token: str = ""
    """The bearer token that the emulator's own controls below `/_wesemu/` need, from wherever they
    are used; without one this machine may use them, and only this machine."""

    @property
    def bearers(self) -> bool:
        """Whether WES wants tokens."""
        return bool(self.tokens or self.oidc.issuer)

    @property
    def closed(self) -> bool:
        """Whether anybody has to show credentials of any kind."""
        return bool(self.ags_keys) or self.bearers


class ServerSettings(BaseModel):
    """Connections, and how the server is reached."""

    model_config = ConfigDict(extra="forbid")

    connections: int = Field(default=0, ge=0, le=100_000)
    """Connections that are open at a time; 0: as many as the limit of open files allows, at most
    4096."""

    idle_seconds: float = Field(default=75.0, gt=0, le=86_400, allow_inf_nan=False)
    """A connection without a request is closed after so long."""

    header_seconds: float = Field(default=30.0, gt=0, le=3600, allow_inf_nan=False)
    """How long the headers of a request may take."""

    stalled_seconds: float = Field(default=120.0, gt=0, le=86_400, allow_inf_nan=False)
    """A connection on which a request's body, or its answer, does not move is closed after so
    long."""

    public_url: str = ""
    """The address by which clients reach the server, for the URLs in its answers; empty: the one
    that each request names."""

    trusted_proxies: list[IPv4Network | IPv6Network | Literal["unix"]] = Field(default_factory=list)
    """Proxies that are believed what they tell of a client: `["127.0.0.1/32", "unix"]`."""

    cors_origins: list[str] = Field(default_factory=list)
    """Origins whose web pages may call: `["https://portal.example.org"]`."""

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        return check_public_url(url)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        return [check_origin(origin) for origin in origins]


class WesSettings(BaseModel):
    """How `/ga4gh/wes/v1` answers."""

    model_config = ConfigDict(extra="forbid")

    version: Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"] = "0.3.0"
    """The WES version of the unversioned path."""


class CallbackSettings(BaseModel):
    """How runs with a `callback_url` tell of their states."""

    model_config = ConfigDict(extra="forbid")

    secret: str = ""
    """Signs callbacks as Standard Webhooks has it: `whsec_` and base64, or plain text."""

    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that are not public where callbacks may go nevertheless: `["127.0.0.0/8"]`."""

    @field_validator("secret")
    @classmethod
    def _decodable(cls, secret: str) -> str:
        if secret.startswith("whsec_"):
            try:
                base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except ValueError as error:
                raise ValueError("whsec_ is followed by base64") from error
        return secret
