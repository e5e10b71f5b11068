"""The versions of WES and the bodies of its responses.

Bodies have the names of the schemas of WES 1.1.0. Keys without a value are omitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

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
