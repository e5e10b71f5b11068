"""The data model: runs with their requests, states and outputs; tasks; task graphs; SLA terms."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal, NewType, TypeAlias

from wesemu.errors import InvalidRequest
from wesemu.runs.sla import ServiceLevel

# SLA terms.

PRETENDED = "wesemu_bases"
"""The tag (WES) or field (AGS) that replaces the counted base pairs of a run: "120e9"."""

MOST_BASES = 10**15

_NUMBER = re.compile(r"\d{1,16}(\.\d{1,16})?([eE]\+?\d{1,2})?", re.ASCII)


class Pacing(StrEnum):
    """When a run ends: with its tools (REAL), or after the minutes of its service level (SLA)."""

    REAL = "real"
    SLA = "sla"


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A failure that the control API injects into a run.

    `late_minutes`: the run ends so many minutes after the time of its service level.
    `fails_at_task`: the run fails when this task starts; tasks count from 1, in the order of their
    starts. `out_of_disk`: publishing finds a full disk.
    """

    late_minutes: int = 0
    fails_at_task: int | None = None
    out_of_disk: bool = False


@dataclass(frozen=True, slots=True)
class SlaTerms:
    """SLA terms of a run. Fixed at submission, so later settings do not change them.

    `bases`: base pairs for the service level, both mates together; None: the counted ones times
    `factor`. `read_length_penalty`: short reads get more time.
    """

    pace: Pacing = Pacing.REAL
    bases: int | None = None
    factor: Decimal = Decimal(1)
    read_length_penalty: bool = False
    fault: InjectedFault = field(default_factory=InjectedFault)

    @property
    def pretends(self) -> bool:
        """Whether the service level uses another size than the counted one."""
        return self.bases is not None or self.factor != 1


def pretended_bases(tags: Mapping[str, str]) -> int | None:
    """Return the tag `wesemu_bases` as a number of base pairs. Raises InvalidRequest."""
    if (text := tags.get(PRETENDED)) is None:
        return None
    bases = Decimal(text) if _NUMBER.fullmatch(text) else Decimal(0)
    if bases != bases.to_integral_value() or not 1 <= bases <= MOST_BASES:
        raise InvalidRequest(
            f"{text[:40]!r} is not a number of base pairs; write a whole number from 1 to 1e15, "
            'as "120e9"',
            field=PRETENDED,
        )
    return int(bases)


# Runs.

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

RunId = NewType("RunId", str)
Owner = NewType("Owner", str)

LOCAL_OWNER = Owner("local")
"""The owner of all runs if no credentials are configured."""


class RunState(StrEnum):
    """The states of a run, with their WES names."""

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
    # COMPLETE: the results had already been published when the cancel came
    RunState.CANCELING: frozenset({RunState.CANCELED, RunState.COMPLETE}),
    RunState.COMPLETE: frozenset(),
    RunState.EXECUTOR_ERROR: frozenset(),
    RunState.SYSTEM_ERROR: frozenset(),
    RunState.CANCELED: frozenset(),
}
"""The transition table. A run keeps its state while the server is down."""

_KINDS = {"SNAKEMAKE": "SMK", "SNAKEFILE": "SMK"}


def workflow_kind(workflow_type: str) -> str:
    """Return the short name of a workflow_type: SMK, CWL, WDL; others in upper case."""
    name = workflow_type.upper()
    return _KINDS.get(name, name)


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A fetched file of a workflow: its name among the attachments, its URL, size and SHA-256."""

    file: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SubmissionKey:
    """Idempotency key of a submission: the caller's `name` and a `digest` of the request."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A request in WES terms; every API translates its requests into this.

    `workflow_url` is the name of a bundled pipeline ("mapping", "wgs"), the name of an attachment,
    or a URL. `params` are the parameters of the workflow. `echo` has fields of an API that it must
    return and that the other APIs lack. `callback_url` receives the changes of state. A workflow by
    URL has `workflow_sources`, and `workflow_file` is its main file.
    """

    workflow_url: str
    workflow_type: str = "SMK"
    workflow_type_version: str = ""
    params: JsonObject = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    engine_parameters: Mapping[str, str] = field(default_factory=dict)
    echo: JsonObject = field(default_factory=dict)
    key: SubmissionKey | None = None
    callback_url: str | None = None
    workflow_file: str | None = None
    workflow_sources: tuple[FetchedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources of a run: `cores`, `memory_mb` (MiB), `gpus`.

    The run stays in the queue if the node has fewer than `least_gpus`.
    """

    cores: int = 1
    memory_mb: int = 0
    gpus: int = 0
    least_gpus: int = 0


NodeKind = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Placement:
    """The node chosen for a run; `auto`: each task of a user's workflow may lease GPUs.

    `note` is a message for the caller.
    """

    kind: NodeKind
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SharedOutput:
    """An output of a run that another active run writes, too.

    `run_id` is that run, or None if it has another owner.
    """

    url: str
    run_id: RunId | None = None

    def warning(self, other: str | None = None) -> str:
        """Return the warning for the caller; `other` names the other run."""
        other = other or (f"the run {self.run_id}" if self.run_id else "another owner's run")
        return f"{self.url} is an output of {other}, too; the last one to end wins"


@dataclass(frozen=True, slots=True)
class ReadCounts:
    """Exact counts from the FASTQ files, both mates together."""

    total_reads: int
    total_bases: int


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One result: `name` in the outputs object, `path` below `outputs/`, `size` in bytes, location
    ("oss://bucket/key") if it was published to one, and SHA-256 in hexadecimal."""

    name: str
    path: str
    size: int
    published: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run failed: one sentence, and pointers to the cause.

    `hint` says what to do next; `file` and `record` (from 1) locate a bad input; `task`,
    `exit_code` and `stderr` (path below the run directory) describe the task that failed.
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
    """One run.

    `sequence` orders runs by submission; `handle` is the short unique name. `workflow` is the name
    of the bundled pipeline, "" for a user's own workflow. `tags` are those of the caller, and
    messages and progress of the server; `run_figures.labels` adds what other fields contain.
    `created`, `started` and `ended` are emulated time; `real_seconds` is wall clock time from the
    first start to the last end of a task. `placement` is None for runs of early versions. `tools`
    are versions by name; a caller may name those of its own workflow. `unpublished` has a
    sentence for each result that cannot be published.
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
    terms: SlaTerms = field(default_factory=SlaTerms)
    real_seconds: float | None = None
    placement: Placement | None = None
    shared_output: SharedOutput | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    unpublished: tuple[str, ...] = ()


class TaskState(StrEnum):
    """The states of one attempt of a task."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    CANCELED = "CANCELED"


DETAIL_PATHS = 100
"""`TaskDetails` lists at most this many inputs, outputs and dependencies each."""


@dataclass(frozen=True, slots=True)
class TaskDetails:
    """Lease, files and dependencies of an attempt of a task.

    `ready` is the time when it requested its lease; `cores`, `memory_mb` and `devices` (GPU
    numbers) are the lease. `read_bytes` and `written_bytes` count transfers from and to disks, not
    the page cache. `inputs` and `outputs` are paths below `work/`; `after` has the ids of the tasks
    of this launch whose outputs it needs.
    """

    ready: datetime | None = None
    cores: int | None = None
    memory_mb: int | None = None
    devices: tuple[int, ...] = ()
    read_bytes: int | None = None
    written_bytes: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def details_to_json(details: TaskDetails) -> dict[str, JsonValue]:
    """Return the known members; the time in ISO 8601, UTC."""
    # Without `asdict`, which copies each value and took most of the time of a large RunLog.
    values = dict[str, JsonValue]()
    for name in _DETAILS:
        match getattr(details, name):
            case None | ():
                continue
            case datetime() as moment:
                values[name] = moment.isoformat(timespec="microseconds")
            case tuple() as several:
                values[name] = [*several]
            case value:
                values[name] = value
    return values


_DETAILS = tuple(each.name for each in fields(TaskDetails))


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
    details: TaskDetails = TaskDetails()


# Task graphs of dry runs.

LARGEST = 1000
"""Graphs list at most this many tasks."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task of a dry run. `inputs` and `outputs` are paths below `work/` or names of the caller;
    `after` has the ids of the tasks whose outputs it needs."""

    id: str
    name: str
    wildcards: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """The first `LARGEST` tasks in topological order; `counts` counts all tasks by name.

    `complete` is False if the run may add tasks, as Snakemake's checkpoints do.
    """

    tasks: tuple[PlannedTask, ...]
    counts: Mapping[str, int]
    complete: bool = True

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def renamed(self, names: Mapping[str, str]) -> "Graph":
        """Return the graph with paths replaced by the caller's `names`, also as prefixes."""

        def rename(files: Sequence[str]) -> tuple[str, ...]:
            return tuple(_renamed(file, names) for file in files)

        tasks = (
            replace(task, inputs=rename(task.inputs), outputs=rename(task.outputs))
            for task in self.tasks
        )
        return replace(self, tasks=tuple(tasks))


def graph_of(tasks: Sequence[PlannedTask], *, complete: bool = True) -> Graph:
    return Graph(tuple(tasks[:LARGEST]), dict(Counter(task.name for task in tasks)), complete)


def _renamed(file: str, names: Mapping[str, str]) -> str:
    """Replace a path or its prefix: `genome.fa.fai` belongs to `genome.fa`."""
    for path, name in names.items():
        if file == path or file.startswith((f"{path}.", f"{path}/")):
            return name + file.removeprefix(path)
    return file
