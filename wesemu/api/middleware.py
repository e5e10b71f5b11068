"""What happens around every handler: request id, owner, errors, access log."""

import time
from collections.abc import Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from wesemu.api.dialect import OWNER, REQUEST_ID, Dialect
from wesemu.errors import SystemFault, WesemuError
from wesemu.ids import IdSource

log = structlog.get_logger("wesemu.access")


def around(dialects: Sequence[Dialect], ids: IdSource) -> Middleware:
    """The one middleware. The last of `dialects` answers for paths that nobody owns."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        dialect = next((d for d in dialects if d.owns(request.path)), dialects[-1])
        request_id = ids.run_id().upper()
        request[REQUEST_ID] = request_id
        try:
            request[OWNER] = await dialect.authenticate(request)
            response = await handler(request)
        except (WesemuError, web.HTTPException) as error:
            if isinstance(error, SystemFault):
                log.error("request failed", request_id=request_id, error=str(error))
            response = dialect.render_error(error, request_id)
        except Exception as error:
            log.exception("internal error", request_id=request_id, path=request.path)
            response = dialect.render_error(error, request_id)
        if not response.prepared:
            response.headers.update(dialect.headers(request_id))
        log.debug(
            "request",
            method=request.method,
            path=request.path,
            status=response.status,
            ms=round((time.perf_counter() - began) * 1000, 1),
            request_id=request_id,
        )
        return response

    return middleware
