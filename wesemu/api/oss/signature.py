"""The three signatures of OSS, each in the Authorization header or in a presigned URL.

V1 `OSS <id>:<sig>` is HMAC-SHA1 over the sub-resources that the request names; V2 `OSS2 …` and V4
`OSS4-HMAC-SHA256 …` are HMAC-SHA256 over the whole query (help.aliyun.com, "Signature version
1/2/4"). Whatever the address, all sign `/<bucket>/<key>`. Pure functions; who may come in, and
when, is `authenticator`'s.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from wesemu.api.oss.call import Call

V4 = "OSS4-HMAC-SHA256"
_V1_AUTHORIZATION = re.compile(r"OSS ([^:\s]+):(\S+)")
_FIELD = re.compile(r"([A-Za-z]+)[:=]([^,\s]+)")
_ALWAYS_SIGNED = ("content-type", "content-md5")
_SUBRESOURCE_NAMES = """accessPoint accessPointPolicy acl append asyncFetch bucketArchiveDirectRead
    bucketInfo callback callback-var cname comp continuation-token cors delete encryption endTime
    group
    httpsConfig inventory inventoryId lifecycle link live location logging metaQuery objectInfo
    objectMeta partNumber policy position publicAccessBlock qos qosInfo qosRequester
    redundancyTransition referer regionList replication replicationLocation replicationProgress
    requestPayment requesterQosInfo resourceGroup resourcePool resourcePoolBuckets
    resourcePoolInfo response-cache-control response-content-disposition
    response-content-encoding response-content-language response-content-type response-expires
    restore security-token sequential startTime stat status style styleName symlink tagging
    transferAcceleration uploadId uploads versionId versioning versions vod website worm
    wormExtend wormId x-oss-ac-forward-allow x-oss-ac-source-ip x-oss-ac-subnet-mask
    x-oss-ac-vpc-id x-oss-access-point-name x-oss-async-process x-oss-process
    x-oss-redundancy-transition-taskid x-oss-request-payer x-oss-target-redundancy-type
    x-oss-traffic-limit x-oss-write-get-object-response"""
SUBRESOURCES = frozenset(_SUBRESOURCE_NAMES.split())
"""What V1 signs of a query, as the SDKs have it."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a request claims. `scope` (V4) is `<date>/<region>/<product>/aliyun_v4_request`.

    `time` is when it was signed; `expires` is set for a presigned URL only: the time in epoch
    seconds (V1, V2), or the seconds that it holds (V4).
    """

    version: Literal[1, 2, 4]
    key_id: str
    value: str
    time: str
    expires: str | None = None
    additional: tuple[str, ...] = ()
    scope: str = ""


def read_signature(call: Call, headers: Mapping[str, str]) -> Signature | None:
    """None for a request without a signature, or one that is none of the six."""
    authorization = headers.get("authorization", "")
    if not authorization:
        return _presigned(call.query)
    time = headers.get("x-oss-date", "") or headers.get("date", "")
    if v1 := _V1_AUTHORIZATION.fullmatch(authorization):
        return Signature(1, v1[1], v1[2], time)
    scheme, _, rest = authorization.partition(" ")
    fields = dict(_FIELD.findall(rest))
    value = fields.get("Signature", "")
    additional = tuple(sorted(fields.get("AdditionalHeaders", "").lower().split(";")))
    additional = tuple(name for name in additional if name)
    if scheme == "OSS2":
        key_id = fields.get("AccessKeyId", "")
        return Signature(2, key_id, value, headers.get("date", ""), additional=additional)
    if scheme == V4:
        key_id, _, scope = fields.get("Credential", "").partition("/")
        date = headers.get("x-oss-date", "")
        return Signature(4, key_id, value, date, additional=additional, scope=scope)
    return None


def verify(call: Call, headers: Mapping[str, str], signature: Signature, secret: str) -> bool:
    """Whether `signature` is the one that the secret's owner would have made of the request."""
    text = _bytes(string_to_sign(call, headers, signature))
    match signature.version:
        case 1:
            digest = hmac.new(_bytes(secret), text, hashlib.sha1).digest()
            expected = base64.b64encode(digest).decode()
        case 2:
            digest = hmac.new(_bytes(secret), text, hashlib.sha256).digest()
            expected = base64.b64encode(digest).decode()
        case 4:
            key = _bytes(f"aliyun_v4{secret}")
            for step in signature.scope.split("/"):
                key = hmac.new(key, _bytes(step), hashlib.sha256).digest()
            expected = hmac.new(key, text, hashlib.sha256).hexdigest()
    return hmac.compare_digest(_bytes(expected), _bytes(signature.value))


def string_to_sign(call: Call, headers: Mapping[str, str], signature: Signature) -> str:
    """The string that the server signs, also for the error message."""
    resource = f"/{call.bucket}/{call.key}" if call.bucket else "/"
    if signature.version == 4:
        return _v4_string(call, headers, signature, resource)
    if signature.version == 1:
        names = [name for name in headers if name.startswith("x-oss-")]
        tail = resource + _query([p for p in call.parameters if p[0] in SUBRESOURCES])
    else:
        names = _signed_names(headers, signature, ())
        pairs = [(_escaped(name), _escaped(value)) for name, value in _signed_query(call)]
        tail = f"{';'.join(signature.additional)}\n{_escaped(resource)}{_query(pairs)}"
    lines = [
        call.method,
        headers.get("content-md5", ""),
        headers.get("content-type", ""),
        signature.time if signature.expires is None else signature.expires,
        *(f"{name}:{headers[name]}" for name in sorted(names)),
        tail,
    ]
    return "\n".join(lines)


def _v4_string(call: Call, headers: Mapping[str, str], signature: Signature, resource: str) -> str:
    pairs = [(_escaped(name), _escaped(value)) for name, value in _signed_query(call)]
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
    digest = hashlib.sha256(_bytes(canonical)).hexdigest()
    return "\n".join([V4, signature.time, signature.scope, digest])


def _presigned(query: Mapping[str, str]) -> Signature | None:
    additional = tuple(sorted(filter(None, query.get("x-oss-additional-headers", "").split(";"))))
    value = query.get("x-oss-signature", "")
    expires = query.get("x-oss-expires", "")
    match query.get("x-oss-signature-version"):
        case "OSS2":
            key_id = query.get("x-oss-access-key-id", "")
            return Signature(2, key_id, value, "", expires, additional)
        case "OSS4-HMAC-SHA256":
            key_id, _, scope = query.get("x-oss-credential", "").partition("/")
            time = query.get("x-oss-date", "")
            return Signature(4, key_id, value, time, expires, additional, scope)
    if "OSSAccessKeyId" in query:
        key_id, value = query["OSSAccessKeyId"], query.get("Signature", "")
        return Signature(1, key_id, value, "", query.get("Expires", ""))
    return None


def _signed_names(
    headers: Mapping[str, str], signature: Signature, always: tuple[str, ...]
) -> list[str]:
    return [
        name
        for name in headers
        if name.startswith("x-oss-") or name in always or name in signature.additional
    ]


def _signed_query(call: Call) -> list[tuple[str, str]]:
    return [pair for pair in call.parameters if pair[0] != "x-oss-signature"]


def _query(pairs: list[tuple[str, str]]) -> str:
    """Sorted; an empty value goes without its equals sign."""
    texts = [f"{name}={value}" if value else name for name, value in sorted(pairs)]
    return "?" + "&".join(texts) if texts else ""


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~", errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
