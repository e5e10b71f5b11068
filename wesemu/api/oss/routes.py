"""OSS's operations, told apart by what is addressed, the method and the sub-resource."""

import asyncio
from collections.abc import Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from wesemu.api.base import REQUEST_ID, Dialect
from wesemu.api.oss.auth import SUBRESOURCES, OssAuthenticator
from wesemu.api.oss.buckets import BucketHandlers
from wesemu.api.oss.errors import OssRefused, not_implemented, render
from wesemu.api.oss.multipart import MultipartHandlers
from wesemu.api.oss.objects import ObjectHandlers
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
from wesemu.api.oss.streaming import SOURCE
from wesemu.runs.model import Owner
from wesemu.storage.bucket_admin import BucketAdmin, ObjectServices

Operations = dict[tuple[Level, str, frozenset[str]], tuple[str, Handler]]
"""What is addressed, the method and the sub-resources, with OSS's name of the operation."""

_MODIFIERS = frozenset({"continuation-token", "position", "security-token", "sequential"})
_COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}
"""What these are where a source is named."""

_NOTHING_ELSE: Mapping[str, frozenset[str]] = {
    "x-oss-acl": frozenset({"private"}),
    "x-oss-callback": frozenset(),
    "x-oss-copy-source-version-id": frozenset(),
    "x-oss-object-acl": frozenset({"default", "private"}),
    "x-oss-object-worm-mode": frozenset(),
    "x-oss-object-worm-retain-until-date": frozenset(),
    "x-oss-server-side-encryption-key-id": frozenset(),
    "x-oss-tagging": frozenset({""}),
    "x-oss-tagging-directive": frozenset({"copy"}),
    "x-oss-website-redirect-location": frozenset(),
}
"""Headers that ask for something that is not emulated, but for these values, which ask for what is
so anyway."""


class OssHandlers:
    """Every operation there is; `handle` finds the one that a request means."""

    def __init__(self, objects: ObjectServices) -> None:
        self._operations: Operations = {
            **_bucket_operations(BucketHandlers(objects.buckets, objects.store)),
            **_object_operations(ObjectHandlers(objects.store)),
            **_multipart_operations(MultipartHandlers(objects.uploads, objects.store)),
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Raises Refused for an operation that is not emulated."""
        call = request[CALL]
        named = _subresources(call)
        found = self._operations.get((call.level, call.method, named))
        if found is None:
            raise _unknown(call, named)
        for name, harmless in _NOTHING_ELSE.items():
            if name in request.headers and request.headers[name].lower() not in harmless:
                raise not_implemented(f"the header {name}")
        _, handler = found
        return await handler(request)

    def name(self, call: OssRequest, headers: Mapping[str, str]) -> str:
        """OSS's name of the operation that a call means; "" for one that is not emulated."""
        name, _ = self._operations.get((call.level, call.method, _subresources(call)), ("", None))
        return _COPIES.get(name, name) if SOURCE in headers else name


def _bucket_operations(handlers: BucketHandlers) -> Operations:
    return {
        ("service", "GET", _on()): ("ListBuckets", handlers.list_buckets),
        ("bucket", "PUT", _on()): ("PutBucket", handlers.create),
        ("bucket", "DELETE", _on()): ("DeleteBucket", handlers.delete),
        ("bucket", "GET", _on()): ("ListObjects", handlers.list_objects),
        ("bucket", "GET", _on("bucketInfo")): ("GetBucketInfo", handlers.info),
        ("bucket", "GET", _on("stat")): ("GetBucketStat", handlers.statistics),
        ("bucket", "GET", _on("location")): ("GetBucketLocation", handlers.location),
        ("bucket", "GET", _on("acl")): ("GetBucketAcl", handlers.acl),
        ("bucket", "GET", _on("versioning")): ("GetBucketVersioning", handlers.versioning),
        ("bucket", "POST", _on("delete")): ("DeleteMultipleObjects", handlers.delete_many),
    }


def _object_operations(handlers: ObjectHandlers) -> Operations:
    return {
        ("object", "PUT", _on()): ("PutObject", handlers.put),
        ("object", "GET", _on()): ("GetObject", handlers.get),
        ("object", "HEAD", _on()): ("HeadObject", handlers.get),
        ("object", "HEAD", _on("objectMeta")): ("GetObjectMeta", handlers.meta),
        ("object", "GET", _on("acl")): ("GetObjectAcl", handlers.acl),
        ("object", "DELETE", _on()): ("DeleteObject", handlers.delete),
        ("object", "POST", _on("append")): ("AppendObject", handlers.append),
    }


def _multipart_operations(handlers: MultipartHandlers) -> Operations:
    return {
        ("bucket", "GET", _on("uploads")): ("ListMultipartUploads", handlers.list_uploads),
        ("object", "POST", _on("uploads")): ("InitiateMultipartUpload", handlers.begin),
        ("object", "PUT", _on("partNumber", "uploadId")): ("UploadPart", handlers.put_part),
        ("object", "GET", _on("uploadId")): ("ListParts", handlers.list_parts),
        ("object", "POST", _on("uploadId")): ("CompleteMultipartUpload", handlers.complete),
        ("object", "DELETE", _on("uploadId")): ("AbortMultipartUpload", handlers.abort),
    }


def _subresources(call: OssRequest) -> frozenset[str]:
    return frozenset(name for name in call.query if _is_subresource(call, name))


def _on(*subresources: str) -> frozenset[str]:
    return frozenset(subresources)


def _is_subresource(call: OssRequest, name: str) -> bool:
    """A parameter without a value that changes something is one too, known or not: to overlook
    it would be to do something else than was asked."""
    if name in _MODIFIERS or name.startswith(("response-", "x-oss-ac-")):
        return False
    if name in SUBRESOURCES:
        return True
    return call.method not in ("GET", "HEAD") and not call.query[name]


def _unknown(call: OssRequest, named: frozenset[str]) -> OssRefused:
    if named:
        return not_implemented(f"{call.method} with {', '.join(sorted(named))}")
    return OssRefused(
        405, "MethodNotAllowed", "The specified method is not allowed against this resource."
    )


# OSS as the middleware sees it: told by more than the path, and answered past the routes.


class OssDialect:
    """Implements `wesemu.api.base.Dialect`, to be asked before `others`.

    `handle` answers for every path: no route has to match.
    """

    def __init__(
        self,
        authenticator: OssAuthenticator,
        shelves: BucketAdmin,
        others: Sequence[Dialect],
        handlers: OssHandlers,
    ) -> None:
        self.handle = handlers.handle
        self._handlers = handlers
        self._authenticator = authenticator
        self._shelves = shelves
        self._others = others

    def owns(self, request: web.Request) -> bool:
        """Whether OSS is meant: by our prefix, or by what only OSS clients send. S3 clients are
        told here that this is no S3.

        A path of another API is OSS's only where the host names a bucket and the request is
        signed for OSS: such a request can be meant for no other.
        """
        if is_prefixed(request):
            return True
        if any(dialect.owns(request) for dialect in self._others):
            return is_signed(request) and bucket_of_host(request) != ""
        return is_marked(request) or is_s3(request)

    async def authenticate(self, request: web.Request) -> Owner:
        """Also finds out what the request is about. Raises SignatureRefused, Forbidden; Refused
        for an S3 client."""
        if is_s3(request):
            raise OssRefused(
                501,
                "NotImplemented",
                "This is wesemu's bucket door, which speaks the protocol of Alibaba Cloud OSS and "
                "not that of S3. Use an OSS client (oss2, alibabacloud-oss-v2, ossutil) with this "
                "endpoint, or plain HTTP at /oss/<bucket>/<key>.",
            )
        request[CALL] = call = await asyncio.to_thread(self._call, request)
        return self._authenticator.owner(request, call)

    async def operation(self, request: web.Request) -> str:
        call = await asyncio.to_thread(self._call, request)
        return self._handlers.name(call, request.headers)

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        return render(error, request[REQUEST_ID], level_of(request))

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-oss-request-id": request_id, "x-oss-server-time": "1", "Server": "AliyunOSS"}

    def _call(self, request: web.Request) -> OssRequest:
        """A host like `wesemu.example.org` may be a bucket's or the server's own: it is the
        server's if that makes sense of the path and there is no bucket of that name."""
        path = by_path(request)
        bucket = bucket_of_host(request)
        if is_prefixed(request) and not (bucket and is_signed(request)):
            return path
        if not bucket:
            return path
        names = self._shelves.names()
        if bucket not in names and path.bucket in names:
            return path
        return by_host(request, bucket)
