"""The OSS dialect, and the table of operations: target, method and sub-resources identify an
operation (OSS API, "API overview")."""

import asyncio
from collections.abc import Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import MultiDict

from wesemu.api.base import OPERATION, REQUEST_ID, Dialect, single_values
from wesemu.api.oss.auth import SUBRESOURCES, OssAuthenticator
from wesemu.api.oss.buckets import BucketHandlers
from wesemu.api.oss.objects import MultipartHandlers, ObjectHandlers
from wesemu.api.oss.request import (
    CALL,
    Level,
    OssRequest,
    bucket_of_host,
    by_host,
    by_path,
    is_marked,
    is_prefixed,
    is_s3,
    is_signed,
    level_of,
)
from wesemu.api.oss.responses import OssRefused, not_implemented, render
from wesemu.api.oss.streaming import SOURCE, UNVERSIONED
from wesemu.runs.model import Owner
from wesemu.storage.bucket_admin import BucketAdmin, ObjectServices

Operations = dict[tuple[Level, str, frozenset[str]], tuple[str, Handler]]
"""Target, method and sub-resources, mapped to the operation's OSS name and handler."""

_MODIFIERS = frozenset(
    {
        "continuation-token",
        "position",
        "security-token",
        "sequential",
        "x-oss-request-payer",
        "x-oss-traffic-limit",
    }
)
"""Signed parameters that select no other operation."""

_UNSIGNED_SUBRESOURCES = frozenset({"accessmonitor", "dataPipeline", "regions"})
"""Sub-resources that the SDKs do not sign with V1."""

_COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}
"""Names of the operations if the request has `x-oss-copy-source`."""

_HARMLESS_VALUES: Mapping[str, frozenset[str]] = {
    "x-oss-acl": frozenset({"private"}),
    "x-oss-callback": frozenset(),
    "x-oss-copy-source-version-id": frozenset(),
    "x-oss-object-acl": frozenset({"default", "private"}),
    "x-oss-object-worm-mode": frozenset(),
    "x-oss-object-worm-retain-until-date": frozenset(),
    "x-oss-server-side-encryption-key-id": frozenset(),
    "x-oss-tagging": frozenset({""}),
    "x-oss-tagging-directive": frozenset({"copy", "replace"}),  # without tags, both mean none
    "x-oss-website-redirect-location": frozenset(),
}
"""Headers for features that are not emulated, with the values that change nothing."""

_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
"""OSS refuses these in PutObject; `x-oss-forbid-overwrite` replaces `If-None-Match: *`."""

_ENCRYPTIONS = ("AES256", "KMS", "SM4")


class OssHandlers:
    """All operations. `handle` calls the one that a request addresses."""

    def __init__(self, objects: ObjectServices) -> None:
        self._operations: Operations = {
            **_bucket_operations(BucketHandlers(objects.buckets, objects.store)),
            **_object_operations(ObjectHandlers(objects.store)),
            **_multipart_operations(MultipartHandlers(objects.uploads, objects.store)),
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Call the operation. Raises OssRefused if it is not emulated, InvalidRequest for a
        parameter with two values."""
        call = request[CALL]
        subresources = _subresources(call)
        request[OPERATION] = self.name(call, request.headers)
        single_values(MultiDict(call.parameters))
        operation = self._operations.get((call.level, call.method, subresources))
        if operation is None:
            raise _unknown(call, subresources)
        _check_headers(request[OPERATION], request.headers)
        _, handler = operation
        return await handler(request)

    def name(self, call: OssRequest, headers: Mapping[str, str]) -> str:
        """Return the operation's OSS name, or "" if it is not emulated."""
        name, _ = self._operations.get((call.level, call.method, _subresources(call)), ("", None))
        return _COPIES.get(name, name) if SOURCE in headers else name


def _bucket_operations(handlers: BucketHandlers) -> Operations:
    return {
        ("service", "GET", _with()): ("ListBuckets", handlers.list_buckets),
        ("bucket", "PUT", _with()): ("PutBucket", handlers.create),
        ("bucket", "DELETE", _with()): ("DeleteBucket", handlers.delete),
        ("bucket", "HEAD", _with()): ("HeadBucket", handlers.head),
        ("bucket", "GET", _with()): ("ListObjects", handlers.list_objects),
        ("bucket", "GET", _with("bucketInfo")): ("GetBucketInfo", handlers.info),
        ("bucket", "GET", _with("stat")): ("GetBucketStat", handlers.statistics),
        ("bucket", "GET", _with("location")): ("GetBucketLocation", handlers.location),
        ("bucket", "GET", _with("acl")): ("GetBucketAcl", handlers.acl),
        ("bucket", "PUT", _with("acl")): ("PutBucketAcl", handlers.set_acl),
        ("bucket", "GET", _with("versioning")): ("GetBucketVersioning", handlers.versioning),
        ("bucket", "POST", _with("delete")): ("DeleteMultipleObjects", handlers.delete_many),
    }


def _object_operations(handlers: ObjectHandlers) -> Operations:
    return {
        ("object", "PUT", _with()): ("PutObject", handlers.put),
        ("object", "GET", _with()): ("GetObject", handlers.get),
        ("object", "HEAD", _with()): ("HeadObject", handlers.get),
        ("object", "HEAD", _with("objectMeta")): ("GetObjectMeta", handlers.meta),
        ("object", "GET", _with("acl")): ("GetObjectAcl", handlers.acl),
        ("object", "PUT", _with("acl")): ("PutObjectAcl", handlers.set_acl),
        ("object", "DELETE", _with()): ("DeleteObject", handlers.delete),
        ("object", "POST", _with("append")): ("AppendObject", handlers.append),
    }


def _multipart_operations(handlers: MultipartHandlers) -> Operations:
    return {
        ("bucket", "GET", _with("uploads")): ("ListMultipartUploads", handlers.list_uploads),
        ("object", "POST", _with("uploads")): ("InitiateMultipartUpload", handlers.begin),
        ("object", "PUT", _with("partNumber", "uploadId")): ("UploadPart", handlers.put_part),
        ("object", "GET", _with("uploadId")): ("ListParts", handlers.list_parts),
        ("object", "POST", _with("uploadId")): ("CompleteMultipartUpload", handlers.complete),
        ("object", "DELETE", _with("uploadId")): ("AbortMultipartUpload", handlers.abort),
    }


def _subresources(call: OssRequest) -> frozenset[str]:
    return frozenset(name for name in call.query if _is_subresource(call, name))


def _with(*subresources: str) -> frozenset[str]:
    return frozenset(subresources)


def _is_subresource(call: OssRequest, name: str) -> bool:
    """Return whether a parameter selects another operation. For writes, any parameter without a
    value counts: to ignore an unknown one could change the wrong thing."""
    if name in _MODIFIERS or name.startswith(("response-", "x-oss-ac-")):
        return False
    if name == "versionId" and call.query[name] == UNVERSIONED:
        return False
    if name in SUBRESOURCES or name in _UNSIGNED_SUBRESOURCES:
        return True
    return call.method not in ("GET", "HEAD") and not call.query[name]


def _check_headers(operation: str, headers: Mapping[str, str]) -> None:
    """Raise OssRefused for headers whose effect is not emulated, and for unknown encryption."""
    for name, harmless in _HARMLESS_VALUES.items():
        if name in headers and headers[name].lower() not in harmless:
            raise not_implemented(f"the header {name}")
    for name in _CONDITIONS:
        if operation == "PutObject" and name in headers:
            raise not_implemented(f"PutObject with the header {name}")
    algorithm = headers.get("x-oss-server-side-encryption", "AES256")
    if algorithm not in _ENCRYPTIONS:
        raise OssRefused(
            400,
            "InvalidEncryptionAlgorithmError",
            f"x-oss-server-side-encryption is {algorithm[:40]!r}, not {', '.join(_ENCRYPTIONS)}",
        )


def _unknown(call: OssRequest, subresources: frozenset[str]) -> OssRefused:
    if subresources:
        return not_implemented(f"{call.method} with {', '.join(sorted(subresources))}")
    return OssRefused(
        405, "MethodNotAllowed", "The specified method is not allowed against this resource."
    )


# Dialect. More than the path identifies an OSS request, so no route has to match.


class OssDialect(Dialect):
    """OSS. The middleware asks it before the dialects `others`.

    `handle` answers every path; the application has no routes for OSS.
    """

    def __init__(
        self,
        authenticator: OssAuthenticator,
        buckets: BucketAdmin,
        others: Sequence[Dialect],
        handlers: OssHandlers,
    ) -> None:
        self.handle = handlers.handle
        self._handlers = handlers
        self._authenticator = authenticator
        self._buckets = buckets
        self._others = others

    def request_id(self, drawn: str) -> str:
        """Return 24 hexadecimal digits."""
        return drawn.replace("-", "")[:24]

    def owns(self, request: web.Request) -> bool:
        """Return whether the request is for OSS: by PREFIX or by what only OSS clients send.

        S3 clients are included: `authenticate` explains that the server does not speak S3. A path
        of another API belongs to OSS only if the host names a bucket and the request has an OSS
        signature. The exception is `/`, the dashboard's address and that of ListBuckets: no
        browser sends what OSS clients send.
        """
        if is_prefixed(request):
            return True
        if request.path != "/" and any(dialect.owns(request) for dialect in self._others):
            return is_signed(request) and bucket_of_host(request) != ""
        return is_marked(request) or is_s3(request)

    async def authenticate(self, request: web.Request) -> Owner:
        """Set CALL and return the caller. Raises OssSignatureRefused, OssRefused for an S3
        client, and the errors of bearer tokens."""
        if is_s3(request):
            raise OssRefused(
                501,
                "NotImplemented",
                "This endpoint speaks the protocol of Alibaba Cloud OSS, not that of S3. Use "
                "an OSS client (oss2, alibabacloud-oss-v2, ossutil) with this endpoint, "
                "or plain HTTP at /oss/<bucket>/<key>.",
            )
        request[CALL] = call = await asyncio.to_thread(self._call, request)
        return await self._authenticator.owner(request, call)

    async def operation(self, request: web.Request) -> str:
        """Return the OSS name of the operation, for fault injection."""
        call = await asyncio.to_thread(self._call, request)
        return self._handlers.name(call, request.headers)

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        return render(error, request[REQUEST_ID], level_of(request))

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-oss-request-id": request_id, "x-oss-server-time": "1", "Server": "AliyunOSS"}

    def _call(self, request: web.Request) -> OssRequest:
        """Return the target.

        A host such as `wesemu.example.org` may name a bucket or the server. It names the server if
        the path begins with an existing bucket and the host's bucket does not exist.
        """
        path = by_path(request)
        bucket = bucket_of_host(request)
        if is_prefixed(request) and not (bucket and is_signed(request)):
            return path
        if not bucket:
            return path
        names = self._buckets.names()
        if bucket not in names and path.bucket in names:
            return path
        return by_host(request, bucket)
