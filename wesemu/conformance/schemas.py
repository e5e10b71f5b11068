"""The schemas of the specification's answers, and where the versions differ.

Fields that the specification does not require have defaults: they may be missing, but not null.
Further fields are allowed.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from wesemu.runs.model import JsonValue
from wesemu.util.text import validation_reasons

VERSIONS = ("0.3.0", "1.0.0", "1.0.1", "1.1.0")
"""The versions of the specification, oldest first."""

ENDED = frozenset(("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"))
"""States that no run leaves."""

_FIRST_STATES = ENDED | {"UNKNOWN", "QUEUED", "INITIALIZING", "RUNNING", "PAUSED"}
STATES: Mapping[str, frozenset[str]] = {
    "0.3.0": _FIRST_STATES,
    "1.0.0": _FIRST_STATES | {"CANCELING"},
    "1.0.1": _FIRST_STATES | {"CANCELING"},
    "1.1.0": _FIRST_STATES | {"CANCELING", "PREEMPTED"},
}
"""The enumeration State of each version."""

PROGRESS = {
    "QUEUED": 0,
    "INITIALIZING": 1,
    "RUNNING": 2,
    "PAUSED": 2,
    "CANCELING": 3,
} | dict.fromkeys(ENDED, 4)
"""A run goes to states of the same or a higher number. UNKNOWN and PREEMPTED have none."""

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> datetime:
    """Parse a time of RFC 3339. Raise ValueError for any other text."""
    if not _TIME.fullmatch(text):
        raise ValueError(f"must be a time such as 2026-01-31T12:00:00Z, not {text[:40]!r}")
    return datetime.fromisoformat(text.upper())


def _is_time(text: str) -> str:
    parse_time(text)
    return text


class Shape(BaseModel):
    """A JSON object. Values are not converted: "1" is not a number."""

    model_config = ConfigDict(strict=True)


# ServiceInfo


class WorkflowTypeVersionSchema(Shape):
    workflow_type_version: list[str] = []


class WorkflowEngineVersionSchema(Shape):
    workflow_engine_version: list[str] = []


class DefaultParameterSchema(Shape):
    name: str = ""
    type: str = ""
    default_value: str = ""


class ServiceInfoSchema(Shape):
    """0.3.0 and 1.0.0."""

    workflow_type_versions: dict[str, WorkflowTypeVersionSchema] = {}
    supported_wes_versions: list[str] = []
    supported_filesystem_protocols: list[str] = []
    workflow_engine_versions: dict[str, str] = {}
    default_workflow_engine_parameters: list[DefaultParameterSchema] = []
    system_state_counts: dict[str, int] = {}
    auth_instructions_url: str = ""
    contact_info: str = ""
    contact_info_url: str = ""
    tags: dict[str, str] = {}


class ServiceTypeSchema(Shape):
    group: str
    artifact: str
    version: str


class OrganizationSchema(Shape):
    name: str
    url: str


Time = Annotated[str, AfterValidator(_is_time)]


class _Service(Shape):
    """Service of GA4GH's service-info 1.0.0, and what all versions that use it require."""

    id: str
    name: str
    type: ServiceTypeSchema
    organization: OrganizationSchema
    version: str
    description: str = ""
    environment: str = ""
    contact_url: str = Field("", alias="contactUrl")
    documentation_url: str = Field("", alias="documentationUrl")
    created_at: Time = Field("", alias="createdAt")
    updated_at: Time = Field("", alias="updatedAt")
    workflow_type_versions: dict[str, WorkflowTypeVersionSchema]
    supported_wes_versions: list[str]
    supported_filesystem_protocols: list[str]
    default_workflow_engine_parameters: list[DefaultParameterSchema]
    system_state_counts: dict[str, int]
    auth_instructions_url: str
    tags: dict[str, str]


class ServiceInfo101Schema(_Service):
    workflow_engine_versions: dict[str, str]


class ServiceInfo110Schema(_Service):
    workflow_engine_versions: dict[str, WorkflowEngineVersionSchema]


# Runs


class RunId(Shape):
    run_id: str = Field(min_length=1)


class RunStatusSchema(Shape):
    run_id: str
    state: str


class ListedRun(Shape):
    run_id: str
    state: str = "UNKNOWN"


class RunListResponseSchema(Shape):
    runs: list[ListedRun]
    next_page_token: str = ""


class RunRequestSchema(Shape):
    workflow_params: dict[str, object] = {}
    workflow_type: str = ""
    workflow_type_version: str = ""
    workflow_url: str = ""
    tags: dict[str, str] = {}
    workflow_engine_parameters: dict[str, str] = {}


class LogSchema(Shape):
    name: str = ""
    cmd: list[str] = []
    start_time: str = ""
    end_time: str = ""
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class TaskLogSchema(LogSchema):
    id: str
    name: str
    system_logs: list[str] = []
    tes_uri: str = ""


class _AnyRunLog(Shape):
    run_id: str = ""
    state: str = "UNKNOWN"
    run_log: LogSchema = LogSchema()
    outputs: dict[str, object] = {}


class RunLogSchema(_AnyRunLog):
    request: RunRequestSchema = RunRequestSchema()
    task_logs: list[LogSchema] = []


class RunRequest110Schema(RunRequestSchema):
    workflow_type: str
    workflow_type_version: str
    workflow_url: str
    workflow_engine: str = ""
    workflow_engine_version: str = ""


class RunLog110Schema(_AnyRunLog):
    request: RunRequest110Schema = RunRequest110Schema(
        workflow_type="", workflow_type_version="", workflow_url=""
    )
    task_logs: list[LogSchema] | None = []
    task_logs_url: str = ""


class TaskListResponseSchema(Shape):
    task_logs: list[TaskLogSchema]
    next_page_token: str = ""


class ErrorResponseSchema(Shape):
    msg: str = ""
    status_code: int = 0


SERVICE_INFO: Mapping[str, type[Shape]] = {
    "0.3.0": ServiceInfoSchema,
    "1.0.0": ServiceInfoSchema,
    "1.0.1": ServiceInfo101Schema,
    "1.1.0": ServiceInfo110Schema,
}
RUN_LOG: Mapping[str, type[Shape]] = dict.fromkeys(VERSIONS[:3], RunLogSchema) | {
    "1.1.0": RunLog110Schema
}


def mismatches(schema: type[Shape], body: JsonValue) -> str:
    """Return what is wrong with a body in one line, "" if it has the schema."""
    try:
        schema.model_validate(body)
    except ValidationError as error:
        reasons = validation_reasons(error)
        return "; ".join(f"{name} {reason}".strip() for name, reason in list(reasons.items())[:5])
    return ""
