"""OSS authentication: the signatures V1, V2 and V4 (OSS API, "Include signatures in the
Authorization header" and "in a URL"), and their check."""

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote

from aiohttp import web

from wesemu.api.base import collect_headers, parse_time, percent_encode, to_bytes
from wesemu.api.oss.request import OssRequest
from wesemu.api.oss.responses import OssSignatureRefused
from wesemu.runs.clock import Clock
from wesemu.runs.model import LOCAL_OWNER, Owner

# Signatures V1, V2 and V4, each in the Authorization header or in a presigned URL

V4 = "OSS4-HMAC-SHA256"
_V1_AUTHORIZATION = re.compile(r"OSS ([^:\s]+):(\S+)")
_FIELD = re.compile(r"([A-Za-z]+)[:=]([^,\s]+)")
_ALWAYS_SIGNED = ("content-type", "content-md5")
_SUBRESOURCE_NAMES = """accessPoint accessPointConfigForObjectProcess accessPointForObjectProcess
    accessPointPolicy accessPointPolicyForObjectProcess acl append asyncFetch
    bucketArchiveDirectRead bucketInfo callback callback-var cleanRestoredObject cloudboxes
    cname comp continuation-token cors delete encryption endTime group httpsConfig img
    inventory inventoryId legalHold lifecycle link live location logging metaQuery
    objectInfo objectMeta objectWorm overwriteConfig partNumber policy policyStatus position
    processConfiguration publicAccessBlock qos qosInfo qosRequester redundancyTransition
    referer regionList replication replicationLocation replicationProgress requesterQosInfo
    requestPayment resourceGroup resourcePool resourcePoolBuckets resourcePoolInfo
    response-cache-control response-content-disposition response-content-encoding
    response-content-language response-content-type response-expires responseHeader restore
    retention rtc seal security-token sequential startTime stat status style styleName
    symlink tagging transferAcceleration udf udfApplication udfApplicationLog udfId udfImage
    udfImageDesc udfName uploadId uploads userDefinedLogFieldsConfig versionId versioning
    versions vip vod vpcip website withHashContext worm wormExtend wormId
    x-oss-ac-forward-allow x-oss-ac-source-ip x-oss-ac-subnet-mask x-oss-ac-vpc-id
    x-oss-access-point-name x-oss-async-process x-oss-delete x-oss-dir x-oss-enable-md5
    x-oss-enable-sha1 x-oss-enable-sha256 x-oss-hash-ctx x-oss-md5-ctx x-oss-process
    x-oss-redundancy-transition-taskid x-oss-rename x-oss-request-payer
    x-oss-target-redundancy-type x-oss-traffic-limit x-oss-write-get-object-response"""
SUBRESOURCES = frozenset(_SUBRESOURCE_NAMES.split())
"""The parts of a query that V1 signs, as listed in the official SDKs."""


@dataclass(frozen=True, slots=True)
class OssSignature:
    """A signature as sent. V4's `scope` is `<date>/<region>/<product>/aliyun_v4_request`.

    `time` is the time of signing. `expires` is set for presigned URLs: epoch seconds (V1, V2) or a
    duration in seconds (V4).
    """

    version: Literal[1, 2, 4]
    key_id: str
    value: str
    time: str
    expires: str | None = None
    additional: tuple[str, ...] = ()
    scope: str = ""


def read_signature(call: OssRequest, headers: Mapping[str, str]) -> OssSignature | None:
    """Return the signature of a request, or None if it has none in a known format."""
    authorization = headers.get("authorization", "")
    if not authorization:
        return _presigned(call.query)
    time = headers.get("x-oss-date", "") or headers.get("date", "")
    if v1 := _V1_AUTHORIZATION.fullmatch(authorization):
        return OssSignature(1, v1[1], v1[2], time)
    scheme, _, rest = authorization.partition(" ")
    matches = [_FIELD.fullmatch(field.strip()) for field in rest.split(",")]
    fields = {match[1]: match[2] for match in matches if match}
    value = fields.get("Signature", "")
    additional = tuple(sorted(fields.get("AdditionalHeaders", "").lower().split(";")))
    additional = tuple(name for name in additional if name)
    if scheme == "OSS2":
        key_id = fields.get("AccessKeyId", "")
        return OssSignature(2, key_id, value, headers.get("date", ""), additional=additional)
    if scheme == V4:
        key_id, _, scope = fields.get("Credential", "").partition("/")
        return OssSignature(4, key_id, value, time, additional=additional, scope=scope)
    return None


def verify(
    call: OssRequest, headers: Mapping[str, str], signature: OssSignature, secret: str
) -> bool:
    """Return whether the secret produces this signature of the request."""
    text = to_bytes(string_to_sign(call, headers, signature))
    match signature.version:
        case 1:
            digest = hmac.new(to_bytes(secret), text, hashlib.sha1).digest()
            expected = base64.b64encode(digest).decode()
        case 2:
            digest = hmac.new(to_bytes(secret), text, hashlib.sha256).digest()
            expected = base64.b64encode(digest).decode()
        case 4:
            key = to_bytes(f"aliyun_v4{secret}")
            # V4 derives the signing key from the secret and each part of the scope.
            for step in signature.scope.split("/"):
                key = hmac.new(key, to_bytes(step), hashlib.sha256).digest()
            expected = hmac.new(key, text, hashlib.sha256).hexdigest()
    return hmac.compare_digest(to_bytes(expected), to_bytes(signature.value))


def string_to_sign(call: OssRequest, headers: Mapping[str, str], signature: OssSignature) -> str:
    """Return the string to sign. OSS shows it in SignatureDoesNotMatch."""
    resource = f"/{call.bucket}/{call.key}" if call.bucket else "/"
    if signature.version == 4:
        return _v4_string(call, headers, signature, resource)
    if signature.version == 1:
        names = [name for name in headers if name.startswith("x-oss-")]
        tail = resource + _query([p for p in call.parameters if p[0] in SUBRESOURCES])
    else:
        names = _signed_names(headers, signature, ())
        pairs = _signed_query(call)
        tail = f"{';'.join(signature.additional)}\n{percent_encode(resource)}{_query(pairs)}"
    lines = [
        call.method,
        headers.get("content-md5", ""),
        headers.get("content-type", ""),
        signature.time if signature.expires is None else signature.expires,
        *(f"{name}:{headers[name]}" for name in sorted(names)),
        tail,
    ]
    return "\n".join(lines)


def _v4_string(
    call: OssRequest, headers: Mapping[str, str], signature: OssSignature, resource: str
) -> str:
    pairs = _signed_query(call)
    names = _signed_names(headers, signature, _ALWAYS_SIGNED)
    canonical = "\n".join(
        [
            call.method,
            quote(resource, safe="/-_.~", errors="surrogateescape"),
            _query(pairs).removeprefix("?"),
            *(f"{name}:{headers[name]}" for name in sorted(names)),
            "",
            ";".join(signature.additional),
            headers.get("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
        ]
    )
    digest = hashlib.sha256(to_bytes(canonical)).hexdigest()
    return "\n".join([V4, signature.time, signature.scope, digest])


def _presigned(query: Mapping[str, str]) -> OssSignature | None:
    additional = tuple(sorted(filter(None, query.get("x-oss-additional-headers", "").split(";"))))
    value = query.get("x-oss-signature", "")
    expires = query.get("x-oss-expires", "")
    match query.get("x-oss-signature-version"):
        case "OSS2":
            key_id = query.get("x-oss-access-key-id", "")
            return OssSignature(2, key_id, value, "", expires, additional)
        case "OSS4-HMAC-SHA256":
            key_id, _, scope = query.get("x-oss-credential", "").partition("/")
            time = query.get("x-oss-date", "")
            return OssSignature(4, key_id, value, time, expires, additional, scope)
    if "OSSAccessKeyId" in query:
        key_id, value = query["OSSAccessKeyId"], query.get("Signature", "")
        return OssSignature(1, key_id, value, "", query.get("Expires", ""))
    return None


def _signed_names(
    headers: Mapping[str, str], signature: OssSignature, always: tuple[str, ...]
) -> list[str]:
    return [
        name
        for name in headers
        if name.startswith("x-oss-") or name in always or name in signature.additional
    ]


def _signed_query(call: OssRequest) -> list[tuple[str, str]]:
    """Return the parameters that V2 and V4 sign, percent-encoded."""
    return [
        (percent_encode(name), percent_encode(value))
        for name, value in call.parameters
        if name != "x-oss-signature"
    ]


def _query(pairs: list[tuple[str, str]]) -> str:
    """Join sorted pairs. An empty value has no equals sign."""
    texts = [f"{name}={value}" if value else name for name, value in sorted(pairs)]
    return "?" + "&".join(texts) if texts else ""


# Authentication

SKEW = timedelta(minutes=15)
"""The largest difference between the clocks of client and server (RequestTimeTooSkewed)."""

_MAX_PRESIGNED = timedelta(days=7)
_MAX_EPOCH = 253_402_300_799  # the last second of the year 9999


class OssAuthenticator:
    """Checks signatures with `keys` (access key id = secret). The owner is the access key id.

    `bearer` returns the owner of a bearer token, an extension for clients of several APIs. OSS
    clients cannot send one. Without keys and `bearer`, every caller is LOCAL_OWNER and signatures
    are ignored. `clock` is the wall clock, because clients sign with real time.
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

    async def owner(self, request: web.Request, call: OssRequest) -> Owner:
        """Return the caller. Raises OssSignatureRefused, and what `bearer` raises."""
        if not self._keys and self._bearer is None:
            return LOCAL_OWNER
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self._bearer is not None and scheme.casefold() == "bearer":
            if (owner := await self._bearer(token.strip())) is not None:
                return owner
            raise _denied("This bearer token is unknown.")
        return self.check(call, collect_headers(request.headers.items()))

    def check(self, call: OssRequest, headers: Mapping[str, str]) -> Owner:
        """Return the owner of a signed request. Header names are in lower case. Raises
        OssSignatureRefused."""
        signature = read_signature(call, headers)
        if signature is None:
            raise _denied("You have no right to access this object: sign the request.")
        secret = self._keys.get(signature.key_id)
        if secret is None:
            raise OssSignatureRefused(
                403,
                "InvalidAccessKeyId",
                "The OSS Access Key Id you provided does not exist in our records.",
                details={"OSSAccessKeyId": signature.key_id},
            )
        self._check_time(signature)
        if not verify(call, headers, signature, secret):
            text = string_to_sign(call, headers, signature)
            raise OssSignatureRefused(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
                details={
                    "OSSAccessKeyId": signature.key_id,
                    "SignatureProvided": signature.value,
                    "StringToSign": text,
                },
            )
        return Owner(signature.key_id)

    def _check_time(self, signature: OssSignature) -> None:
        now = self._clock.now()
        if signature.version == 4:
            # ossutil signs with V4 and sends no x-oss-date, only Date
            day = f"{_parse_time(signature.time):%Y%m%d}"
            if not signature.scope.startswith(f"{day}/"):
                raise _denied("The date in Credential differs from x-oss-date or Date.")
        if signature.expires is not None:
            if signature.version == 4 and _parse_time(signature.time) - now > SKEW:
                raise _denied("Request is not valid yet.")
            if _expiry(signature) < now:
                raise _denied("Request has expired.")
            return
        if abs(_parse_time(signature.time) - now) > SKEW:
            raise OssSignatureRefused(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
                details={
                    "MaxAllowedSkewMilliseconds": str(SKEW // timedelta(milliseconds=1)),
                    "RequestTime": signature.time,
                    "ServerTime": f"{now:%Y-%m-%dT%H:%M:%S.000Z}",
                },
            )


def _expiry(signature: OssSignature) -> datetime:
    text = signature.expires or ""
    if not text.isascii() or not text.isdecimal():
        raise _denied(f"Expires is {text[:40]!r}, not a number of seconds.")
    if signature.version != 4:
        return datetime.fromtimestamp(min(int(text[:20]), _MAX_EPOCH), UTC)
    duration = timedelta(seconds=min(int(text[:20]), _MAX_EPOCH))
    if duration > _MAX_PRESIGNED:
        raise _denied("A presigned URL (V4) holds for seven days at most.")
    return _parse_time(signature.time) + duration


def _parse_time(text: str) -> datetime:
    """Parse an ISO 8601 or HTTP date. Raises OssSignatureRefused."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise _denied(
            f"OSS authentication requires a valid Date, and {text[:40]!r} is not one."
        ) from error


def _denied(message: str) -> OssSignatureRefused:
    return OssSignatureRefused(403, "AccessDenied", message)
