"""OSS's operations, told apart by what is addressed, the method and the sub-resource."""

from typing import Literal

from aiohttp import web
from aiohttp.typedefs import Handler

from wesemu.api.oss.buckets import BucketHandlers
from wesemu.api.oss.call import CALL, Call
from wesemu.api.oss.errors import Refused, not_implemented
from wesemu.api.oss.multipart import MultipartHandlers
from wesemu.api.oss.objects import ObjectHandlers
from wesemu.api.oss.signature import SUBRESOURCES
from wesemu.objects.services import ObjectServices

Level = Literal["service", "bucket", "object"]
Operations = dict[tuple[Level, str, frozenset[str]], Handler]

_MODIFIERS = frozenset({"continuation-token", "position", "security-token", "sequential"})
_NOT_IGNORED = ("x-oss-callback", "x-oss-server-side-encryption-key-id")


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
        level: Level = "object" if call.key else "bucket" if call.bucket else "service"
        named = frozenset(name for name in call.query if _is_subresource(call, name))
        handler = self._operations.get((level, call.method, named))
        if handler is None:
            raise _unknown(call, named)
        for name in _NOT_IGNORED:
            if name in request.headers:
                raise not_implemented(f"the header {name}")
        return await handler(request)


def _bucket_operations(handlers: BucketHandlers) -> Operations:
    return {
        ("service", "GET", _on()): handlers.list_buckets,
        ("bucket", "PUT", _on()): handlers.create,
        ("bucket", "DELETE", _on()): handlers.delete,
        ("bucket", "GET", _on()): handlers.list_objects,
        ("bucket", "GET", _on("bucketInfo")): handlers.info,
        ("bucket", "GET", _on("stat")): handlers.statistics,
        ("bucket", "GET", _on("location")): handlers.location,
        ("bucket", "GET", _on("acl")): handlers.acl,
        ("bucket", "GET", _on("versioning")): handlers.versioning,
        ("bucket", "POST", _on("delete")): handlers.delete_many,
    }


def _object_operations(handlers: ObjectHandlers) -> Operations:
    return {
        ("object", "PUT", _on()): handlers.put,
        ("object", "GET", _on()): handlers.get,
        ("object", "HEAD", _on()): handlers.get,
        ("object", "HEAD", _on("objectMeta")): handlers.meta,
        ("object", "GET", _on("acl")): handlers.acl,
        ("object", "DELETE", _on()): handlers.delete,
        ("object", "POST", _on("append")): handlers.append,
    }


def _multipart_operations(handlers: MultipartHandlers) -> Operations:
    return {
        ("bucket", "GET", _on("uploads")): handlers.list_uploads,
        ("object", "POST", _on("uploads")): handlers.begin,
        ("object", "PUT", _on("partNumber", "uploadId")): handlers.put_part,
        ("object", "GET", _on("uploadId")): handlers.list_parts,
        ("object", "POST", _on("uploadId")): handlers.complete,
        ("object", "DELETE", _on("uploadId")): handlers.abort,
    }


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
