"""OSS as the middleware sees it: told by more than the path, and answered past the routes."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from wesemu.api.dialect import REQUEST_ID, Dialect
from wesemu.api.oss.authenticator import OssAuthenticator
from wesemu.api.oss.call import (
    CALL,
    Call,
    bucket_of_host,
    by_host,
    by_path,
    is_marked,
    is_prefixed,
    is_s3,
    is_signed,
    level_of,
)
from wesemu.api.oss.errors import Refused, render
from wesemu.api.oss.routes import OssHandlers
from wesemu.objects.shelves import Shelves
from wesemu.runs.model import Owner


class OssDialect:
    """Implements `wesemu.api.dialect.Dialect`, to be asked before `others`.

    `handle` answers for every path: no route has to match.
    """

    def __init__(
        self,
        authenticator: OssAuthenticator,
        shelves: Shelves,
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
            raise Refused(
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

    def _call(self, request: web.Request) -> Call:
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
