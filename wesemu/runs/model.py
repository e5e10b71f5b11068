"""What a run is: its request, its states, its tasks and its outputs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NewType, TypeAlias

from wesemu.errors import InvalidRequest
from wesemu.runs.service_levels import ServiceLevel

# On what terms a run is carried out: fixed at submission, so that later settings change nothing.


PRETENDED = "wesemu_bases"
"""The tag (WES) or field (AGS) by which a run stands for a larger sample: "120e9"."""

MOST_BASES = 10**15

_NUMBER = re.compile(r"\d{1,16}(\.\d{1,16})?([eE]\+?\d{1,2})?", re.ASCII)


class Pacing(StrEnum):
    """When a run ends: with its tools, or after its service level's minutes."""

    REAL = "real"
    SLA = "sla"


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """What is made to go wrong with a run.

    It ends `late_minutes` after its service level's time, fails when its task number
    `fails_at_task` (from 1, in the order of their starts) begins, or finds the disk full when its
    results are published.
    """

    late_minutes: int = 0
    fails_at_task: int | None = None
    out_of_disk: bool = False


@dataclass(frozen=True, slots=True)
class SlaTerms:
    """`bases` is the size that the run's service level goes by, both mates together; None: as
    counted, times `factor`. With `read_length_penalty` short reads get more time."""

    pace: Pacing = Pacing.REAL
    bases: int | None = None
    factor: Decimal = Decimal(1)
    read_length_penalty: bool = False
    fault: InjectedFault = field(default_factory=InjectedFault)

    @property
    def pretends(self) -> bool:
        """Whether the service level goes by another size than the counted one."""
        return self.bases is not None or self.factor != 1


def pretended_bases(tags: Mapping[str, str]) -> int | None:
    """The tag `wesemu_bases` as a number of base pairs. Raises InvalidRequest."""
    if (text := tags.get(PRETENDED)) is None:
        return None
    bases = Decimal(text) if _NUMBER.fullmatch(text) else Decimal(0)
    if bases != bases.to_integral_value() or not 1 <= bases <= MOST_BASES:
        raise InvalidRequest(
            f"{text[:40]!r} is no number of base pairs; write a whole number from 1 to 1e15, "
            'as "120e9"',
            field=PRETENDED,
        )
    return int(bases)


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
    terms: SlaTerms = field(default_factory=SlaTerms)
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


# What a run would do, task by task, as a dry run tells it.


LARGEST = 1000
"""Of a graph with more tasks the first so many are told."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """`inputs` and `outputs` are paths below `work/`, or names that the caller gave; `after` are
    the ids of tasks whose outputs it needs."""

    id: str
    name: str
    wildcards: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """At most `LARGEST` of the `total` tasks, none before what it needs; `counts` has all of them
    by name. `complete` is false where more may come up while it runs."""

    tasks: tuple[PlannedTask, ...]
    counts: Mapping[str, int]
    complete: bool = True

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def renamed(self, names: Mapping[str, str]) -> "Graph":
        """With files that lie at a path of `names`, or beside it, as the caller calls them."""

        def rename(files: Sequence[str]) -> tuple[str, ...]:
            return tuple(_renamed(file, names) for file in files)

        tasks = (
            replace(task, inputs=rename(task.inputs), outputs=rename(task.outputs))
            for task in self.tasks
        )
        return replace(self, tasks=tuple(tasks))


def graph_of(tasks: Sequence[PlannedTask], *, complete: bool = True) -> Graph:
    counts: dict[str, int] = {}
    for task in tasks:
        counts[task.name] = counts.get(task.name, 0) + 1
    return Graph(tuple(tasks[:LARGEST]), counts, complete)


def graph_to_json(graph: Graph) -> JsonObject:
    return asdict(graph)


def graph_from_json(values: Mapping[str, Any]) -> Graph:
    tasks = tuple(
        PlannedTask(**task | {name: tuple(task[name]) for name in ("inputs", "outputs", "after")})
        for task in values["tasks"]
    )
    return Graph(tasks, values["counts"], values["complete"])


def _renamed(file: str, names: Mapping[str, str]) -> str:
    """`genome.fa.fai` lies beside `genome.fa`."""
    for path, name in names.items():
        if file == path or file.startswith((f"{path}.", f"{path}/")):
            return name + file.removeprefix(path)
    return file
