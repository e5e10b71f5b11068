"""AsyncClient: runs, buckets, clock and faults of one server, for asyncio."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from wesemu.client.ags import AgsOperations
from wesemu.client.buckets import AsyncBucket, bucket_names
from wesemu.client.control import AsyncClock, AsyncFaults, ControlOperations
from wesemu.client.runs import Files, Lanes, RunView, Submission, pipeline, workflow
from wesemu.client.transport import Transport
from wesemu.client.wes import Output, RunDetail, RunLine, WesOperations
from wesemu.runs.model import JsonObject, JsonValue

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
        if not run_id:
            raise ValueError("a dry run is not a run; wes.run_workflow(…) returns its plan")
        return AsyncRun(self, await self.wes.run(run_id))


@dataclass(frozen=True)
class AsyncOutput(Output):
    """A result that can be fetched. Each method raises ClientError."""

    client: AsyncClient = field(repr=False, compare=False)

    async def download(self, target: Path | str = ".") -> Path:
        """Write the result to the file `target`, or into the folder `target`. Return the file."""
        return await self.client.wes.download(self, Path(target))

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
        """Ask the server for the present state."""
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
        """Write the ended run as an RO-Crate (ZIP) to the file `target`."""
        await self._client.wes.crate(self.id, Path(target))
        return Path(target)


def values(output: Output) -> dict[str, Any]:
    """Return the fields of an output by name."""
    return {each.name: getattr(output, each.name) for each in fields(Output)}
