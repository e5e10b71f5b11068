"""AGS's errors: one object that both generations of SDKs can read.

The gateway spells `Code`, `Message`, `RequestId`, `HostId`; the service spells `code`,
`message`, `requestId`. The old SDK reads only the first, so both are sent. Codes that begin with
`Error` are ours: no codes of the workflow operations are published but `ErrorCheckAcl`.
"""

from aiohttp import web

from wesemu.api.ags.notation import write
from wesemu.api.callfaults import OrderedAnswer
from wesemu.api.dialect import REQUEST_ID
from wesemu.errors import (
    BucketNotFound,
    Conflict,
    Forbidden,
    InvalidRequest,
    IssuerUnreachable,
    NotFound,
    ObjectNotFound,
    OutOfFiles,
    ReferenceNotFound,
    RunActive,
    RunNotFound,
    SystemFault,
    TokenRefused,
    TooManyRuns,
    Unauthorized,
    WesemuError,
)

_CODES: tuple[tuple[type[WesemuError], int, str], ...] = (
    (InvalidRequest, 400, "InvalidParameter"),
    (TokenRefused, 403, "InvalidToken"),
    (Unauthorized, 400, "IncompleteSignature"),
    (Forbidden, 403, "ErrorCheckAcl"),
    (RunNotFound, 404, "ErrorWorkflowNotFound"),
    (BucketNotFound, 404, "ErrorBucketNotFound"),
    (ObjectNotFound, 404, "ErrorObjectNotFound"),
    (ReferenceNotFound, 404, "ErrorReferenceNotFound"),
    (NotFound, 404, "ErrorNotFound"),
    (RunActive, 409, "ErrorWorkflowRunning"),
    (Conflict, 409, "ErrorConflict"),
    (TooManyRuns, 429, "Throttling"),
    (IssuerUnreachable, 503, "ServiceUnavailable"),
    (OutOfFiles, 503, "ServiceUnavailable"),
    (SystemFault, 500, "InternalError"),
)
"""The first row that fits an error renders it; the tree's leaves come before their parents."""

_HTTP_CODES = {
    404: "InvalidAction.NotFound",
    405: "UnsupportedHTTPMethod",
    413: "ErrorBodyTooLarge",
    429: "Throttling",
    503: "ServiceUnavailable",
}


_FAULT_CODES = {
    400: "InvalidParameter",
    401: "IncompleteSignature",
    403: "ErrorCheckAcl",
    404: "ErrorWorkflowNotFound",
    409: "ErrorConflict",
}
"""For faults that the control API orders: what the operations themselves answer."""


class SignatureRefused(Unauthorized):
    """A request whose signature does not hold; `status` and `code` are the gateway's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def render(error: Exception, request: web.Request) -> web.Response:
    """The answer for an error, in the notation that the request asks for.

    Anything that is not ours is an internal error without details.
    """
    match error:
        case SignatureRefused():
            return _answer(request, error.status, error.code, error.message)
        case WesemuError():
            status, code = next(
                ((status, code) for kind, status, code in _CODES if isinstance(error, kind)),
                (500, "InternalError"),
            )
            return _answer(request, status, code, _message(error))
        case OrderedAnswer():
            return _ordered(error, request)
        case web.HTTPException():
            return _http(error, request)
        case _:
            message = f"Internal error: the server's log has it under {request[REQUEST_ID]}."
            return _answer(request, 500, "InternalError", message)


def _message(error: WesemuError) -> str:
    if error.field is None:
        return error.message
    return f"The parameter {error.field}: {error.message}"


def _ordered(error: OrderedAnswer, request: web.Request) -> web.Response:
    """A fault: 404 and 409 mean the job where the request names one."""
    status = error.status
    code = _FAULT_CODES.get(status) or _http_code(status)
    if status == 404 and not request.path.startswith("/gs/workflow/"):
        code = "InvalidAction.NotFound"
    elif status == 409 and request.method == "DELETE":
        code = "ErrorWorkflowRunning"
    return _answer(request, status, error.code or code, error.message or error.reason)


def _http_code(status: int) -> str:
    return _HTTP_CODES.get(status, "InvalidRequest" if status < 500 else "InternalError")


def _http(error: web.HTTPException, request: web.Request) -> web.Response:
    message = error.reason
    if error.status in (404, 405):
        message = (
            "Specified api is not found, please check your url and method: "
            "POST /gs/workflow, GET /gs/workflows, or GET, PUT, DELETE /gs/workflow/<name>."
        )
    response = _answer(request, error.status, _http_code(error.status), message)
    if (allowed := error.headers.get("Allow")) is not None:
        response.headers["Allow"] = allowed
    return response


def _answer(request: web.Request, status: int, code: str, message: str) -> web.Response:
    request_id = request[REQUEST_ID]
    return write(
        request,
        "Error",
        {
            "Code": code,
            "Message": message,
            "RequestId": request_id,
            "HostId": "wesemu",
            "code": code,
            "message": message,
            "requestId": request_id,
        },
        status=status,
    )
