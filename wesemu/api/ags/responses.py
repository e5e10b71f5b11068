"""AGS responses: Go-style times, response bodies, JSON and XML output, errors, and runs shown as
AGS jobs."""

import json
import re
from datetime import datetime, timedelta, timezone
from typing import assert_never
from xml.etree.ElementTree import Element

from aiohttp import HttpVersion11, web
from pydantic import BaseModel, Field

from wesemu.api.ags.requests import KINDS, echo_fields
from wesemu.api.base import REQUEST_ID, document, element
from wesemu.api.fault_injection import InjectedResponse
from wesemu.errors import (
    BucketNotFound,
    Conflict,
    Forbidden,
    IndexLocked,
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
from wesemu.runs.clock import rfc3339
from wesemu.runs.model import JsonObject, JsonValue, Owner, Run, RunState
from wesemu.runs.run_figures import elapsed, figures
from wesemu.runs.service import RunService

# Times and durations as Go prints them

CHINA = timezone(timedelta(hours=8), "CST")

ZERO_TIME = "0001-01-01 00:00:00 +0000 UTC"
"""Go's zero time: the event has not happened yet."""


def go_time(timestamp: datetime | None) -> str:
    """Format as "2020-01-15 16:30:25 +0800 CST", in whole seconds. None is the zero time."""
    if timestamp is None:
        return ZERO_TIME
    return timestamp.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S %z CST")


def go_duration(length: timedelta) -> str:
    """Format like Go's `Duration.String()`: "1h15m33.529968361s", "12m25s", "0s", "1.5ms"."""
    microseconds = max(length // timedelta(microseconds=1), 0)
    if 0 < microseconds < 1_000:
        return f"{microseconds}µs"
    if 0 < microseconds < 1_000_000:
        return f"{_decimal(microseconds, 1_000)}ms"
    minutes, rest = divmod(microseconds, 60_000_000)
    seconds = f"{_decimal(rest, 1_000_000)}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(count: int, unit: int) -> str:
    whole, fraction = divmod(count, unit)
    if not fraction:
        return str(whole)
    return f"{whole}.{fraction:0{len(str(unit)) - 1}}".rstrip("0")


# Response bodies. All values are strings, as in the API reference.


class Started(BaseModel):
    """StartWorkflow. `warning` is an extension."""

    job_name: str = Field(serialization_alias="JobName")
    warning: str | None = None


class AgsJob(BaseModel):
    """An entry of DescribeWorkflows. `status` is an extension."""

    cluster_id: str
    job_name: str
    create_time: str
    status: str


class Jobs(BaseModel):
    """DescribeWorkflows."""

    jobs: list[AgsJob]


class Description(BaseModel):
    """DescirbeWorkflow (AGS's spelling). Members that may be None are extensions.

    `total_bases` is the counted number of bases, `sla_bases` the number that the SLA uses. All
    times are emulated, except `real_seconds`.
    """

    create_time: str
    duration: str
    finish_time: str
    input_data_size: str
    job_name: str
    job_namespace: str
    output_data_size: str
    status: str
    total_bases: str
    total_reads: str
    user_input_data: str
    pace: str | None = None
    sla_bases: str | None = None
    sla_minutes: str | None = None
    sla_price_cny: str | None = None
    sla_deadline: str | None = None
    sla_predicted_finish: str | None = None
    sla_met: str | None = None
    sla_charged_cny: str | None = None
    real_seconds: str | None = None
    node: str | None = None
    node_note: str | None = None
    error_message: str | None = None


# JSON or XML

_IS_XML = {
    "application/xml": True,
    "text/xml": True,
    "application/json": False,
    "application/*": False,
    "*/*": False,
}
_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)", re.IGNORECASE)


def json_or_xml(request: web.Request, operation: str, content: BaseModel) -> web.Response:
    """Return the response of an operation. None values are omitted."""
    members = content.model_dump(by_alias=True, exclude_none=True)
    return write(request, f"{operation}Response", members)


def write(
    request: web.Request, root: str, members: JsonObject, *, status: int = 200
) -> web.Response:
    """Return `members` as a JSON object, or as child elements of the XML element `root`."""
    if wants_xml(request):
        kind, body = "xml", document(element(root, *_elements(members)))
    else:
        # UTF-8, like Go's encoder: aliyun-java-sdk-core cannot read `\uXXXX`. Only surrogates,
        # which UTF-8 cannot represent, stay escaped.
        text = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
        kind, body = "json", text.encode("utf-8", "backslashreplace")
    content_type = f"application/{kind}"
    return web.Response(body=body, status=status, content_type=content_type, charset="utf-8")


def empty(request: web.Request) -> web.Response:
    """Return an answer with an empty body.

    aliyun-java-sdk-core needs the type of a format that it reads, and ignores it if Content-Length
    is 0.
    """
    response = web.Response(content_type="application/json")
    if request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    return response


def wants_xml(request: web.Request) -> bool:
    """Return whether the client wants XML: by `Format` in the query, or else by the preferred known
    type in Accept. The default is JSON."""
    for name, value in request.query.items():
        if name.casefold() == "format" and value.casefold() in ("xml", "json"):
            return value.casefold() == "xml"
    ranges = [
        _range(text)
        for accept in request.headers.getall("Accept", [])
        for text in accept.split(",")
    ]
    supported = [(quality, kind) for quality, kind in ranges if quality and kind in _IS_XML]
    return bool(supported) and _IS_XML[max(supported, key=lambda wanted: wanted[0])[1]]


def _range(text: str) -> tuple[float, str]:
    """Return the quality and the type of a media range (RFC 9110, section 12.5.1)."""
    kind, *parameters = (part.strip() for part in text.split(";"))
    matches = [_QUALITY.fullmatch(parameter) for parameter in parameters]
    quality = next((float(match[1]) for match in matches if match), 1.0)
    return quality, kind.casefold()


def _elements(members: JsonObject) -> list[Element]:
    return [_element(name, value) for name, value in members.items()]


def _element(name: str, value: JsonValue) -> Element:
    """Return an element. Those of a list have its name in the singular (`jobs`: `job`), as the XML
    reader of aliyun-java-sdk-core expects."""
    match value:
        case dict():
            return element(name, *_elements(value))
        case list():
            return element(name, *(_element(name.removesuffix("s"), item) for item in value))
        case _:
            return element(name, str(value))


# Errors. One object has the keys of both generations of SDKs, such as `Code` and `code`.

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
    (IndexLocked, 503, "ServiceUnavailable"),
    (SystemFault, 500, "InternalError"),
)
"""The first matching row applies: subclasses come before their base classes."""

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
"""Codes of injected faults: those that the operations themselves return."""


class AgsSignatureRefused(Unauthorized):
    """A request with an invalid signature. `status` and `code` are those of Alibaba's gateway."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def render(error: Exception, request: web.Request) -> web.Response:
    """Return the response for an error, as JSON or XML. Unknown exceptions become an internal error
    without details."""
    match error:
        case AgsSignatureRefused():
            return _answer(request, error.status, error.code, error.message)
        case WesemuError():
            status, code = next(
                ((status, code) for kind, status, code in _CODES if isinstance(error, kind)),
                (500, "InternalError"),
            )
            return _answer(request, status, code, _message(error))
        case InjectedResponse():
            return _injected(error, request)
        case web.HTTPException():
            return _http(error, request)
        case _:
            message = f"Internal error: the server's log has it under {request[REQUEST_ID]}."
            return _answer(request, 500, "InternalError", message)


def _message(error: WesemuError) -> str:
    if error.field is None:
        return error.message
    return f"The parameter {error.field}: {error.message}"


def _injected(error: InjectedResponse, request: web.Request) -> web.Response:
    """Render an injected fault. The code for 404 and 409 depends on the request."""
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
    return _answer(request, error.status, _http_code(error.status), message)


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


# Runs as jobs

_NAME = re.compile(rf"({'|'.join(KINDS)})-gpu-([a-z0-9]+)")
_BUCKET_URL = re.compile(r"oss://([^/]+)/(.+)")


def job_name(run: Run) -> str:
    """Return a name like "mapping-gpu-66xv7". AGS's names contain "gpu" on all nodes."""
    return f"{run.workflow}-gpu-{run.handle}"


async def find_run(runs: RunService, owner: Owner, name: str) -> Run:
    """Return the run of a job name. Raises RunNotFound, also for other owners' jobs."""
    missing = RunNotFound(f"you have no workflow {name[:80]!r}; DescribeWorkflows lists yours")
    match = _NAME.fullmatch(name)
    if match is None:
        raise missing
    kind, handle = match.groups()
    try:
        run = await runs.by_handle(owner, handle)
    except (RunNotFound, Forbidden):
        raise missing from None
    if run.workflow != kind:
        raise missing
    return run


def status(state: RunState) -> str:
    """Return AGS's status. A job that is being cancelled is Running, a cancelled one Failed."""
    match state:
        case RunState.QUEUED:
            return "Pending"
        case RunState.INITIALIZING | RunState.RUNNING | RunState.CANCELING:
            return "Running"
        case RunState.COMPLETE:
            return "Succeeded"
        case RunState.EXECUTOR_ERROR | RunState.SYSTEM_ERROR | RunState.CANCELED:
            return "Failed"
        case _:
            assert_never(state)


def list_entry(run: Run, cluster_id: str) -> AgsJob:
    return AgsJob(
        cluster_id=cluster_id,
        job_name=job_name(run),
        create_time=rfc3339(run.created),
        status=status(run.state),
    )


def describe(run: Run, *, now: datetime, namespace: str) -> Description:
    """Return DescirbeWorkflow's response at `now`. Sizes are in bytes; unknown numbers are "0"."""
    length = elapsed(run, now)
    figure = figures(run)
    texts = figure.texts
    return Description(
        create_time=go_time(run.created),
        duration=go_duration(_whole(length) if run.ended else length),
        finish_time=go_time(run.ended),
        input_data_size=str(run.input_bytes or 0),
        job_name=job_name(run),
        job_namespace=namespace,
        output_data_size=str(sum(output.size for output in run.outputs if output.published)),
        status=status(run.state),
        total_bases=texts.get("total_bases", "0"),
        total_reads=texts.get("total_reads", "0"),
        user_input_data=json.dumps(
            run.request.echo or echo_of(run), ensure_ascii=False, separators=(",", ":")
        ),
        pace=texts.get("pace"),
        sla_bases=texts.get("sla_bases"),
        sla_minutes=texts.get("minutes"),
        sla_price_cny=texts.get("price"),
        sla_deadline=_go_time(figure.deadline),
        sla_predicted_finish=_go_time(figure.predicted_finish),
        sla_met=texts.get("met"),
        sla_charged_cny=texts.get("charged"),
        real_seconds=texts.get("real_seconds"),
        node=run.placement and run.placement.kind,
        node_note=run.placement and run.placement.note,
        error_message=_error(run) or figure.error,
    )


def _error(run: Run) -> str | None:
    """Return the message of a cancelled job, which AGS lists as Failed; None for other jobs."""
    return "the workflow was cancelled" if run.state is RunState.CANCELED else None


def echo_of(run: Run) -> JsonObject:
    """Return the echo of a run that came through another API: its parameters in dialect 2.

    Keys are relative to the bucket of the first read file; keys in other buckets stay `oss://`
    URLs. Only the first lane is shown.
    """
    params = run.request.params
    reads = params.get("reads")
    lane = reads[0] if isinstance(reads, list) and reads else {}
    lane = lane if isinstance(lane, dict) else {}
    values: dict[str, JsonValue] = {
        "fastq_first_name": lane.get("first"),
        "fastq_second_name": lane.get("second"),
        "vcf_file_name": params.get("vcf"),
        "gvcf_file_name": params.get("gvcf"),
        "bam_file_name": params.get("bam"),
        "reference_file": params.get("reference"),
        "reference_group": lane.get("read_group"),
        "service": params.get("service"),
    }
    if "markdup" in params:
        values["mark_dup"] = "true" if params["markdup"] else "false"
    home = _BUCKET_URL.fullmatch(str(lane.get("first")))
    texts = {name: _within(str(value), home) for name, value in values.items() if value is not None}
    if home is not None:
        texts["bucket_name"] = home[1]
    return echo_fields(run.workflow, texts)


def _within(text: str, home: re.Match[str] | None) -> str:
    return text.removeprefix(f"oss://{home[1]}/") if home is not None else text


def _go_time(timestamp: datetime | None) -> str | None:
    return None if timestamp is None else go_time(timestamp)


def _whole(length: timedelta) -> timedelta:
    return timedelta(seconds=length // timedelta(seconds=1))
