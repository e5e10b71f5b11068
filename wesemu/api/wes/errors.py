"""WES errors: ErrorResponse {msg, status_code} (WES 1.1.0, schema ErrorResponse). All WES errors
are rendered here."""

import re

from aiohttp import web

from wesemu.api.base import http_message
from wesemu.api.fault_injection import InjectedResponse
from wesemu.api.wes.models import ErrorResponse
from wesemu.errors import (
    BucketNotFound,
    Conflict,
    Forbidden,
    IndexLocked,
    InvalidRequest,
    IssuerUnreachable,
    KeyReused,
    NotFound,
    ObjectNotFound,
    OutOfFiles,
    ReferenceNotFound,
    ScopeMissing,
    TokenRefused,
    TooManyRuns,
    Unauthorized,
    WesemuError,
)

_BASIC = 'Basic realm="wesemu", charset="UTF-8"'
_UNQUOTABLE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
"""Characters that an error_description must not contain (RFC 6750, section 3)."""

_RETRY_SECONDS = 5


def render_error(error: Exception, request_id: str) -> web.Response:
    """Return the response for an error. Details of unexpected exceptions are not shown."""
    match error:
        case web.HTTPException():
            status, message = error.status, _http_message(error)
        case WesemuError():
            status, message = _status(error), str(error)
        case _:
            status, message = 500, f"internal error; the server's log has it under {request_id}"
    body: ErrorResponse = {"msg": message, "status_code": status}
    return web.json_response(body, status=status, headers=_challenge(error, status))


def _challenge(error: Exception, status: int) -> dict[str, str]:
    """Return the header WWW-Authenticate or Retry-After, or none.

    A request without a token gets no error code (RFC 6750, section 3.1).
    """
    match error:
        case TokenRefused():
            reason = _UNQUOTABLE.sub("'", error.message)
            bearer = f'Bearer realm="wesemu", error="invalid_token", error_description="{reason}"'
            return {"WWW-Authenticate": f"{bearer}, {_BASIC}"}
        case ScopeMissing(scopes=scopes):
            scope = f', scope="{_UNQUOTABLE.sub("", " ".join(scopes))}"' if scopes else ""
            bearer = f'Bearer realm="wesemu", error="insufficient_scope"{scope}'
            return {"WWW-Authenticate": bearer}
        case IndexLocked() | IssuerUnreachable() | OutOfFiles():
            return {"Retry-After": str(_RETRY_SECONDS)}
        case _ if status == web.HTTPUnauthorized.status_code:
            return {"WWW-Authenticate": f'Bearer realm="wesemu", {_BASIC}'}
        case _:
            return {}


def _status(error: WesemuError) -> int:
    """Return an error's status.

    WES 1.1.0 documents 400, 401, 403, 404 and 500. 409, 422, 429 and 503 come from extensions only.
    Missing inputs of a submission are a 400, because RunWorkflow documents no 404.
    """
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
        case TooManyRuns():
            return 429
        case IndexLocked() | IssuerUnreachable() | OutOfFiles():
            return 503
        case _:
            return 500


def _http_message(error: web.HTTPException) -> str:
    match error:
        case InjectedResponse():
            return error.message or error.reason
        case web.HTTPNotFound():
            return "WES has no such route here; see /ga4gh/wes/v1/service-info"
        case _:
            return http_message(error)
