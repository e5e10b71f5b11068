"""Ports of the core: the protocols that planners, engines and object stores implement.

Also the values that they exchange: plans, launch requests, events, outcomes.

The run directory is the contract between an engine and the server (docs/run-directory.md). The run
process writes `events.jsonl`, `tasks/…`, `stdout.log`, `stderr.log` and finally `exit_code`; the
server reads these files. Each of them can be restarted or can end without the other.
"""

import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wesemu.runs.digests import Crc64, FileDigests
from wesemu.runs.model import (
    Graph,
    JsonObject,
    OutputFile,
    Owner,
    Placement,
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunRequest,
    SharedOutput,
    SlaTerms,
    TaskLog,
)
from wesemu.runs.run_directory import RunDirectoryDraft, Workspace
from wesemu.runs.sla import ServiceLevel

_SIGNAL = 128
_TERMINATED = _SIGNAL + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Publication:
    """One result to publish.

    `result` is a path below `work/`; `name` is its key in the outputs object. `destination` is the
    target file and `url` the location that callers see; both are None for a result that stays in
    the run directory. With a `url` and no `destination`, the planner delivers the result to a
    remote bucket. An `optional` result may be missing.
    """

    name: str
    result: str
    destination: Path | None = None
    url: str | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run, made at submission without reading the inputs.

    `workflow` is the name of the bundled pipeline or "". `publications` is None if the outputs are
    the files of the workflow's last jobs. `input_bytes` is the size of the reads.
    """

    engine: str
    workflow: str
    service_level: ServiceLevel
    resources: Resources
    publications: tuple[Publication, ...] | None
    input_bytes: int | None = None
    placement: Placement | None = None
    shared_output: SharedOutput | None = None


@dataclass(frozen=True, slots=True)
class GpuStatus:
    """Indexes of a node's GPUs: those that tasks may lease (`lent`), and those that are free."""

    lent: tuple[int, ...] = ()
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """The result of a dry run: the plan, the task graph (None if the engine has none), the
    current state of the GPUs, and the SLA terms."""

    plan: Plan
    graph: Graph | None
    gpus: GpuStatus
    terms: SlaTerms = field(default_factory=SlaTerms)

    @property
    def waits(self) -> bool:
        """Whether a GPU task would have to wait for a GPU now."""
        return max(1, self.plan.resources.least_gpus) > len(self.gpus.free)


@dataclass(frozen=True, slots=True)
class QueuePriority:
    """Priority of a run's tasks in the queue for leases; `folder` contains the node's leases.

    The lowest `rank` (service level) goes first, then the lowest `age` (oldest run), then the
    earliest request.
    """

    folder: Path
    rank: int
    age: int


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Input of `Engine.launch`: the workflow file, its configuration, its resources.

    `resources` limits what the run uses at a time. With a `priority`, each task takes a lease
    before it starts; without one, tasks start at once. `input_bytes` is the size of the reads if it
    was unknown at submission. An `untrusted` workflow belongs to a user and runs in the engine's
    sandbox, if there is one. `fragment` names the process of a packed CWL document.
    """

    run_id: str
    workspace: Workspace
    workflow_file: Path
    config: JsonObject
    resources: Resources
    engine_parameters: Mapping[str, str] = field(default_factory=dict)
    priority: QueuePriority | None = None
    input_bytes: int | None = None
    untrusted: bool = False
    fragment: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """Figures from a finished working directory: `counts` are the reads of a bundled pipeline,
    `tools` versions by name, `tags` messages."""

    counts: ReadCounts | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The published outputs, and the failure if some were not uploaded."""

    outputs: tuple[OutputFile, ...]
    failure: RunFailure | None = None


ProgressCallback = Callable[[Mapping[str, str]], None]
"""Receives progress figures as tags of the run; may be called often."""


class Planner(Protocol):
    """Plans requests, prepares runs for their engine, and reads their results."""

    async def fetch_workflow(self, request: RunRequest, files: RunDirectoryDraft) -> RunRequest:
        """Download a workflow from its URL into the attachments. Return the request to store.

        Raises InvalidRequest.
        """
        ...

    async def plan(self, owner: Owner, request: RunRequest, attachments: Path | None) -> Plan:
        """Check the whole request and return its plan, without side effects.

        `attachments` is the folder of the attached files. Raises InvalidRequest, BucketNotFound,
        ObjectNotFound or ReferenceNotFound; each names the field.
        """
        ...

    async def dry_run(self, plan: Plan, request: RunRequest, workspace: Workspace) -> Graph | None:
        """Return the tasks of the run without staging inputs; None if the engine cannot plan.

        Discard the run directory afterwards. Raises InvalidRequest for a workflow that cannot be
        planned, EngineFault.
        """
        ...

    async def prepare(
        self, run: Run, workspace: Workspace, tell: ProgressCallback
    ) -> LaunchRequest:
        """Stage the inputs: index references, download remote inputs. Slow; may be cancelled.

        Raises InputError for a broken reference and an unreadable input, NotFound for an input that
        was deleted since, SystemFault.
        """
        ...

    async def cleanup(self, run: Run, workspace: Workspace) -> None:
        """Release the resources of a run that has ended."""
        ...

    async def results(self, run: Run, workspace: Workspace) -> Results:
        """Read the figures of a run whose tools succeeded. Raises InputError or EngineFault."""
        ...

    async def describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        """Return the workflow's own description of its failure (a bad input file), or None."""
        ...


@dataclass(frozen=True, slots=True)
class Launched:
    """The run was launched again; failures of earlier launches no longer count."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The engine has planned the run: number of tasks."""

    total: int


class Publisher(Protocol):
    """Copies results into the run's `outputs/` and to the locations that the caller named."""

    async def publish(
        self, workspace: Workspace, publications: Sequence[Publication], report: ProgressCallback
    ) -> Delivery:
        """Publish all results in local buckets, or none.

        A cancel stops it, or comes too late and has no effect: then all results are published. A
        failed upload is `Delivery.failure`. After a restart, another call continues the uploads.
        Raises EngineFault if a required result is missing, OSError on a full disk or an unwritable
        folder.
        """
        ...

    async def clean_up(self, workspace: Workspace) -> None:
        """Remove what an interrupted `publish` left. Call it when the run has ended.

        Raises OSError.
        """
        ...


class LocalPublishing(Publisher, Protocol):
    """The publisher of this machine, as far as uploads use it."""

    async def collect(
        self, workspace: Workspace, publications: Sequence[Publication]
    ) -> tuple[OutputFile, ...]:
        """Put the results into the run's `outputs/` only. May be cancelled; raises as `publish`."""
        ...


class ObjectAdopter(Protocol):
    """The local buckets, as far as publishing uses them. Synchronous."""

    @property
    def crc64(self) -> Crc64 | None:
        """The CRC-64 function of object records; None if this machine cannot compute it."""
        ...

    def prepare(self, url: str, path: Path, digests: FileDigests) -> Callable[[], object]:
        """Return a function that makes the file `path` the object at `url`, with its digests.

        The file lies in the folder of the bucket of the oss:// `url`. Both this method and the
        function raise InvalidRequest, BucketNotFound, OSError.
        """
        ...


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task was planned, started or ended: the complete new state of the attempt."""

    task: TaskLog


@dataclass(frozen=True, slots=True)
class Progress:
    """Number of finished tasks, and of all tasks; `total` may grow."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class EngineError:
    """A failure. The first one of a run usually caused the others."""

    failure: RunFailure


Event = Launched | RunStarted | TaskChanged | Progress | EngineError


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A result that cannot be published: its path below `work/`, and the reason.

    `declared`: the workflow declares this path as an output, not only a folder that contains it.
    """

    path: str
    reason: str
    declared: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run process.

    `exit_code`: 0 is success, more than 128 a signal. `outputs`: files below `work/` that no other
    job of the workflow consumed; of a failed run, those that exist. `crashed`: the process vanished
    without an exit code.
    """

    exit_code: int
    outputs: tuple[str, ...] = ()
    unpublished: tuple[Unpublished, ...] = ()
    crashed: bool = False

    @property
    def stopped(self) -> bool:
        """Whether SIGTERM ended the run process: a shutdown of the server, or a user."""
        return self.exit_code == _TERMINATED and not self.crashed

    @property
    def by_signal(self) -> bool:
        """Whether a signal ended the run process; the workflow itself may be fine."""
        return self.crashed or self.exit_code > _SIGNAL


class Execution(Protocol):
    """One launched run. A server can attach to it again after a restart."""

    def events(self) -> AsyncIterator[Event]:
        """Yield all events from the first one on; stop when the run process has ended."""
        ...

    async def outcome(self) -> Outcome:
        """Wait for the end of the run process."""
        ...

    async def cancel(self) -> None:
        """End all processes of the run and wait for them. Does nothing after the end."""
        ...


class Engine(Protocol):
    """Runs workflows of one language. All state of a run is in its run directory."""

    @property
    def name(self) -> str:
        """Lower-case name as in WES's workflow_engine: "snakemake"."""
        ...

    @property
    def version(self) -> str: ...

    @property
    def workflow_types(self) -> Mapping[str, tuple[str, ...]]:
        """The supported WES workflow_type names with their versions."""
        ...

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        """Raise InvalidRequest, naming the parameter, for one that is not allowed."""
        ...

    async def warm(self) -> None:
        """Prepare for fast launches. Called at start-up and before each launch; may be cancelled.

        Raises EngineFault.
        """
        ...

    async def launch(self, job: LaunchRequest) -> Execution:
        """Start the run in a process that outlives the server. Raises EngineFault.

        Another launch in the same directory continues from finished work.
        """
        ...

    async def dry_run(self, job: LaunchRequest) -> Graph | None:
        """Plan the workflow in a run directory that is discarded afterwards; return the tasks.

        None: the engine cannot plan. Raises InvalidRequest for a workflow that cannot be planned,
        EngineFault.
        """
        ...

    async def attach(self, run: Run, workspace: Workspace) -> Execution | None:
        """Return the execution that an earlier server launched: running, or ended with an exit
        code. None: it was never launched, or vanished; its remaining processes are then killed."""
        ...

    async def close(self) -> None:
        """Close helper processes; launched runs continue."""
        ...
