"""Responses of OSS: parameters of listings, XML documents, and errors.

Documents have no namespaces. Times are in UTC with milliseconds. Errors have the codes of the OSS
API ("Error responses"). A response to HEAD has no body; newer SDKs read the error's document from
the header `x-oss-err` (Base64).
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote
from xml.etree.ElementTree import Element

from aiohttp import web

from wesemu.api.base import OWNER
from wesemu.api.base import document as document
from wesemu.api.base import element as element
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
from wesemu.storage.object_records import KEY
from wesemu.storage.objects import BUCKET
from wesemu.util.text import whole_number

# Parameters of listings (OSS API, ListObjectsV2: max-keys, encoding-type, continuation-token)

_MOST = 1000


def limit(query: Mapping[str, str], name: str, default: int) -> int:
    """Return a page size from 1 to 1000. Raises InvalidRequest."""
    text = query.get(name, "") or str(default)
    wanted = whole_number(text)
    if wanted is None or not 1 <= wanted <= _MOST:
        raise InvalidRequest(f"{name} must be a number from 1 to {_MOST}, not {text[:40]!r}")
    return wanted


def number(query: Mapping[str, str], name: str) -> int:
    """Return a number, or 0 if the parameter is absent. Raises InvalidRequest."""
    text = query.get(name, "") or "0"
    wanted = whole_number(text, most_digits=18)
    if wanted is None:
        raise InvalidRequest(f"{name} must be a number, not {text[:40]!r}")
    return wanted


def key_encoder(query: Mapping[str, str]) -> Callable[[str], str]:
    """Return the function that writes keys: percent-encoded with `encoding-type=url`. Raises
    InvalidRequest."""
    encoding = query.get("encoding-type", "")
    if encoding not in ("", "url"):
        raise InvalidRequest(f"encoding-type must be url, not {encoding[:40]!r}")
    return _quoted if encoding else str


def encode_token(after: str) -> str:
    """Return an opaque continuation token for a position in a listing."""
    return base64.urlsafe_b64encode(after.encode()).decode()


def decode_token(token: str) -> str:
    """Return the position of a continuation token. Raises InvalidRequest."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("this continuation-token is not from this server") from error


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


# Documents


def answer(tag: str, *content: str | Element | Iterable[Element]) -> web.Response:
    """Return a document as a response. Lists of elements are flattened."""
    flat: list[str | Element] = []
    for part in content:
        flat += [part] if isinstance(part, str | Element) else part
    return web.Response(body=document(element(tag, *flat)), content_type="application/xml")


def time(timestamp: datetime) -> str:
    """Return a time as OSS writes it: in UTC, with milliseconds that are always 0."""
    return timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def owner(request: web.Request) -> Element:
    """Return the Owner element. It names the caller, because all callers share the buckets."""
    name = request[OWNER] or "local"
    return element("Owner", element("ID", name), element("DisplayName", name))


def encoding_type(query: Mapping[str, str]) -> list[Element]:
    """Return the EncodingType element if keys are percent-encoded."""
    return [element("EncodingType", "url")] if query.get("encoding-type") else []


def common_prefixes(names: Iterable[str]) -> list[Element]:
    return [element("CommonPrefixes", element("Prefix", name)) for name in names]


# Errors

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
