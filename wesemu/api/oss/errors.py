"""OSS errors: an XML document without namespace, with the codes of the OSS API ("Error responses").

A response to HEAD has no body. Newer SDKs read the document from the header `x-oss-err` (Base64).
"""

import base64
from collections.abc import Mapping

from aiohttp import web

from wesemu.api.base import document, element
from wesemu.api.fault_injection import InjectedResponse
from wesemu.api.oss.request import Level
from wesemu.errors import (
    AccessRefused,
    BucketNotEmpty,
    BucketNotFound,
    BucketTaken,
    Conflict,
    DigestMismatch,
    Forbidden,
    InvalidRequest,
    NotAppendable,
    NotFound,
    ObjectExists,
    ObjectNotFound,
    OutOfFiles,
    PartMissing,
    PartsUnordered,
    PartTooSmall,
    SystemFault,
    TooLarge,
    Unauthorized,
    UploadNotFound,
    WesemuError,
    WrongPosition,
)
from wesemu.runs.disk_full import access_refused
from wesemu.storage.objects import BUCKET, KEY

_CODES: tuple[tuple[type[WesemuError], int, str], ...] = (
    (DigestMismatch, 400, "InvalidDigest"),
    (TooLarge, 400, "EntityTooLarge"),
    (PartTooSmall, 400, "EntityTooSmall"),
    (PartMissing, 400, "InvalidPart"),
    (PartsUnordered, 400, "InvalidPartOrder"),
    (InvalidRequest, 400, "InvalidArgument"),
    (BucketTaken, 409, "BucketAlreadyExists"),
    (BucketNotEmpty, 409, "BucketNotEmpty"),
    (ObjectExists, 409, "FileAlreadyExists"),
    (NotAppendable, 409, "ObjectNotAppendable"),
    (WrongPosition, 409, "PositionNotEqualToLength"),
    (BucketNotFound, 404, "NoSuchBucket"),
    (ObjectNotFound, 404, "NoSuchKey"),
    (UploadNotFound, 404, "NoSuchUpload"),
    (NotFound, 404, "NoSuchKey"),
    (Unauthorized, 403, "AccessDenied"),
    (Forbidden, 403, "AccessDenied"),
    (AccessRefused, 403, "AccessDenied"),
    (Conflict, 409, "Conflict"),
    (OutOfFiles, 503, "ServiceUnavailable"),
    (SystemFault, 500, "InternalError"),
)
"""The first matching row applies: subclasses come before their base classes."""

_NAMES = {BUCKET: "InvalidBucketName", KEY: "InvalidObjectName"}
_HTTP_CODES = {
    400: "InvalidArgument",
    401: "AccessDenied",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    409: "OperationAborted",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    414: "RequestURITooLong",
    416: "InvalidRange",
    429: "TooManyRequests",
    431: "RequestHeaderSectionTooLarge",
    500: "InternalError",
    501: "NotImplemented",
}
_MISSING = {"service": "NoSuchBucket", "bucket": "NoSuchBucket", "object": "NoSuchKey"}
_MESSAGES = {
    "AccessDenied": "You have no right to access this object.",
    "InternalError": "We encountered an internal error. Please try again.",
    "NoSuchBucket": "The specified bucket does not exist.",
    "NoSuchKey": "The specified key does not exist.",
    "OperationAborted": "A conflicting operation is in progress. Please try again.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold.",
    "RequestTimeout": "Your socket connection to the server was not read from or written to.",
    "ServiceUnavailable": "Please reduce your request rate, or try again later.",
    "TooManyRequests": "Please reduce your request rate.",
}
_HEADER_LIMIT = 4096


class OssRefused(WesemuError):
    """An error that only OSS has. `details` become elements of the document."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details or {}
        self.headers = headers or {}


class OssSignatureRefused(OssRefused, Unauthorized):
    """A request without a valid signature."""


def not_implemented(what: str) -> OssRefused:
    return OssRefused(
        501,
        "NotImplemented",
        f"A header or parameter implies functionality that is not emulated: {what}.",
    )


def render(error: Exception, request_id: str, level: Level = "object") -> web.Response:
    """Return the response for an error at `level`. Unknown exceptions become an internal error
    without details."""
    match error:
        case OssRefused():
            return _answer(
                error.status, error.code, error.message, request_id, error.details, error.headers
            )
        case WrongPosition():
            headers = {"x-oss-next-append-position": str(error.length)}
            return _answer(409, _code(error)[1], error.message, request_id, headers=headers)
        case InjectedResponse():
            code = error.code or http_code(error.status, level)
            message = error.message or _MESSAGES.get(code, error.reason)
            return _answer(error.status, code, message, request_id)
        case web.HTTPException():
            return _answer(error.status, http_code(error.status, level), error.reason, request_id)
        case _:
            message = f"Internal error: the server's log has it under {request_id}."
            status, code, text = refusal(error) or (500, "InternalError", message)
            return _answer(status, code, text, request_id)


def http_code(status: int, level: Level) -> str:
    """Return the OSS code of a status, for errors of aiohttp and injected faults."""
    if status == web.HTTPNotFound.status_code:
        return _MISSING[level]
    unknown = "InvalidArgument" if status < 500 else "ServiceUnavailable"
    return _HTTP_CODES.get(status, unknown)


def refusal(error: Exception) -> tuple[int, str, str] | None:
    """Return status, code and message of an error, or None if it is internal."""
    match error:
        case OssRefused():
            return error.status, error.code, error.message
        case WesemuError():
            return *_code(error), error.message if error.field in _NAMES else str(error)
        case _:
            fault = access_refused(error)
            return None if fault is None else (*_code(fault), fault.message)


def _code(error: WesemuError) -> tuple[int, str]:
    for kind, status, code in _CODES:
        if isinstance(error, kind):
            named = kind is InvalidRequest and error.field in _NAMES
            return status, _NAMES[str(error.field)] if named else code
    return 500, "InternalError"


def _answer(
    status: int,
    code: str,
    message: str,
    request_id: str,
    details: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    if status == web.HTTPNotModified.status_code:
        return web.Response(status=status, headers=headers)
    body = document(
        element(
            "Error",
            element("Code", code),
            element("Message", message),
            element("RequestId", request_id),
            element("HostId", "wesemu"),
            *(element(name, text) for name, text in (details or {}).items()),
        )
    )
    response = web.Response(
        status=status, body=body, content_type="application/xml", headers=headers
    )
    if len(body) <= _HEADER_LIMIT:
        response.headers["x-oss-err"] = base64.b64encode(body).decode()
    return response
