"""Alibaba Cloud's two request signatures, computed from a request as it came over the wire.

ROA: `Authorization: acs <id>:<sig>`, Base64(HMAC-SHA1(secret, string to sign)). ACS3:
`Authorization: ACS3-HMAC-SHA256 Credential=<id>,SignedHeaders=…,Signature=<hex>`. Pure functions;
who may come in, and when, is `authenticator`'s.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

ACS3 = "ACS3-HMAC-SHA256"
_ROA_HEADERS = ("accept", "content-md5", "content-type", "date")
_ROA_AUTHORIZATION = re.compile(r"acs ([^:\s]+):(\S+)")
_ACS3_AUTHORIZATION = re.compile(
    rf"{ACS3} Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]+)"
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as sent: `target` is the raw path with its query, header names are lower case.

    The values of a repeated header are joined by commas, so that none can be smuggled in.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Decoded, sorted by name; empty values kept."""
        query = self.target.partition("?")[2]
        return sorted(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))


@dataclass(frozen=True, slots=True)
class Signature:
    """What an Authorization header claims. `signed` are ACS3's SignedHeaders."""

    scheme: str
    key_id: str
    value: str
    signed: tuple[str, ...] = ()


def collect_headers(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Names in lower case, values trimmed; see `SignedRequest`."""
    collected: dict[str, str] = {}
    for name, value in headers:
        key, text = name.lower(), value.strip()
        collected[key] = f"{collected[key]},{text}" if key in collected else text
    return collected


def read_authorization(header: str) -> Signature | None:
    """None for a header that is neither of the two."""
    if roa := _ROA_AUTHORIZATION.fullmatch(header):
        return Signature("acs", roa[1], roa[2])
    if acs3 := _ACS3_AUTHORIZATION.fullmatch(header):
        return Signature(ACS3, acs3[1], acs3[3], tuple(acs3[2].split(";")))
    return None


def unsigned_headers(request: SignedRequest, signature: Signature) -> list[str]:
    """The headers that ACS3 wants signed and that are not: host and every `x-acs-*`."""
    needed = {name for name in request.headers if name.startswith("x-acs-")} | {"host"}
    return sorted(needed - set(signature.signed))


def verify(request: SignedRequest, signature: Signature, secret: str) -> bool:
    """Whether `signature` is the one that the secret's owner would have made of the request."""
    return any(
        hmac.compare_digest(_bytes(expected), _bytes(signature.value))
        for expected in _expected(request, signature, secret)
    )


def string_to_sign(request: SignedRequest, signature: Signature) -> str:
    """The string that the server signs, for the error message."""
    if signature.scheme == ACS3:
        return _acs3_string(request, signature.signed)
    return next(_roa_strings(request))


def _expected(request: SignedRequest, signature: Signature, secret: str) -> Iterator[str]:
    key = _bytes(secret)
    if signature.scheme == ACS3:
        text = _bytes(_acs3_string(request, signature.signed))
        yield hmac.new(key, text, hashlib.sha256).hexdigest()
        return
    for candidate in _roa_strings(request):
        digest = hmac.new(key, _bytes(candidate), hashlib.sha1).digest()
        yield base64.b64encode(digest).decode()


def _roa_strings(request: SignedRequest) -> Iterator[str]:
    """The SDKs' spellings: the path as sent (new) or unescaped (old), an empty value as `k` (new)
    or `k=` (old). A path that holds a percent sign once unescaped was never signed so."""
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
    query = "&".join(f"{_escaped(name)}={_escaped(value)}" for name, value in request.parameters)
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
    return f"{ACS3}\n{hashlib.sha256(_bytes(canonical)).hexdigest()}"


def _escaped(text: str) -> str:
    """RFC 3986: all but the unreserved characters."""
    return quote(text, safe="-_.~", errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
