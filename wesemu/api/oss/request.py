"""What a request is about: its bucket, key and query, however it is addressed.

Three ways lead here. `/oss/<bucket>/<key>` is ours. The SDKs drop the path of an endpoint, so
with `http://127.0.0.1:<port>` they ask for `/<bucket>/<key>`, and with a host name for `/<key>`
of the host `<bucket>.<name>`. These two are told from other APIs by what only OSS clients send.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, unquote_plus

from aiohttp import web

# The XML documents that clients send.


PREFIX = "/oss"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_SERVICE = re.compile(r"(s3-)?oss(-.*)?")
_SCHEMES = ("OSS ", "OSS2 ", "OSS4-HMAC-SHA256 ")
_CLIENTS = re.compile(r"aliyun-sdk-|alibabacloud-[a-z]+-sdk-v2|ossutil", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OssRequest:
    """An empty `bucket` is the service, an empty `key` the bucket itself.

    `parameters` are decoded and in the order of the URL; `query` has the first of each name.
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
"""What a call is about."""

CALL: web.RequestKey[OssRequest] = web.RequestKey("oss_call", OssRequest)


def is_signed(request: web.Request) -> bool:
    """Whether the request shows an OSS signature, good or bad."""
    if request.headers.get("Authorization", "").startswith(_SCHEMES):
        return True
    return any(name in ("OSSAccessKeyId", "x-oss-signature") for name, _ in _parameters(request))


def is_marked(request: web.Request) -> bool:
    """Whether the request has anything that only OSS clients send."""
    if any(name.lower().startswith("x-oss-") for name in request.headers):
        return True
    return is_signed(request) or _CLIENTS.match(request.headers.get("User-Agent", "")) is not None


def is_s3(request: web.Request) -> bool:
    """Whether an S3 client has signed the request, by header or by query."""
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
    """`genes` of the host `genes.localhost`; empty for an address, for a name without dots and
    for the names that the cloud has for the service itself (`oss-cn-shenzhen.aliyuncs.com`)."""
    host = request.headers.get("Host", "").lower()
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    bucket, _, rest = name.partition(".")
    if not rest or _is_address(name) or _SERVICE.fullmatch(bucket) or not _BUCKET.fullmatch(bucket):
        return ""
    return bucket


def by_host(request: web.Request, bucket: str) -> OssRequest:
    """The call when the host names the bucket."""
    return _call(request, bucket, _decoded(_raw_path(request).removeprefix("/")))


def by_path(request: web.Request) -> OssRequest:
    """The call when the path names the bucket, below PREFIX or at the top."""
    path = _raw_path(request)
    if is_prefixed(request):
        path = path.removeprefix(PREFIX)
    bucket, _, key = path.removeprefix("/").partition("/")
    return _call(request, _decoded(bucket), _decoded(key))


def level_of(request: web.Request) -> Level:
    """What a request is about, also before its CALL is known."""
    if CALL in request:
        return request[CALL].level
    bucket = "" if is_prefixed(request) else bucket_of_host(request)
    return (by_host(request, bucket) if bucket else by_path(request)).level


def _call(request: web.Request, bucket: str, key: str) -> OssRequest:
    parameters = _parameters(request)
    return OssRequest(request.method, bucket, key, tuple(parameters), dict(reversed(parameters)))


def _raw_path(request: web.Request) -> str:
    """Still percent-encoded, so that what an escaped slash or dot stands for is left alone."""
    return request.rel_url.raw_path


def _parameters(request: web.Request) -> list[tuple[str, str]]:
    """A plus sign is a space, as oss2 (by way of requests) writes it in a query."""
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
