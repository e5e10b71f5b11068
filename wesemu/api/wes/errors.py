"""The one place where WES errors are made: ErrorResponse {msg, status_code}."""

from aiohttp import web

from wesemu.api.wes.models import ErrorResponse
from wesemu.errors import (
    BucketNotFound,
    Conflict,
    Forbidden,
    InvalidRequest,
    KeyReused,
    NotFound,
    ObjectNotFound,
    ReferenceNotFound,
    Unauthorized,
    WesemuError,
)

_CHALLENGE = 'Bearer realm="wesemu", Basic realm="wesemu", charset="UTF-8"'


def render_error(error: Exception, request_id: str) -> web.Response:
    """JSON for whatever went wrong; nothing of the inside for an error that nobody foresaw."""
    headers = {}
    match error:
        case web.HTTPException():
            status, message = error.status, _http_message(error)
            headers = {k: v for k, v in error.headers.items() if k in ("Allow", "Location")}
        case WesemuError():
            status, message = _status(error), error.message
        case _:
            status, message = 500, f"internal error; the server's log has it under {request_id}"
    if status == web.HTTPUnauthorized.status_code:
        headers["WWW-Authenticate"] = _CHALLENGE
    body: ErrorResponse = {"msg": message, "status_code": status}
    return web.json_response(body, status=status, headers=headers)


def _status(error: WesemuError) -> int:
    """WES knows 400, 401, 403, 404 and 500; 409 and 422 come of extensions only. An input that a
    submission names and that does not exist is the submission's fault: RunWorkflow documents no
    404."""
    match error:
        case InvalidRequest() | BucketNotFound() | ObjectNotFound() | ReferenceNotFound():
            return 400
        case Unauthorized():
            return 401
        case Forbidden():
            return 403
        case NotFound():
            return 404
        case KeyReused():
            return 422
        case Conflict():
            return 409
        case _:
            return 500


def _http_message(error: web.HTTPException) -> str:
    match error:
        case web.HTTPNotFound():
            return "WES has no such route here; see /ga4gh/wes/v1/service-info"
        case web.HTTPMethodNotAllowed():
            return f"{error.method} is not allowed here"
        case web.HTTPRequestEntityTooLarge():
            return f"the request is too large: {error.text}"
        case _:
            return error.reason
