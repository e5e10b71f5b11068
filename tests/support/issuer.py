"""An OpenID Connect issuer on 127.0.0.1 with new keys."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

jwt = pytest.importorskip("jwt", reason="PyJWT is not installed: pip install 'wesemu[oidc]'")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")

DISCOVERY = "/.well-known/openid-configuration"


def new_rsa_key() -> Any:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key: Any, algorithm: str, **members: str) -> dict[str, Any]:
    """Return the public key of a private key as a JSON Web Key."""
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key())
    return {**json.loads(public), "alg": algorithm, "use": "sig", **members}


@dataclass
class Issuer:
    """Publishes `keys`, answers with `status` and records the paths of requests in `asked`."""

    key: Any = field(default_factory=new_rsa_key)
    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    status: int = 200

    def __post_init__(self) -> None:
        self.keys = [jwk(self.key, "RS256", kid="first")]

    def token(
        self, claims: Mapping[str, Any], *, key: Any = None, algorithm: str = "RS256", **header: Any
    ) -> str:
        """Return a signed token. Omit claims and header fields that are None."""
        given = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": "first", **header}
        headers = {name: value for name, value in headers.items() if value is not None}
        signed: str = jwt.encode(given, key or self.key, algorithm=algorithm, headers=headers)
        return signed

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        discovered = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.document}
        document = discovered if request.path == DISCOVERY else {"keys": self.keys}
        return web.json_response(document, status=self.status)


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.answer)
    async with TestServer(app) as server:
        issuer.url = str(server.make_url("/")).rstrip("/")
        yield issuer
