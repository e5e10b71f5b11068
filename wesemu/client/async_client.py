"""AsyncClient, for asyncio: runs, buckets, clock and faults of one server.

`pipeline` and `workflow` make the requests that start runs, `RunView` has the properties of a run;
`sync_client` uses them too.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any, Self, TypeAlias

from wesemu.client.ags import AgsOperations
from wesemu.client.buckets import AsyncBucket, bucket_names, encoded
from wesemu.client.control import AsyncClock, AsyncFaults, ControlOperations
from wesemu.client.transport import ClientError, Transport
from wesemu.client.wes import Counts, Log, Output, RunDetail, RunLine, SlaFigures, WesOperations
from wesemu.runs.model import JsonObject, JsonValue, RunState

# Submissions

Lanes: TypeAlias = Sequence[str] | Sequence[Mapping[str, JsonValue]]
"""The two files of a lane, or lanes as in docs/pipelines.md."""

Files: TypeAlias = Mapping[str, bytes | str | Path]
"""Attachments by name: bytes, text, or a file to read."""

_TYPES = {"SMK": ("Snakefile", "9"), "CWL": ("main.cwl", "v1.2"), "WDL": ("main.wdl", "1.1")}
_SUFFIXES = {".cwl": "CWL", ".wdl": "WDL"}
_SNAKEFILES = ("workflow/Snakefile", "Snakefile")
_MATES = ("first", "second")
_OUTPUTS = ("bam", "vcf", "gvcf")


@dataclass(frozen=True, slots=True)
class Submission:
    """A request of RunWorkflow. `attachments` are pairs of a name and a file or its content."""

    workflow_url: str
    params: JsonObject
    workflow_type: str = "SMK"
    workflow_type_version: str = "9"
    attachments: tuple[tuple[str, Path | bytes], ...] = ()


def pipeline(
    name: str, reads: Lanes, reference: str, bucket: str | None, params: Mapping[str, JsonValue]
) -> Submission:
    """Return the submission of a bundled pipeline. Relative names are keys in `bucket`.

    Raise ValueError unless `reads` are two names or lanes.
    """

    def locate(value: JsonValue) -> JsonValue:
        if bucket is None or not isinstance(value, str) or "://" in value:
            return value
        return f"oss://{bucket}/{value}"

    mates = [each for each in reads if isinstance(each, str)]
    given = [each for each in reads if not isinstance(each, str)]
    if mates and (given or len(mates) != len(_MATES)):
        raise ValueError(f"reads are two names, or a list of lanes, not {reads!r}")
    if mates:
        given.append(dict(zip(_MATES, mates, strict=True)))
    lanes: list[JsonValue] = [
        {key: locate(value) if key in _MATES else value for key, value in lane.items()}
        for lane in given
    ]
    located = {key: locate(value) if key in _OUTPUTS else value for key, value in params.items()}
    return Submission(name, {"reads": lanes, "reference": reference, **located})


def workflow(
    source: str | Path,
    params: JsonObject,
    files: Files,
    workflow_type: str | None,
    workflow_type_version: str | None,
) -> Submission:
    """Return the submission of a workflow: its text (several lines), file, folder or URL.

    Reads the names of the files in a folder. Raise FileNotFoundError if there is no workflow.
    """
    attachments = [(name, encoded(content)) for name, content in files.items()]
    url = str(source)
    if isinstance(source, str) and "\n" in source:
        kind = workflow_type or "SMK"
        url = _TYPES.get(kind, _TYPES["SMK"])[0]
        attachments.insert(0, (url, source.encode()))
    elif "://" not in url:
        url, own = _local(Path(source))
        attachments = own + attachments
    kind = workflow_type or _SUFFIXES.get(PurePosixPath(url).suffix.lower(), "SMK")
    version = workflow_type_version or _TYPES.get(kind, ("", ""))[1]
    return Submission(url, params, kind, version, tuple(attachments))


def _local(path: Path) -> tuple[str, list[tuple[str, Path | bytes]]]:
    """Return the name of the workflow in the file or folder `path`, and its attachments."""
    if path.is_file():
        return path.name, [(path.name, path)]
    found = next((name for name in _SNAKEFILES if (path / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{path} is neither a workflow file nor a folder with {' or '.join(_SNAKEFILES)}"
        )
    names = (each.relative_to(path) for each in sorted(path.rglob("*")) if each.is_file())
    visible = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return found, [(name.as_posix(), path / name) for name in visible]


# Runs


class RunView:
    """The properties of a run, from the last answer of the server: `detail`."""

    def __init__(self, detail: RunDetail) -> None:
        self.detail = detail

    @property
    def id(self) -> str:
        return self.detail.id

    @property
    def state(self) -> RunState:
        return self.detail.state

    @property
    def ended(self) -> bool:
        return self.detail.state.ended

    @property
    def error(self) -> str | None:
        """The reason of a failed run, in one sentence."""
        return self.detail.error

    @property
    def tags(self) -> Mapping[str, str]:
        return self.detail.tags

    @property
    def tasks(self) -> tuple[Log, ...]:
        """The attempts of tasks, in the order of their starts."""
        return self.detail.tasks

    @property
    def counts(self) -> Counts | None:
        """The counted reads; None until then, and for users' own workflows."""
        return self.detail.counts

    @property
    def sla(self) -> SlaFigures | None:
        """The service level; None until the reads are counted, and without a promise."""
        return self.detail.sla

    def raise_for_state(self) -> None:
        """Raise ClientError if the run has ended without success."""
        if self.ended and self.state is not RunState.COMPLETE:
            reason = f": {self.error}" if self.error else ""
            raise ClientError(f"the run {self.id} ended as {self.state}{reason}")

    def has_changed(self, before: RunDetail | None) -> bool:
        """Return whether state or tasks differ from those of `before`."""
        now = self.detail
        return before is None or (before.state, before.tasks) != (now.state, now.tasks)

    def has_not_ended(self, seconds: float) -> TimeoutError:
        """Return the error of a wait that lasted `seconds`."""
        return TimeoutError(
            f"the run {self.id} has not ended after {seconds} s: {self.state}, "
            f"{self.detail.tasks_done} of {self.detail.tasks_total} tasks are done"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.state}>"

    def _repr_html_(self) -> str:
        """Return a table of the run for notebooks."""
        rows = [("state", self.state.value), ("error", self.error or "")]
        rows += [("task", f"{task.name}: {_task_state(task)}") for task in self.tasks]
        rows += [
            ("output", f"{name}: {output.url} ({output.size:,} bytes)")
            for name, output in self.detail.outputs.items()
        ]
        if self.counts is not None:
            rows.append(("reads", f"{self.counts.reads:,}"))
        if self.sla is not None:
            rows.append(("service level", f"{self.sla.minutes} min, {self.sla.price_cny} CNY"))
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows
            if value
        )
        return f"<table><caption>{escape(self.id)}</caption>{cells}</table>"


def _task_state(task: Log) -> str:
    if task.ended is None:
        return "running"
    return "ended" if not task.exit_code else f"exit status {task.exit_code}"


# The client

_RUN_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DEFAULT_SERVER = "http://127.0.0.1:8070"


class AsyncClient:
    """Everything that one server offers.

    `server` is an http URL, HOST:PORT or unix:PATH; by default the environment variable
    WESEMU_SERVER, or else the default address of `wesemu serve`. `token` is sent as a bearer token;
    by default WESEMU_TOKEN. Each method raises ClientError.

    `async with` keeps connections open between requests. It is optional.
    """

    def __init__(self, server: str | None = None, *, token: str | None = None) -> None:
        if server is None:
            server = os.environ.get("WESEMU_SERVER") or DEFAULT_SERVER
        self._transport = Transport(server, token or os.environ.get("WESEMU_TOKEN"))
        self.server = server
        self.ags = AgsOperations(self._transport)
        self.wes = WesOperations(self._transport)
        self.control = ControlOperations(self._transport)
        self.clock = AsyncClock(self.control)
        self.faults = AsyncFaults(self.control)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._transport.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r})"

    async def ready(self) -> bool:
        """Return whether runs can start; False also if no server answers."""
        return await self.control.ready()

    async def run(
        self,
        name: str,
        *,
        reads: Lanes,
        reference: str,
        bucket: str | None = None,
        tags: Mapping[str, str] | None = None,
        engine_parameters: Mapping[str, str] | None = None,
        **params: JsonValue,
    ) -> "AsyncRun":
        """Submit a run of the bundled pipeline `name`: "mapping" or "wgs".

        `reads` are the two files of a lane, or a list of lanes. Relative names of reads and outputs
        are keys in `bucket`. `params` are the other parameters of docs/pipelines.md, such as `bam`,
        `vcf` and `service`.
        """
        return await self._send(
            pipeline(name, reads, reference, bucket, params), tags, engine_parameters
        )

    async def submit(
        self,
        snakefile: str | Path,
        params: JsonObject | None = None,
        *,
        files: Files | None = None,
        workflow_type: str | None = None,
        workflow_type_version: str | None = None,
        tags: Mapping[str, str] | None = None,
        engine_parameters: Mapping[str, str] | None = None,
    ) -> "AsyncRun":
        """Submit a workflow: its text, its file, a folder that contains it, or its URL.

        `files` are further attachments, by name: content, or a Path to read. The type is that of
        the suffix (.cwl, .wdl), or else Snakemake. Raise FileNotFoundError for a missing file, and
        ValueError for the engine parameter `dry_run`: `wes.run_workflow` returns the plan.
        """
        submission = await asyncio.to_thread(
            workflow, snakefile, params or {}, files or {}, workflow_type, workflow_type_version
        )
        return await self._send(submission, tags, engine_parameters)

    async def get(self, name: str) -> "AsyncRun":
        """Return the run with this id, handle or AGS job name."""
        run_id = name
        if not _RUN_ID.fullmatch(name):
            handle = name.rpartition("-")[2]
            run_id = next((run.id for run in await self.wes.runs() if run.handle == handle), name)
        return AsyncRun(self, await self.wes.run(run_id))

    async def runs(self, *, limit: int | None = None) -> list[RunLine]:
        """Return the runs, newest first."""
        return await self.wes.runs(limit=limit)

    def bucket(self, name: str) -> AsyncBucket:
        """Return a bucket, which need not exist."""
        return AsyncBucket(self._transport, name)

    async def buckets(self) -> list[str]:
        """Return the names of all buckets."""
        return await bucket_names(self._transport)

    async def _send(
        self,
        submission: Submission,
        tags: Mapping[str, str] | None,
        engine_parameters: Mapping[str, str] | None,
    ) -> "AsyncRun":
        run_id = await self.wes.submit(
            submission.workflow_url,
            submission.params,
            workflow_type=submission.workflow_type,
            workflow_type_version=submission.workflow_type_version,
            attachments=submission.attachments,
            tags=tags,
            engine_parameters=engine_parameters,
        )
        if not run_id and "dry_run" in (engine_parameters or {}):
            raise ValueError("a dry run is not a run; wes.run_workflow(…) returns its plan")
        if not run_id:
            raise ClientError("the server answers without the id of a run; is it a wesemu server?")
        return AsyncRun(self, await self.wes.run(run_id))


@dataclass(frozen=True)
class AsyncOutput(Output):
    """A result that can be fetched. Each method raises ClientError."""

    client: AsyncClient = field(repr=False, compare=False)

    async def download(self, target: Path | str = ".") -> Path:
        """Write the result to the file `target`, or into the folder `target`. Return the file.

        A text that ends with "/" is a folder, which is created if it is missing.
        """
        return await self.client.wes.download(self, target)

    async def read(self) -> bytes:
        """Return the content."""
        return await self.client.wes.content(self.download_url)


class AsyncRun(RunView):
    """One run. `detail` is its state at the last call of a method. Methods raise ClientError."""

    def __init__(self, client: AsyncClient, detail: RunDetail) -> None:
        super().__init__(detail)
        self._client = client

    @property
    def outputs(self) -> dict[str, AsyncOutput]:
        """The results by name; empty until the run is complete."""
        return {
            name: AsyncOutput(**values(output), client=self._client)
            for name, output in self.detail.outputs.items()
        }

    async def refresh(self) -> Self:
        """Update `detail` from the server, and return this run."""
        self.detail = await self._client.wes.run(self.id)
        return self

    async def follow(self) -> AsyncIterator[Self]:
        """Yield the run at each change of its state or tasks, until it has ended."""
        before: RunDetail | None = None
        async for detail in self._client.wes.follow(self.id):
            self.detail = detail
            if self.has_changed(before):
                before = self.detail
                yield self

    async def wait(
        self, timeout: float | None = None, *, progress: Callable[[Self], object] | None = None
    ) -> Self:
        """Wait until the run has ended, whatever its state. `progress` is called at each change.

        Raise TimeoutError after `timeout` seconds; the run continues.
        """
        try:
            async with asyncio.timeout(timeout):
                async for run in self.follow():
                    if progress is not None:
                        progress(run)
        except TimeoutError as error:
            raise self.has_not_ended(timeout or 0) from error
        return self

    async def logs(self, task: str | None = None) -> str:
        """Return the stderr of the run, or of the last attempt of its task `task`.

        Raise KeyError if there is no such task.
        """
        await self.refresh()
        logs = {each.name: each for each in self.tasks}  # the last attempt wins
        log = self.detail.log if task is None else logs[task]
        return "" if log.stderr is None else await self._client.wes.text(log.stderr)

    async def cancel(self) -> None:
        await self._client.wes.cancel(self.id)

    async def remove(self) -> None:
        """Remove the ended run and its logs; published results stay."""
        await self._client.wes.remove(self.id)

    async def crate(self, target: Path | str) -> Path:
        """Write the ended run as an RO-Crate (ZIP) to the file `target`, or into the folder
        `target`. Return the file."""
        return await self._client.wes.crate(self.id, target)


def values(output: Output) -> dict[str, Any]:
    """Return the fields of an output by name."""
    return {each.name: getattr(output, each.name) for each in fields(Output)}
