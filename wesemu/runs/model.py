"""What a run is: its request, its states, its tasks and its outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType, TypeAlias

from wesemu.runs.terms import Terms
from wesemu.sla import ServiceLevel

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

RunId = NewType("RunId", str)
Owner = NewType("Owner", str)

LOCAL_OWNER = Owner("local")
"""Who everybody is while no credentials are configured."""

PLACE, PLACE_NOTE = "wesemu.node", "wesemu.node.note"
"""The server's own tags for where a run is carried out, and what is to be known about that."""

UNPUBLISHED = "wesemu.unpublished"
"""The server's own tag for results that cannot be published: a line each."""


class RunState(StrEnum):
    """The states of a run, by the names of WES."""

    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"

    @property
    def ended(self) -> bool:
        return not TRANSITIONS[self]

    @property
    def active(self) -> bool:
        return not self.ended


_FAILURES = frozenset({RunState.EXECUTOR_ERROR, RunState.SYSTEM_ERROR})

TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: _FAILURES | {RunState.INITIALIZING, RunState.CANCELED},
    RunState.INITIALIZING: _FAILURES | {RunState.RUNNING, RunState.CANCELING},
    RunState.RUNNING: _FAILURES | {RunState.COMPLETE, RunState.CANCELING},
    RunState.CANCELING: frozenset({RunState.CANCELED}),
    RunState.COMPLETE: frozenset(),
    RunState.EXECUTOR_ERROR: frozenset(),
    RunState.SYSTEM_ERROR: frozenset(),
    RunState.CANCELED: frozenset(),
}
"""The one transition table. A run keeps its state while the server is down."""


_KINDS = {"SNAKEMAKE": "SMK", "SNAKEFILE": "SMK"}


def workflow_kind(workflow_type: str) -> str:
    """One name for a workflow_type however it is spelled: SMK, CWL, WDL, or what there is not."""
    name = workflow_type.upper()
    return _KINDS.get(name, name)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller asked for, in WES's words; every dialect translates into this.

    `workflow_url` is the name of a bundled pipeline ("mapping", "wgs"), the name of an attachment,
    or a URL from which one is fetched. `params` are the workflow's own. `echo` is the request as
    the caller's dialect wants it back, where it has fields that the others lack. `marks` are what
    the server keeps of a submission for itself: `submission_key`, `submission_digest`,
    `callback_url`, and of a workflow by URL `workflow_file` and `workflow_sources`.
    """

    workflow_url: str
    workflow_type: str = "SMK"
    workflow_type_version: str = ""
    params: JsonObject = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    engine_parameters: Mapping[str, str] = field(default_factory=dict)
    echo: JsonObject = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run asks of a node: `cores`, `memory_mb` (MiB), `gpus`.

    It waits in the queue while the node has not even `least_gpus`.
    """

    cores: int = 1
    memory_mb: int = 0
    gpus: int = 0
    least_gpus: int = 0


@dataclass(frozen=True, slots=True)
class ReadCounts:
    """Counted from the FASTQ: both mates, exactly."""

    total_reads: int
    total_bases: int


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One result: `name` in the outputs object, `path` below the run directory's `outputs/`,
    `size` in bytes, where it was published ("oss://bucket/key"), if anywhere, and the SHA-256 of
    its content in hexadecimal."""

    name: str
    path: str
    size: int
    published: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run did not complete: one sentence, and what leads to the original failure.

    `hint` says what to do next; `file` and `record` (from 1) point into a bad input; `task`,
    `exit_code` and `stderr` (below the run directory) lead to the task that failed.
    """

    message: str
    hint: str | None = None
    file: str | None = None
    record: int | None = None
    task: str | None = None
    exit_code: int | None = None
    stderr: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the store knows it.

    `sequence` orders runs by submission; `handle` is the short unique name. `workflow` is the
    bundled pipeline's name or "" for a user's own workflow. `tags` are the caller's and ours.
    `created`, `started` and `ended` are told by the emulated clock; `real_seconds` passed on the
    wall clock from the first task's start to the last one's end.
    """

    id: RunId
    sequence: int
    handle: str
    owner: Owner
    state: RunState
    workflow: str
    service_level: ServiceLevel
    request: RunRequest
    resources: Resources
    created: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    counts: ReadCounts | None = None
    input_bytes: int | None = None
    outputs: tuple[OutputFile, ...] = ()
    failure: RunFailure | None = None
    terms: Terms = field(default_factory=Terms)
    real_seconds: float | None = None


class TaskState(StrEnum):
    """The states of one attempt of a task."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True)
class TaskLog:
    """One attempt of one task (for Snakemake: of one job of a rule).

    `stdout` and `stderr` are paths below the run directory. `cpu_seconds` is user and system
    time together, `peak_memory` in bytes.
    """

    id: str
    name: str
    state: TaskState
    attempt: int = 1
    wildcards: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    threads: int | None = None
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    cpu_seconds: float | None = None
    peak_memory: int | None = None
