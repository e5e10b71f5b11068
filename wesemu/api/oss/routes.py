"""OSS's operations, told apart by what is addressed, the method and the sub-resource."""

from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from wesemu.api.oss.buckets import BucketHandlers
from wesemu.api.oss.call import CALL, Call, Level
from wesemu.api.oss.copies import SOURCE
from wesemu.api.oss.errors import Refused, not_implemented
from wesemu.api.oss.multipart import MultipartHandlers
from wesemu.api.oss.objects import ObjectHandlers
from wesemu.api.oss.signature import SUBRESOURCES
from wesemu.objects.services import ObjectServices

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
            **_bucket_operations(BucketHandlers(objects.shelves, objects.store)),
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

    def name(self, call: Call, headers: Mapping[str, str]) -> str:
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


def _subresources(call: Call) -> frozenset[str]:
    return frozenset(name for name in call.query if _is_subresource(call, name))


def _on(*subresources: str) -> frozenset[str]:
    return frozenset(subresources)


def _is_subresource(call: Call, name: str) -> bool:
    """A parameter without a value that changes something is one too, known or not: to overlook
    it would be to do something else than was asked."""
    if name in _MODIFIERS or name.startswith(("response-", "x-oss-ac-")):
        return False
    if name in SUBRESOURCES:
        return True
    return call.method not in ("GET", "HEAD") and not call.query[name]


def _unknown(call: Call, named: frozenset[str]) -> Refused:
    if named:
        return not_implemented(f"{call.method} with {', '.join(sorted(named))}")
    return Refused(
        405, "MethodNotAllowed", "The specified method is not allowed against this resource."
    )
