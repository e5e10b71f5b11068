"""What the core needs from outside: a planner that understands workflows, engines that run them.

The run directory is the contract between an engine and the rest (docs/run-directory.md): an
engine's process writes `events.jsonl`, `tasks/…`, `stdout.log`, `stderr.log` and at its end
`exit_code`; whoever wants to know reads those files. An engine's process is never needed alive
by the server, nor the server by it.
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
    ReadCounts,
    Resources,
    Run,
    RunFailure,
    RunRequest,
    TaskLog,
)
from wesemu.runs.run_directory import RunDirectoryDraft, Workspace
from wesemu.runs.service_levels import ServiceLevel

_SIGNAL = 128
_TERMINATED = _SIGNAL + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Publication:
    """One result that is put where the caller asked for it.

    `result` is a path below the run directory's `work/`; `name` is its key in the outputs
    object; `destination` is the file that will hold it and `url` the name that callers see,
    both None for a result that stays with the run. With a `url` and no `destination` it is the
    planner that delivers it. An `optional` result may be missing.
    """

    name: str
    result: str
    destination: Path | None = None
    url: str | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is carried out, decided at submission without touching the inputs.

    `workflow` is the bundled pipeline's name or "". `publications` is None where the outputs
    are whatever files the workflow's last jobs leave. `input_bytes` is the size of the reads.
    """

    engine: str
    workflow: str
    service_level: ServiceLevel
    resources: Resources
    publications: tuple[Publication, ...] | None
    input_bytes: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuStatus:
    """A node's GPUs by their indexes: all that are lent to tasks, and those that no task has."""

    lent: tuple[int, ...] = ()
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """What a dry run has found: the plan, what the engine says it would do, if it can tell, and
    the GPUs as they are at the moment."""

    plan: Plan
    graph: Graph | None
    gpus: GpuStatus

    @property
    def waits(self) -> bool:
        """Whether a task that takes GPUs would have to wait for them at the moment."""
        return max(1, self.plan.resources.least_gpus) > len(self.gpus.free)


@dataclass(frozen=True, slots=True)
class QueuePriority:
    """Where a run's tasks wait for their share of the node, and who goes first there.

    `folder` has the node's leases. Tasks of the lowest `rank` (of the service level) go first,
    then those of the lowest `age` (the oldest run), then who came first.
    """

    folder: Path
    rank: int
    age: int


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What an engine is given: the workflow's file, its configuration, its share of the node.

    `resources` is the most that the run uses at a time. With a `priority` each task takes a lease
    before it starts; without one it starts at once. `input_bytes` is the size of the reads where
    that was not known at submission. An `untrusted` workflow is a user's own; it runs in the
    engine's sandbox, if there is one. `fragment` names the process of a packed CWL document.
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
    """What the planner reads out of a finished working directory.

    `counts` are the reads of a bundled pipeline, `tags` more figures for the run.
    """

    counts: ReadCounts | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outputs as they are published now, and why some of them are not."""

    outputs: tuple[OutputFile, ...]
    failure: RunFailure | None = None


ProgressCallback = Callable[[Mapping[str, str]], None]
"""Takes figures that grow while something goes on, as tags of the run; may be called often."""


class Planner(Protocol):
    """Understands which workflow a request means, what it needs and what comes out of it."""

    async def fetch_workflow(self, request: RunRequest, files: RunDirectoryDraft) -> RunRequest:
        """Put what the request names elsewhere on the web among its attachments; the request as
        it is to be kept. Raises InvalidRequest."""
        ...

    async def plan(self, owner: Owner, request: RunRequest, attachments: Path | None) -> Plan:
        """Check the whole request, without side effects.

        `attachments` is the folder of the files that came with it. Raises InvalidRequest,
        BucketNotFound, ObjectNotFound or ReferenceNotFound, each naming the field.
        """
        ...

    async def dry_run(self, plan: Plan, request: RunRequest, workspace: Workspace) -> Graph | None:
        """What the run would do; its directory may be spoilt. None where nobody can tell.

        Nothing is staged. Raises InvalidRequest for a workflow that cannot be planned,
        EngineFault.
        """
        ...

    async def prepare(
        self, run: Run, workspace: Workspace, tell: ProgressCallback
    ) -> LaunchRequest:
        """Stage what the run needs (references indexed, remote inputs fetched), slowly.

        Raises InputError for a broken reference and for an input that cannot be had, NotFound for
        one that is gone since, SystemFault. A cancel breaks it off.
        """
        ...

    async def deliver(
        self, run: Run, workspace: Workspace, outputs: Sequence[OutputFile], tell: ProgressCallback
    ) -> Delivery:
        """Send results that were published in the run directory to where they were asked for
        elsewhere. Done again after a restart, it goes on where it was. A cancel breaks it off."""
        ...

    async def cleanup(self, run: Run, workspace: Workspace) -> None:
        """The run has ended: let go of what was held for it."""
        ...

    async def results(self, run: Run, workspace: Workspace) -> Results:
        """Read the figures of a run whose tools ended well. Raises InputError or EngineFault."""
        ...

    async def describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        """What the workflow itself says about its failure (a bad input file), if anything."""
        ...


@dataclass(frozen=True, slots=True)
class Launched:
    """The run was launched again; the failures of earlier launches are past."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The engine knows the plan: how many tasks there will be."""

    total: int


class ObjectAdopter(Protocol):
    """The server's own buckets, as publishing sees them. Synchronous."""

    @property
    def crc64(self) -> Crc64 | None:
        """Computes the checksum that objects have on record; None where this machine cannot."""
        ...

    def prepare(self, url: str, path: Path, digests: FileDigests) -> Callable[[], object]:
        """For the file `path` with these digests, which lies in the bucket of the oss:// `url`.

        Calling the result makes the file the object at `url`, with its digests on record.
        Raises InvalidRequest, BucketNotFound, OSError, as the result does.
        """
        ...


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task was planned, started or ended; the newest state of that attempt, whole."""

    task: TaskLog


@dataclass(frozen=True, slots=True)
class Progress:
    """Tasks done and in all; `total` may grow."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class EngineError:
    """Something failed; the first one of a run is usually the cause of the rest."""

    failure: RunFailure


Event = Launched | RunStarted | TaskChanged | Progress | EngineError


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A result that cannot be published: its path below `work/`, and the reason.

    `declared`: the workflow names it as an output. Others lie in a folder that is an output.
    """

    path: str
    reason: str
    declared: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an engine's process ended.

    `exit_code` 0 is success. `outputs` are the files that no other job of the workflow
    consumed, below `work/`; of a failed run, those that were made. `crashed` is set when the
    process vanished without an exit status. An `exit_code` beyond 128 is that of a signal.
    """

    exit_code: int
    outputs: tuple[str, ...] = ()
    unpublished: tuple[Unpublished, ...] = ()
    crashed: bool = False

    @property
    def stopped(self) -> bool:
        """Whether the engine's process was asked to end, by a server or somebody else."""
        return self.exit_code == _TERMINATED and not self.crashed

    @property
    def by_signal(self) -> bool:
        """Whether a signal has ended it, so that nothing is known of the workflow."""
        return self.crashed or self.exit_code > _SIGNAL


class Execution(Protocol):
    """One launched job, seen from the server; may be seen again after a restart."""

    def events(self) -> AsyncIterator[Event]:
        """All events from the first one on; ends when the engine's process has ended."""
        ...

    async def outcome(self) -> Outcome:
        """Wait for the end of the engine's process."""
        ...

    async def cancel(self) -> None:
        """End all tools of the run; returns once they are gone. Harmless when it has ended."""
        ...


class Engine(Protocol):
    """Runs workflows of one language. Everything about a run lies in its run directory."""

    @property
    def name(self) -> str:
        """As in WES's workflow_engine, lower case: "snakemake"."""
        ...

    @property
    def version(self) -> str: ...

    @property
    def workflow_types(self) -> Mapping[str, tuple[str, ...]]:
        """The WES workflow_type names that it takes, each with its versions."""
        ...

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        """Raises InvalidRequest, naming the parameter, for one that may not be passed on."""
        ...

    async def warm(self) -> None:
        """Get ready, so that a launch need not wait: at the server's start, and before each
        launch. May be broken off. Raises EngineFault."""
        ...

    async def launch(self, job: LaunchRequest) -> Execution:
        """Start the job in a process that outlives the server. Raises EngineFault.

        Launching again in a directory where an earlier process ended early resumes from
        finished work.
        """
        ...

    async def dry_run(self, job: LaunchRequest) -> Graph | None:
        """What the job would do, planned in its run directory, of which nothing is kept.

        None where the engine cannot tell. Raises InvalidRequest for a workflow that cannot be
        planned, EngineFault.
        """
        ...

    async def attach(self, run: Run, workspace: Workspace) -> Execution | None:
        """The execution of an earlier server's launch: still alive, or ended with an exit
        status. None where there is neither, and nothing of it is left running."""
        ...

    async def close(self) -> None:
        """Let go of helpers; the launched jobs go on."""
        ...
