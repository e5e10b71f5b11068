"""The versions of WES, response bodies, and errors as ErrorResponse.

Bodies have the names of the schemas of WES 1.1.0. Keys without a value are omitted. `render_error`
renders all errors of WES.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from aiohttp import web

from wesemu.api.fault_injection import InjectedResponse
from wesemu.errors import (
    BucketNotFound,
    Conflict,
    Forbidden,
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
from wesemu.runs.model import JsonObject

# Versions

VersionName = Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"]


@dataclass(frozen=True, slots=True)
class Version:
    """A version of WES, and the two points in which the versions differ.

    `canceling`: the State enum has CANCELING (from 1.0.0 on). `engine_lists`:
    ServiceInfo.workflow_engine_versions maps to objects with a list (1.1.0), not to strings.
    """

    name: VersionName
    canceling: bool
    engine_lists: bool

    @property
    def prefix(self) -> str:
        """The path of this version. It does not depend on settings."""
        return f"/{self.name}{PREFIX}"


PREFIX = "/ga4gh/wes/v1"
"""The path in the specification. A setting selects its version."""

VERSIONS: dict[VersionName, Version] = {
    "0.3.0": Version("0.3.0", canceling=False, engine_lists=False),
    "1.0.0": Version("1.0.0", canceling=True, engine_lists=False),
    "1.0.1": Version("1.0.1", canceling=True, engine_lists=False),
    "1.1.0": Version("1.1.0", canceling=True, engine_lists=True),
}


# Bodies


class ErrorResponse(TypedDict):
    msg: str
    status_code: int


class WesRunId(TypedDict):
    """RunId. `warnings` is an extension: notes about an accepted run."""

    run_id: str
    warnings: NotRequired[list[str]]


class PlannedOutput(TypedDict):
    published: NotRequired[str]


class WesPlannedTask(TypedDict):
    """`after` lists the tasks whose outputs this one needs."""

    id: str
    name: str
    wildcards: Mapping[str, str]
    threads: NotRequired[int]
    inputs: Sequence[str]
    outputs: Sequence[str]
    after: Sequence[str]


class PlannedGraph(TypedDict):
    """`counts` by name; their sum is `total`. `tasks` may be truncated (`complete` is false)."""

    total: int
    counts: Mapping[str, int]
    complete: bool
    tasks: list[WesPlannedTask]


class PlannedGpus(TypedDict):
    """Indexes of the node's GPUs. `waits`: a task of the run would have to wait for GPUs now."""

    lent: Sequence[int]
    free: Sequence[int]
    waits: bool


class PlannedRun(TypedDict):
    """The plan of a run (extension).

    `outputs` is absent if the results are not known in advance: they are then the files of the last
    jobs. `node` and `node_note` are the run's future tags. Runs that may use GPUs have `node_gpus`.
    """

    dry_run: bool
    workflow: str
    engine: str
    service_level: str
    cores: int
    memory_mb: int
    gpus: int
    node: str
    node_note: NotRequired[str]
    node_gpus: NotRequired[PlannedGpus]
    input_bytes: NotRequired[int]
    outputs: NotRequired[dict[str, PlannedOutput]]
    graph: NotRequired[PlannedGraph]


class DryRun(WesRunId):
    """The response to a dry run (extension). `run_id` is empty."""

    wesemu: PlannedRun


class RunStatus(WesRunId):
    state: str


class RunSummary(RunStatus):
    start_time: NotRequired[str]
    end_time: NotRequired[str]
    tags: Mapping[str, str]


class RunListResponse(TypedDict):
    runs: list[RunSummary]
    next_page_token: str


class WesLog(TypedDict):
    """Log. `stdout` and `stderr` are absolute URLs; they need the caller's credentials."""

    name: str
    cmd: NotRequired[list[str]]
    start_time: NotRequired[str]
    end_time: NotRequired[str]
    stdout: NotRequired[str]
    stderr: NotRequired[str]
    exit_code: NotRequired[int]
    system_logs: NotRequired[list[str]]


class WesTaskLog(WesLog):
    id: str


class TaskListResponse(TypedDict):
    task_logs: list[WesTaskLog]
    next_page_token: str


class WesRunRequest(TypedDict):
    workflow_params: JsonObject
    workflow_type: str
    workflow_type_version: str
    workflow_url: str
    tags: Mapping[str, str]
    workflow_engine_parameters: Mapping[str, str]
    workflow_engine: NotRequired[str]
    workflow_engine_version: NotRequired[str]


class WesOutput(TypedDict):
    """An entry of RunLog.outputs. `size` is in bytes; `published` is the URL of the copy."""

    url: str
    size: int
    sha256: NotRequired[str]
    published: NotRequired[str]


class WesFailure(TypedDict):
    """Why a run failed: the extension `RunLog.wesemu.error`."""

    message: str
    hint: NotRequired[str]
    file: NotRequired[str]
    record: NotRequired[int]
    task: NotRequired[str]
    exit_code: NotRequired[int]
    stderr: NotRequired[str]


class WorkflowSource(TypedDict):
    """A fetched file of a workflow: its name in the run and its URL."""

    file: str
    url: str
    size: int
    sha256: str


class Extension(TypedDict):
    """The extension `RunLog.wesemu`. `state` is the exact state in all versions.

    `partial_outputs` are the files of a failed run; its `outputs` is empty.
    """

    handle: str
    state: str
    created: str
    workflow: NotRequired[list[WorkflowSource]]
    error: NotRequired[WesFailure]
    partial_outputs: NotRequired[dict[str, WesOutput]]


class RunLog(RunStatus):
    request: WesRunRequest
    run_log: WesLog
    task_logs: list[WesTaskLog]
    task_logs_url: str
    outputs: dict[str, WesOutput]
    wesemu: Extension


class ServiceType(TypedDict):
    group: str
    artifact: str
    version: str


class Organization(TypedDict):
    name: str
    url: str


class WorkflowTypeVersion(TypedDict):
    workflow_type_version: list[str]


class WorkflowEngineVersion(TypedDict):
    workflow_engine_version: list[str]


class DefaultParameter(TypedDict):
    name: str
    type: str
    default_value: str


class ServiceInfo(TypedDict):
    id: str
    name: str
    type: ServiceType
    description: str
    organization: Organization
    contactUrl: NotRequired[str]
    documentationUrl: NotRequired[str]
    createdAt: str
    updatedAt: str
    environment: str
    version: str
    contact_info: NotRequired[str]
    contact_info_url: NotRequired[str]
    workflow_type_versions: dict[str, WorkflowTypeVersion]
    supported_wes_versions: list[str]
    supported_filesystem_protocols: list[str]
    supported_file_system_protocols: list[str]
    workflow_engine_versions: Mapping[str, str | WorkflowEngineVersion]
    default_workflow_engine_parameters: list[DefaultParameter]
    system_state_counts: dict[str, int]
    auth_instructions_url: str
    tags: Mapping[str, str]


# Errors

_BASIC = 'Basic realm="wesemu", charset="UTF-8"'
_UNQUOTABLE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
"""Characters that an error_description must not contain (RFC 6750, section 3)."""

_RETRY_SECONDS = 5
_KEPT_HEADERS = ("Allow", "Content-Range", "Location")


def render_error(error: Exception, request_id: str) -> web.Response:
    """Return the response for an error. Details of unexpected exceptions are not shown."""
    headers = {}
    match error:
        case web.HTTPException():
            status, message = error.status, _http_message(error)
            headers = {k: v for k, v in error.headers.items() if k in _KEPT_HEADERS}
        case WesemuError():
            status, message = _status(error), str(error)
        case _:
            status, message = 500, f"internal error; the server's log has it under {request_id}"
    headers |= _challenge(error, status)
    body: ErrorResponse = {"msg": message, "status_code": status}
    return web.json_response(body, status=status, headers=headers)


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
        case IssuerUnreachable() | OutOfFiles():
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
        case IssuerUnreachable() | OutOfFiles():
            return 503
        case _:
            return 500


def _http_message(error: web.HTTPException) -> str:
    match error:
        case InjectedResponse():
            return error.message or error.reason
        case web.HTTPNotFound():
            return "WES has no such route here; see /ga4gh/wes/v1/service-info"
        case web.HTTPMethodNotAllowed():
            return f"{error.method} is not allowed here"
        case web.HTTPRequestEntityTooLarge():
            return f"the request is too large: {error.text}"
        case web.HTTPRequestRangeNotSatisfiable() | web.HTTPPreconditionFailed():
            return error.text or error.reason
        case _:
            return error.reason
