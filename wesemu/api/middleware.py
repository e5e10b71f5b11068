"""What happens around every handler: request id, owner, errors, access log."""

import time
from collections.abc import Sequence
from functools import partial

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from wesemu.api.control.dialect import ControlDialect
from wesemu.api.cors import CrossOrigins
from wesemu.api.dialect import OWNER, REQUEST_ID, Dialect, Releasable
from wesemu.api.proxies import Proxies
from wesemu.api.reception import Reception
from wesemu.api.visitors import Visitors
from wesemu.clock import WallClock
from wesemu.errors import SystemFault, Unauthorized, WesemuError
from wesemu.ids import IdSource
from wesemu.runs.room import disk_full, out_of_files


def around(
    dialects: Sequence[Dialect],
    ids: IdSource,
    reception: Reception | None = None,
    visitors: Visitors | None = None,
    *,
    proxies: Proxies | None = None,
    origins: CrossOrigins | None = None,
) -> Middleware:
    """The one middleware. Of `dialects` the first that owns a request answers, or the last.

    `proxies` tell how a request was before it was passed on, `origins` whose web pages may call.
    """
    proxies = proxies or Proxies()
    origins = origins or CrossOrigins()
    reception = reception or Reception(WallClock())
    visitors = visitors or Visitors(is_open=False)
    log = structlog.get_logger("wesemu.access").bind()  # once, not for every request

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        if (preflight := origins.preflight(request)) is not None:
            return preflight
        request = proxies.seen(request)
        dialect = next((d for d in dialects if d.owns(request)), dialects[-1])
        # by the path alone it would be told wrongly: OSS answers there, too, by a bucket's host
        is_control = isinstance(dialect, ControlDialect) and dialect.owns(request)
        request_id = ids.request_id()
        request[REQUEST_ID] = request_id
        made: list[web.StreamResponse] = []
        try:
            operation = partial(dialect.operation, request) if dialect.operation else None
            async with reception.admitted(request, is_control=is_control, operation=operation):
                if not is_control:  # which has rules of its own
                    visitors.check(request)
                request[OWNER] = await dialect.authenticate(request)
                response = await (dialect.handle or handler)(request)
                made.append(response)
        except (WesemuError, web.HTTPException) as error:
            for lost in made:  # a fault took its place
                if isinstance(lost, Releasable):
                    await lost.release()
            if isinstance(error, SystemFault):
                log.error("request failed", request_id=request_id, error=str(error))
            elif isinstance(error, Unauthorized):
                log.info(
                    "credentials refused",
                    address=request.remote,
                    path=request.path,
                    request_id=request_id,
                    reason=error.message,
                )
            response = dialect.render_error(error, request)
        except Exception as error:
            if (full := disk_full(error) or out_of_files(error)) is not None:
                log.error("request failed", request_id=request_id, error=str(error))
            else:
                log.exception("internal error", request_id=request_id, path=request.path)
            response = dialect.render_error(full or error, request)
        if not response.prepared:
            response.headers.update(dialect.headers(request_id))
        seconds = time.perf_counter() - began
        reception.traffic.count(request, response.status, seconds)
        log.debug(
            "request",
            method=request.method,
            path=request.path,
            address=request.remote,
            status=response.status,
            ms=round(seconds * 1000, 1),
            request_id=request_id,
        )
        return response

    return middleware
