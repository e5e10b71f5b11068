"""Tokens of a real issuer: which are accepted, which are not, and an issuer that fails."""

import asyncio
import base64
import hmac
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.issuer import DISCOVERY, Issuer, ec, issuing, jwk, new_rsa_key

from wesemu.auth.oidc import (
    FRESH_SECONDS,
    PAUSE_SECONDS,
    RETRY_SECONDS,
    STALE_SECONDS,
    JwksCache,
    TokenPolicy,
    TokenVerifier,
    key_source,
)
from wesemu.errors import IssuerUnreachable, ScopeMissing, TokenRefused
from wesemu.runs.clock import ManualClock
from wesemu.runs.model import JsonObject

NOW = datetime(2030, 6, 1, tzinfo=UTC)
STAMP = int(NOW.timestamp())
CLAIMS = {"sub": "alice", "aud": "wesemu", "iat": STAMP, "exp": STAMP + 300}


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as started:
        yield started


@contextmanager
def unreachable(why: str) -> Iterator[None]:
    """Who asks is told that the keys cannot be read, the log alone why: it may name files and
    hosts of the server's own."""
    with structlog.testing.capture_logs() as logged, pytest.raises(IssuerUnreachable) as told:
        yield
    assert str(told.value) == (
        "the tokens' issuer cannot be asked for its keys (the server's log says why); "
        "try again in 5 s"
    )
    assert re.search(why, logged[-1]["problem"])


class TokenChecker:
    def __init__(self, issuer: Issuer, jwks: str = "", **policy: Any) -> None:
        self.issuer = issuer
        self.clock = ManualClock(NOW)
        wanted = TokenPolicy(issuer.url, **({"audiences": ("other", "wesemu")} | policy))
        keys = JwksCache(key_source(issuer.url, jwks), self.clock)
        self.verifier = TokenVerifier(keys, wanted, self.clock)

    async def owner_of(self, token: str) -> str:
        return await self.verifier.owner(token)

    async def owner(self, claims: dict[str, Any] | None = None, **signing: Any) -> str:
        """The owner by a token with the usual claims, changed by `claims`."""
        return await self.owner_of(
            self.issuer.token({"iss": self.issuer.url, **CLAIMS, **(claims or {})}, **signing)
        )

    def later(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


@pytest.fixture
async def checker(issuer: Issuer) -> AsyncIterator[TokenChecker]:
    made = TokenChecker(issuer)
    yield made
    await made.verifier.close()


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "claims", [{}, {"aud": ["x", "wesemu"]}, {"iat": None}, {"nbf": STAMP + 29}, {"scope": "a"}]
)
async def test_a_token_of_the_issuer_names_its_owner(
    checker: TokenChecker, claims: dict[str, Any]
) -> None:
    assert await checker.owner(claims) == "alice"


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"exp": STAMP - 31}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"exp": 10**400}, "exp"),
        ({"nbf": STAMP + 31}, "not valid yet"),
        ({"iat": STAMP + 31}, "not valid yet"),
        ({"aud": "elsewhere"}, "audience"),
        ({"aud": None}, "aud"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"sub": 7}, "[Ss]ub"),
    ],
)
async def test_a_token_for_somebody_else_or_another_time_is_refused(
    checker: TokenChecker, claims: dict[str, Any], told: str
) -> None:
    with pytest.raises(TokenRefused, match=told):
        await checker.owner(claims)


async def test_a_token_expires_on_the_wall_clock_and_not_before(checker: TokenChecker) -> None:
    checker.later(329)
    assert await checker.owner() == "alice"
    checker.later(1)
    with pytest.raises(TokenRefused, match="expired"):
        await checker.owner()


async def test_nobody_makes_tokens_with_what_is_public(checker: TokenChecker) -> None:
    """Unsigned, or signed by HMAC with the public key as the secret."""
    secret = json.dumps(checker.issuer.keys[0]).encode()
    claims = encoded(json.dumps({"iss": checker.issuer.url, **CLAIMS}).encode())
    for algorithm in ("none", "HS256", "HS512"):
        head = encoded(json.dumps({"alg": algorithm, "kid": "first"}).encode())
        signature = encoded(hmac.digest(secret, f"{head}.{claims}".encode(), "sha256"))
        for end in ("", signature):
            with pytest.raises(TokenRefused, match="its algorithm is"):
                await checker.owner_of(f"{head}.{claims}.{end}")
    assert checker.issuer.asked == []


async def test_a_symmetric_key_in_the_key_set_is_no_key(checker: TokenChecker) -> None:
    checker.issuer.keys = [{"kty": "oct", "k": "c2VjcmV0", "kid": "first", "alg": "RS256"}]
    with unreachable("no public key"):
        await checker.owner()


@pytest.mark.parametrize("token", ["a.b.c", "..", "é.é.é", "e30.e30.e30", "x" * 20_000])
async def test_what_is_no_token_is_refused(checker: TokenChecker, token: str) -> None:
    with pytest.raises(TokenRefused):
        await checker.owner_of(token)


async def test_a_signature_by_another_key_is_refused(checker: TokenChecker) -> None:
    with pytest.raises(TokenRefused, match="verification failed"):
        await checker.owner(key=new_rsa_key())
    token = checker.issuer.token({"iss": checker.issuer.url, **CLAIMS})
    head, _, signature = token.split(".")
    other = checker.issuer.token({"iss": checker.issuer.url, **CLAIMS, "sub": "root"}).split(".")[1]
    with pytest.raises(TokenRefused, match="verification failed"):
        await checker.owner_of(f"{head}.{other}.{signature}")


async def test_a_key_is_good_for_its_own_algorithm_only(checker: TokenChecker) -> None:
    with pytest.raises(TokenRefused, match="no such key"):
        await checker.owner(algorithm="RS512")
    with pytest.raises(TokenRefused, match="no such key"):
        await checker.owner(algorithm="ES256", key=ec.generate_private_key(ec.SECP256R1()))


async def test_elliptic_keys_beside_others(checker: TokenChecker) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    checker.issuer.keys.append(jwk(key, "ES256", kid="second"))
    assert await checker.owner(algorithm="ES256", key=key, kid="second") == "alice"
    assert await checker.owner(algorithm="ES256", key=key, kid=None) == "alice"


async def test_without_a_key_id_there_may_be_no_choice(checker: TokenChecker) -> None:
    assert await checker.owner(kid=None) == "alice"
    checker.issuer.keys.append(jwk(new_rsa_key(), "RS256", kid="second"))
    checker.later(FRESH_SECONDS)
    with pytest.raises(TokenRefused, match="which of the issuer's keys"):
        await checker.owner({"exp": STAMP + 9999}, kid=None)


async def test_keys_are_read_once_and_again_for_one_that_is_new(checker: TokenChecker) -> None:
    for _ in range(3):
        await checker.owner()
    assert checker.issuer.asked == [DISCOVERY, "/keys"]
    key = new_rsa_key()
    checker.issuer.keys = [jwk(key, "RS256", kid="second")]
    checker.later(PAUSE_SECONDS)
    assert await checker.owner(key=key, kid="second") == "alice"
    assert len(checker.issuer.asked) == 4
    with pytest.raises(TokenRefused, match="no such key"):
        await checker.owner()


async def test_unknown_key_ids_do_not_become_a_flood(checker: TokenChecker) -> None:
    await checker.owner()
    for number in range(20):
        with pytest.raises(TokenRefused, match="no such key"):
            await checker.owner(kid=f"made up {number}")
    assert len(checker.issuer.asked) == 2
    checker.later(PAUSE_SECONDS)
    for number in range(20):
        with pytest.raises(TokenRefused, match="no such key"):
            await checker.owner(kid=f"made up {number}")
    assert len(checker.issuer.asked) == 4


async def test_an_issuer_that_is_down_is_reported_and_asked_again_later(
    checker: TokenChecker,
) -> None:
    checker.issuer.status = 500
    with unreachable("answered 500"):
        await checker.owner()
    for _ in range(2):
        with pytest.raises(IssuerUnreachable):
            await checker.owner()
    assert len(checker.issuer.asked) == 1
    checker.issuer.status = 200
    checker.later(5)
    assert await checker.owner() == "alice"


class Hanging:
    """A source that takes five seconds of the clock and then has no answer."""

    def __init__(self, clock: ManualClock) -> None:
        self.readings = 0
        self._clock = clock

    async def read(self) -> JsonObject:
        self.readings += 1
        await asyncio.sleep(0)  # the others come meanwhile
        self._clock.advance(timedelta(seconds=5))
        raise TimeoutError

    async def close(self) -> None: ...


async def test_who_waits_for_an_issuer_that_hangs_does_not_ask_it_again() -> None:
    clock = ManualClock(NOW)
    source = Hanging(clock)
    keys = JwksCache(source, clock)
    tried = (keys.find(f"made up {number}", "RS256") for number in range(3))
    told = await asyncio.gather(*tried, return_exceptions=True)
    assert [type(error) for error in told] == [IssuerUnreachable] * 3
    assert source.readings == 1
    clock.advance(timedelta(seconds=RETRY_SECONDS))
    with pytest.raises(IssuerUnreachable):
        await keys.find(None, "RS256")
    assert source.readings == 2


@pytest.mark.parametrize("operations", [None, 7, "verify", ["sign"]])
async def test_a_key_without_a_list_that_has_verify_is_passed_over(
    checker: TokenChecker, operations: Any
) -> None:
    other = jwk(new_rsa_key(), "RS256", kid="first")
    checker.issuer.keys.insert(0, {**other, "key_ops": operations})
    assert await checker.owner() == "alice"


async def test_keys_outlive_an_issuer_that_is_down_for_a_while(checker: TokenChecker) -> None:
    await checker.owner()
    checker.issuer.status = 503
    checker.later(FRESH_SECONDS)
    claims = {"exp": STAMP + 10 * int(STALE_SECONDS)}
    assert await checker.owner(claims) == "alice"
    assert len(checker.issuer.asked) == 3
    checker.later(STALE_SECONDS)
    with unreachable("503"):
        await checker.owner(claims)


async def test_an_issuer_without_a_server_is_reported(issuer: Issuer) -> None:
    issuer.url = "http://127.0.0.1:9"
    checker = TokenChecker(issuer)
    with unreachable(r"127\.0\.0\.1"):
        await checker.owner()
    await checker.verifier.close()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"issuer": "https://elsewhere.example"}, "is of the issuer 'https://elsewhere.example'"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri is 'file:"),
        ({"jwks_uri": None}, "jwks_uri"),
    ],
)
async def test_a_discovery_document_that_leads_elsewhere_is_not_followed(
    checker: TokenChecker, document: dict[str, Any], told: str
) -> None:
    checker.issuer.document = document
    with unreachable(told):
        await checker.owner()
    assert checker.issuer.asked == [DISCOVERY]


@pytest.mark.parametrize("how", ["file", "url"])
async def test_keys_may_lie_elsewhere(issuer: Issuer, tmp_path: Path, how: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": issuer.keys}))
    checker = TokenChecker(issuer, str(file) if how == "file" else f"{issuer.url}/keys")
    assert await checker.owner() == "alice"
    assert issuer.asked == ([] if how == "file" else ["/keys"])
    await checker.verifier.close()


async def test_a_file_that_is_nested_too_deeply_is_reported(issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text("[" * 100_000)
    with unreachable("is not JSON"):
        await TokenChecker(issuer, str(file)).owner()


async def test_a_file_that_is_gone_is_reported(issuer: Issuer, tmp_path: Path) -> None:
    with unreachable(r"nowhere\.json"):
        await TokenChecker(issuer, str(tmp_path / "nowhere.json")).owner()


async def test_the_owner_may_be_another_claim(issuer: Issuer) -> None:
    checker = TokenChecker(issuer, owner_claim="email")
    assert await checker.owner({"email": "a@example.org"}) == "a@example.org"
    for email in (None, "", 7, "a\nb", "x" * 256):
        with pytest.raises(ScopeMissing, match="email"):
            await checker.owner({"email": email})
    await checker.verifier.close()


@pytest.mark.parametrize("claims", [{"scope": "openid wes"}, {"scp": ["wes", "openid"]}])
async def test_scopes_are_wanted_all(issuer: Issuer, claims: dict[str, Any]) -> None:
    checker = TokenChecker(issuer, scopes=("wes", "openid"))
    assert await checker.owner(claims) == "alice"
    for less in ({}, {"scope": "wes"}, {"scope": "wes openidx"}, {"scope": None, "scp": 7}):
        with pytest.raises(ScopeMissing, match="openid"):
            await checker.owner(less)
    await checker.verifier.close()
