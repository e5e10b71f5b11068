"""The target of an OSS request: bucket, key and query. There are three ways to address an object.

`/oss/<bucket>/<key>` is an extension. The SDKs drop the path of an endpoint. With
`http://127.0.0.1:<port>` they request `/<bucket>/<key>` (path style), with a host name `/<key>` of
the host `<bucket>.<name>` (virtual-hosted style). Headers and parameters that only OSS clients send
tell these two from the other APIs.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, unquote_plus

from aiohttp import web

from wesemu.storage.buckets import BUCKET_NAME

PREFIX = "/oss"
_SERVICE = re.compile(r"(s3-)?oss(-.*)?")
_SCHEMES = ("OSS ", "OSS2 ", "OSS4-HMAC-SHA256 ")
_CLIENTS = re.compile(r"aliyun-sdk-|alibabacloud-[a-z]+-sdk-v2|ossutil", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OssRequest:
    """The target of a request. Without `bucket`, it is the service; without `key`, the bucket.

    `parameters` are decoded, in the order of the URL. `query` has the first value of each name;
    operations refuse a name with two values.
    """

    method: str
    bucket: str
    key: str
    parameters: tuple[tuple[str, str], ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def level(self) -> "Level":
        return "object" if self.key else "bucket" if self.bucket else "service"


Level = Literal["service", "bucket", "object"]
"""The kind of a request's target."""

CALL: web.RequestKey[OssRequest] = web.RequestKey("oss_call", OssRequest)


def is_signed(request: web.Request) -> bool:
    """Return whether the request has an OSS signature, valid or not."""
    if request.headers.get("Authorization", "").startswith(_SCHEMES):
        return True
    return any(name in ("OSSAccessKeyId", "x-oss-signature") for name, _ in _parameters(request))


def is_marked(request: web.Request) -> bool:
    """Return whether the request has a header or parameter that only OSS clients send."""
    if any(name.lower().startswith("x-oss-") for name in request.headers):
        return True
    return is_signed(request) or _CLIENTS.match(request.headers.get("User-Agent", "")) is not None


def is_s3(request: web.Request) -> bool:
    """Return whether an S3 client signed the request, in a header or in the query."""
    authorization = request.headers.get("Authorization", "")
    if authorization.startswith(("AWS4-HMAC-", "AWS4-ECDSA-", "AWS ")):
        return True
    if any(name.lower().startswith("x-amz-") for name in request.headers):
        return True
    names = {name.lower() for name, _ in _parameters(request)}
    return "x-amz-algorithm" in names or "awsaccesskeyid" in names


def is_prefixed(request: web.Request) -> bool:
    path = _raw_path(request)
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def bucket_of_host(request: web.Request) -> str:
    """Return the bucket of a virtual-hosted request, such as `genes` for `genes.localhost`.

    Return "" for IP addresses, names without dots, and OSS endpoints such as
    `oss-cn-shenzhen.aliyuncs.com`. A bucket of such an endpoint may have a similar name:
    `oss-data.oss-cn-shenzhen.aliyuncs.com`.
    """
    host = request.headers.get("Host", "").lower()
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    bucket, _, rest = name.partition(".")
    if not rest or _is_address(name) or not BUCKET_NAME.fullmatch(bucket):
        return ""
    is_endpoint = _SERVICE.fullmatch(bucket) and not _SERVICE.fullmatch(rest.partition(".")[0])
    return "" if is_endpoint else bucket


def by_host(request: web.Request, bucket: str) -> OssRequest:
    """Return the target if the host names the bucket."""
    return _call(request, bucket, _decoded(_raw_path(request).removeprefix("/")))


def by_path(request: web.Request) -> OssRequest:
    """Return the target if the path names the bucket, below PREFIX or at the root."""
    path = _raw_path(request)
    if is_prefixed(request):
        path = path.removeprefix(PREFIX)
    bucket, _, key = path.removeprefix("/").partition("/")
    return _call(request, _decoded(bucket), _decoded(key))


def level_of(request: web.Request) -> Level:
    """Return the kind of target, also before CALL is set."""
    if CALL in request:
        return request[CALL].level
    bucket = "" if is_prefixed(request) else bucket_of_host(request)
    return (by_host(request, bucket) if bucket else by_path(request)).level


def _call(request: web.Request, bucket: str, key: str) -> OssRequest:
    parameters = _parameters(request)
    return OssRequest(request.method, bucket, key, tuple(parameters), dict(reversed(parameters)))


def _raw_path(request: web.Request) -> str:
    """Return the path percent-encoded: `%2F` and `%2E` in a key are not path syntax."""
    return request.rel_url.raw_path


def _parameters(request: web.Request) -> list[tuple[str, str]]:
    """Return the decoded query. A plus sign is a space, as oss2 (through requests) sends it."""
    query = request.rel_url.raw_query_string
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return [
        (
            unquote_plus(name, errors="surrogateescape"),
            unquote_plus(value, errors="surrogateescape"),
        )
        for name, _, value in pairs
    ]


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
