"""AGS authentication: Alibaba Cloud's two request signatures, and the check of an access key's
signature, time stamp and nonce."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from cachetools import TTLCache

from wesemu.api.ags.responses import AgsSignatureRefused
from wesemu.api.base import collect_headers, parse_time, percent_encode, to_bytes
from wesemu.runs.clock import Clock
from wesemu.runs.model import LOCAL_OWNER, Owner

# Signatures: ROA style (HMAC-SHA1) and V3 (ACS3-HMAC-SHA256), see "Request structure and signature"
# of the Alibaba Cloud OpenAPI documentation

ACS3 = "ACS3-HMAC-SHA256"
_ROA_HEADERS = ("accept", "content-md5", "content-type", "date")
_ROA_AUTHORIZATION = re.compile(r"acs ([^:\s]+):(\S+)")
_ACS3_FIELD = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as received: `target` is the raw path and query, header names are lower case.

    The values of a repeated header are joined by commas: a second header cannot hide behind a
    signed one.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The decoded query, sorted by name. Empty values are included."""
        query = self.target.partition("?")[2]
        return sorted(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))


@dataclass(frozen=True, slots=True)
class AgsSignature:
    """The content of an Authorization header. `signed` is the list SignedHeaders of ACS3."""

    scheme: str
    key_id: str
    value: str
    signed: tuple[str, ...] = ()


def read_authorization(header: str) -> AgsSignature | None:
    """Parse an Authorization header. Return None if it has neither of the two formats."""
    if roa := _ROA_AUTHORIZATION.fullmatch(header):
        return AgsSignature("acs", roa[1], roa[2])
    scheme, _, rest = header.partition(" ")
    if scheme != ACS3:
        return None
    # SDKs differ in the order of the three fields
    matches = [_ACS3_FIELD.fullmatch(field.strip()) for field in rest.split(",")]
    fields = {match[1]: match[2] for match in matches if match}
    if len(fields) != 3 or len(matches) != 3:
        return None
    signed = tuple(fields["SignedHeaders"].split(";"))
    return AgsSignature(ACS3, fields["Credential"], fields["Signature"], signed)


def unsigned_headers(request: SignedRequest, signature: AgsSignature) -> list[str]:
    """Return the headers that ACS3 requires (`x-acs-*`) but SignedHeaders lacks.

    The host is signed by most SDKs, but not by aliyun-java-sdk-core.
    """
    needed = {name for name in request.headers if name.startswith("x-acs-")}
    return sorted(needed - set(signature.signed))


def verify(request: SignedRequest, signature: AgsSignature, secret: str) -> bool:
    """Return whether the secret produces this signature of the request."""
    return any(
        hmac.compare_digest(to_bytes(expected), to_bytes(signature.value))
        for expected in _expected(request, signature, secret)
    )


def string_to_sign(request: SignedRequest, signature: AgsSignature) -> str:
    """Return the string to sign. The gateway shows it in SignatureDoesNotMatch."""
    if signature.scheme == ACS3:
        return _acs3_string(request, signature.signed)
    return next(_roa_strings(request))


def _expected(request: SignedRequest, signature: AgsSignature, secret: str) -> Iterator[str]:
    key = to_bytes(secret)
    if signature.scheme == ACS3:
        text = to_bytes(_acs3_string(request, signature.signed))
        yield hmac.new(key, text, hashlib.sha256).hexdigest()
        return
    for candidate in _roa_strings(request):
        digest = hmac.new(key, to_bytes(candidate), hashlib.sha1).digest()
        yield base64.b64encode(digest).decode()


def _roa_strings(request: SignedRequest) -> Iterator[str]:
    """Yield the strings to sign that the official SDKs produce.

    Newer SDKs sign the path as sent and an empty value as `k`; older ones sign the unescaped path
    and `k=`. If the unescaped path contains a percent sign, only the path as sent is unambiguous.
    """
    lines = [request.method, *(request.headers.get(name, "") for name in _ROA_HEADERS)]
    lines += [
        f"{name}:{value}"
        for name, value in sorted(request.headers.items())
        if name.startswith("x-acs-")
    ]
    head = "\n".join(lines) + "\n"
    plain = unquote(request.path, errors="surrogateescape")
    paths = [request.path] if "%" in plain else list(dict.fromkeys((request.path, plain)))
    for path in paths:
        for empty in ("=", ""):
            query = "&".join(
                f"{name}={value}" if value else f"{name}{empty}"
                for name, value in request.parameters
            )
            yield f"{head}{path}?{query}" if query else f"{head}{path}"


def _acs3_string(request: SignedRequest, signed: Sequence[str]) -> str:
    query = "&".join(
        f"{percent_encode(name)}={percent_encode(value)}" for name, value in request.parameters
    )
    canonical = "\n".join(
        [
            request.method,
            request.path,
            query,
            *(f"{name}:{request.headers.get(name, '')}" for name in signed),
            "",
            ";".join(signed),
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    return f"{ACS3}\n{hashlib.sha256(to_bytes(canonical)).hexdigest()}"


# Authentication

SKEW = timedelta(minutes=15)
"""The largest difference between the clocks of client and server."""

_NONCES = 100_000


class AgsAuthenticator:
    """Checks signatures with `keys` (access key id = secret). The owner is the access key id.

    `bearer` returns the owner of a bearer token. Bearer tokens are an extension for clients that
    use AGS and WES. Without keys and `bearer`, every caller is LOCAL_OWNER, and signatures are
    ignored. With `bearer`, every request needs credentials.

    `clock` is the wall clock, because clients sign with real time. A nonce is remembered while its
    request would be accepted, up to 100,000 nonces.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        clock: Clock,
        *,
        bearer: Callable[[str], Awaitable[Owner | None]] | None = None,
    ) -> None:
        self._keys = dict(keys)
        self._bearer = bearer
        self._clock = clock
        # A time stamp may be 15 minutes ahead, so a request is accepted for 30.
        self._nonces: TTLCache[tuple[str, str], None, datetime] = TTLCache(
            _NONCES, ttl=2 * SKEW + timedelta.resolution, timer=clock.now
        )

    async def owner(self, request: web.Request) -> Owner:
        """Return the caller. Reads the body if keys are configured. Raises AgsSignatureRefused, and
        what `bearer` raises."""
        if not self._keys and self._bearer is None:
            return LOCAL_OWNER
        authorization = request.headers.get("Authorization", "")
        if (owner := await self._bearer_owner(authorization)) is not None:
            return owner
        return self.check(
            SignedRequest(
                method=request.method,
                target=request.raw_path,
                headers=collect_headers(request.headers.items()),
                body=await request.read(),
            )
        )

    async def _bearer_owner(self, authorization: str) -> Owner | None:
        scheme, _, token = authorization.partition(" ")
        if self._bearer is None or scheme.casefold() != "bearer":
            return None
        return await self._bearer(token.strip())

    def check(self, request: SignedRequest) -> Owner:
        """Return the owner of a signed request. Raises AgsSignatureRefused."""
        signature = read_authorization(request.headers.get("authorization", ""))
        if signature is None:
            raise _incomplete("sign with 'acs' (HMAC-SHA1) or ACS3-HMAC-SHA256")
        secret = self._keys.get(signature.key_id)
        if secret is None:
            raise AgsSignatureRefused(
                404, "InvalidAccessKeyId.NotFound", "Specified access key is not found."
            )
        if signature.scheme == ACS3 and (missing := unsigned_headers(request, signature)):
            raise _incomplete(f"SignedHeaders lacks {', '.join(missing)}")
        self._check_time(request, signature)
        # before the signature: a body that differs from its digest makes ACS3 signatures differ
        _check_digests(request)
        if not verify(request, signature, secret):
            raise _mismatch(f"server string to sign is:{string_to_sign(request, signature)}")
        # last: a forged request must not use up a client's nonce
        self._check_nonce(request, signature)
        return Owner(signature.key_id)

    def _check_time(self, request: SignedRequest, signature: AgsSignature) -> None:
        names = ("x-acs-date",) if signature.scheme == ACS3 else ("x-acs-date", "date")
        sent = [request.headers[name] for name in names if name in request.headers]
        if not sent:
            raise _incomplete(f"send the header {' or '.join(names)}")
        now = self._clock.now()
        if any(abs(_parse_time(text) - now) > SKEW for text in sent):
            raise AgsSignatureRefused(
                400,
                "InvalidTimeStamp.Expired",
                f"Specified time stamp or date value is expired: {sent[0][:40]} is more than 15 "
                f"minutes from the server's {now:%Y-%m-%dT%H:%M:%SZ}.",
            )

    def _check_nonce(self, request: SignedRequest, signature: AgsSignature) -> None:
        nonce = request.headers.get("x-acs-signature-nonce")
        if nonce is None:
            return
        used = (signature.key_id, nonce)
        if used in self._nonces:
            raise AgsSignatureRefused(
                400, "SignatureNonceUsed", f"Specified signature nonce was used already: {nonce}."
            )
        self._nonces[used] = None


def _check_digests(request: SignedRequest) -> None:
    """Compare the body with Content-MD5 and x-acs-content-sha256, if they were sent."""
    sent = request.headers.get("content-md5")
    if sent is not None and _decoded(sent) != _md5(request.body):
        raise _mismatch("the body does not match Content-MD5: send the body that was signed")
    sent = request.headers.get("x-acs-content-sha256")
    if sent is not None and sent.lower() != hashlib.sha256(request.body).hexdigest():
        raise _mismatch(
            "the body does not match x-acs-content-sha256: send the body that was signed"
        )


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _parse_time(text: str) -> datetime:
    """Parse an ISO 8601 or HTTP date. Raises AgsSignatureRefused."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise _incomplete(f"{text[:40]!r} is not a date") from error


def _incomplete(reason: str) -> AgsSignatureRefused:
    return AgsSignatureRefused(
        400,
        "IncompleteSignature",
        f"The request signature does not conform to Aliyun standards: {reason}.",
    )


def _mismatch(reason: str) -> AgsSignatureRefused:
    return AgsSignatureRefused(
        400,
        "SignatureDoesNotMatch",
        f"Specified signature is not matched with our calculation. {reason}",
    )
