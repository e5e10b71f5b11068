"""The operations of GA4GH WES 0.3.0 and downloads of the URLs in its responses."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TypedDict, Unpack
from urllib.parse import quote, unquote

import aiohttp

from wesemu.client.transport import (
    Transport,
    converted,
    nested,
    nested_list,
    number,
    optional_text,
    path_part,
    payload_of,
    text,
    text_values,
)
from wesemu.runs.model import JsonObject, Placement, RunState
from wesemu.runs.run_figures import RunFigures, placement_of

_ROOT = "/ga4gh/wes/v1"
_PAGE = 1000
_LATER_ATTEMPT = re.compile(r"\d+-(?!1$)\d+")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.4


class SubmitOptions(TypedDict, total=False):
    """Keyword arguments of `WesOperations.run_workflow`."""

    workflow_type: str
    workflow_type_version: str
    tags: Mapping[str, str] | None
    engine_parameters: Mapping[str, str] | None
    attachments: Sequence[tuple[str, Path | bytes]]


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run of ListRuns. `handle` is the short name at the end of AGS job names."""

    id: str
    state: RunState
    handle: str
    tags: Mapping[str, str]
    started: str | None
    ended: str | None


@dataclass(frozen=True, slots=True)
class Log:
    """WES's Log of a run or a task. Fields are None while unknown."""

    name: str
    exit_code: int | None
    started: str | None
    ended: str | None
    stdout: str | None
    stderr: str | None


@dataclass(frozen=True)
class Output:
    """One result. `size` is in bytes, `published` is its location in a bucket, if it has one.

    `download_url` is its HTTP address, `sha256` its digest in hexadecimal.
    """

    name: str
    download_url: str
    size: int
    published: str | None
    sha256: str | None

    @property
    def url(self) -> str:
        """The location in a bucket, or else the HTTP address."""
        return self.published or self.download_url


@dataclass(frozen=True, slots=True)
class Counts:
    """Reads and base pairs of the FASTQ files, both mates together."""

    reads: int
    bases: int


@dataclass(frozen=True, slots=True)
class SlaFigures:
    """The service level of a run (docs/sla.md): `minutes` of run time, prices in CNY.

    `met` and `charged_cny` are None until the run is complete.
    """

    level: str
    bases: int
    minutes: Decimal
    price_cny: Decimal
    met: bool | None
    charged_cny: Decimal | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """WES's RunLog. `error` is the reason of a failed run, in one sentence; `hint` is advice."""

    id: str
    state: RunState
    handle: str
    tags: Mapping[str, str]
    log: Log
    tasks: tuple[Log, ...]
    outputs: Mapping[str, Output]
    error: str | None
    hint: str | None
    raw: JsonObject

    @property
    def figures(self) -> RunFigures:
        return RunFigures.from_tags(self.tags)

    @property
    def placement(self) -> Placement | None:
        return placement_of(self.tags)

    @property
    def tasks_total(self) -> int:
        """Number of tasks so far. The attempts of a task (ids `3-1` and `3-2`) count once."""
        ids = [text(log, "id") for log in nested_list(self.raw, "task_logs")]
        repeated = [each for each in ids if _LATER_ATTEMPT.fullmatch(each)]
        return len(ids) - len(repeated)

    @property
    def tasks_done(self) -> int:
        """Number of tasks that have ended without an error."""
        return sum(task.ended is not None and not task.exit_code for task in self.tasks)

    @property
    def counts(self) -> Counts | None:
        """None until the reads are counted, and for users' own workflows."""
        reads, bases = self.figures.total_reads, self.figures.total_bases
        return None if reads is None or bases is None else Counts(reads, bases)

    @property
    def sla(self) -> SlaFigures | None:
        """None until the reads are counted, and for runs without a promise."""
        known = self.figures
        if known.sla_bases is None or known.minutes is None or known.price is None:
            return None
        return SlaFigures(
            level=str(known.level),
            bases=known.sla_bases,
            minutes=known.minutes,
            price_cny=known.price,
            met=known.met,
            charged_cny=known.charged,
        )


class WesOperations:
    """WES's operations, under the unversioned path. Each raises ClientError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def service_info(self) -> JsonObject:
        """GetServiceInfo, as the server sends it."""
        return await self._transport.call("GET", f"{_ROOT}/service-info")

    async def submit(
        self, workflow_url: str, params: JsonObject, **options: Unpack[SubmitOptions]
    ) -> str:
        """Like `run_workflow`, but return the id of the run, "" for a dry run."""
        return text(await self.run_workflow(workflow_url, params, **options), "run_id")

    async def run_workflow(
        self,
        workflow_url: str,
        params: JsonObject,
        *,
        workflow_type: str = "SMK",
        workflow_type_version: str = "9",
        tags: Mapping[str, str] | None = None,
        engine_parameters: Mapping[str, str] | None = None,
        attachments: Sequence[tuple[str, Path | bytes]] = (),
    ) -> JsonObject:
        """RunWorkflow. Return the answer, with the plan of a dry run.

        `attachments` are pairs of a name and a file or its content. Raise OSError for a file that
        cannot be read.
        """
        for each in (workflow_url, workflow_type, *(name for name, _ in attachments)):
            each.encode()  # aiohttp's error for text that is not UTF-8 names something else
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("workflow_url", workflow_url)
        form.add_field("workflow_params", json.dumps(params))
        form.add_field("workflow_type", workflow_type)
        form.add_field("workflow_type_version", workflow_type_version)
        form.add_field("tags", json.dumps(dict(tags or {})))
        form.add_field("workflow_engine_parameters", json.dumps(dict(engine_parameters or {})))
        for name, content in attachments:
            part = content if isinstance(content, bytes) else await payload_of(content)
            form.add_field("workflow_attachment", part, filename=name)
        return await self._transport.call("POST", f"{_ROOT}/runs", form=form)

    async def resume(
        self, run_id: str, params: JsonObject, *, from_scratch: bool = False, dry_run: bool = False
    ) -> JsonObject:
        """Submit the request of an ended run again, with its finished files (an addition to WES).

        Return `run_id`; with `dry_run`, the tasks that would run (docs/wes.md).
        """
        body: JsonObject = {
            "workflow_params": params,
            "from_scratch": from_scratch,
            "dry_run": dry_run,
        }
        return await self._transport.call("POST", f"{_path(run_id)}/resume", body=body, slow=True)

    async def runs(self, *, limit: int | None = None) -> list[RunLine]:
        """ListRuns, newest first. Read the pages that `limit` needs, or all for None."""
        found: list[RunLine] = []
        query = {"page_size": str(min(limit or _PAGE, _PAGE))}
        while True:
            answer = await self._transport.call("GET", f"{_ROOT}/runs", query=query)
            found += [_line(run) for run in nested_list(answer, "runs")]
            query["page_token"] = text(answer, "next_page_token")
            if not query["page_token"] or (limit is not None and len(found) >= limit):
                return found[:limit]

    async def run(self, run_id: str) -> RunDetail:
        """GetRunLog. Return the run with its tasks, outputs and figures."""
        return _detail(await self._transport.call("GET", _path(run_id)))

    async def state(self, run_id: str) -> RunState:
        """GetRunStatus. Return the state."""
        return _state(await self._transport.call("GET", f"{_path(run_id)}/status"))

    async def follow(self, run_id: str) -> AsyncIterator[RunDetail]:
        """Poll GetRunLog and yield each response. The last one is of the ended run."""
        for pause in pauses():
            run = await self.run(run_id)
            yield run
            if run.state.ended:
                return
            await asyncio.sleep(pause)

    async def cancel(self, run_id: str) -> None:
        """CancelRun. An ended run stays unchanged."""
        await self._transport.call("DELETE", _path(run_id))

    async def remove(self, run_id: str) -> None:
        """Remove an ended run (an addition of wesemu to WES)."""
        await self._transport.call("DELETE", _path(run_id), query={"purge": "true"})

    def read(self, url: str, *, start: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes of the URL of a log or an output, from byte `start` on."""
        return self._transport.chunks(url, start=start)

    async def text(self, url: str) -> str:
        """Return a whole log."""
        return (await self.content(url)).decode(errors="replace")

    async def content(self, url: str) -> bytes:
        """Return the whole content of the URL of a log or an output."""
        return b"".join([chunk async for chunk in self.read(url)])

    async def crate(self, run_id: str, target: Path | str, *, outputs: str = "small") -> Path:
        """Write the RO-Crate of an ended run to the ZIP file `target`, or into the folder `target`.
        Return the file.

        `outputs` selects the outputs that the ZIP contains: "small", "all" or "none".
        """
        url = f"{_path(run_id)}/ro-crate?outputs={quote(outputs, safe='')}"
        return await self._transport.download(url, target, f"{run_id}.crate.zip", slow=True)

    async def download(self, output: Output, target: Path | str) -> Path:
        """Write an output to the file `target`, or into the folder `target`. Return the file.

        The file appears when it is complete. In a folder, its name is that of the location.
        """
        name = output.published or unquote(output.download_url)
        return await self._transport.download(output.download_url, target, name)


def pauses() -> Iterator[float]:
    """Yield seconds between two requests about a run, without end.

    They grow: short runs end without a delay, long runs cause few requests.
    """
    pause = _SHORTEST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _path(run_id: str) -> str:
    return f"{_ROOT}/runs/{path_part(run_id)}"


def _state(values: JsonObject) -> RunState:
    return converted(values, "state", RunState)


def _line(run: JsonObject) -> RunLine:
    tags = text_values(run, "tags")
    return RunLine(
        id=text(run, "run_id"),
        state=_state(run),
        handle=tags.get("wesemu.handle", ""),
        tags=tags,
        started=optional_text(run, "start_time"),
        ended=optional_text(run, "end_time"),
    )


def _detail(answer: JsonObject) -> RunDetail:
    tags, outputs = text_values(nested(answer, "request"), "tags"), nested(answer, "outputs")
    error = nested(nested(answer, "wesemu"), "error")
    return RunDetail(
        id=text(answer, "run_id"),
        state=_state(answer),
        handle=tags.get("wesemu.handle", ""),
        tags=tags,
        log=_log(nested(answer, "run_log")),
        tasks=tuple(_log(task) for task in nested_list(answer, "task_logs")),
        outputs={name: _output(name, nested(outputs, name)) for name in outputs},
        error=optional_text(error, "message"),
        hint=optional_text(error, "hint"),
        raw=answer,
    )


def _log(log: JsonObject) -> Log:
    code = log.get("exit_code")
    return Log(
        name=text(log, "name"),
        exit_code=code if isinstance(code, int) else None,
        started=optional_text(log, "start_time"),
        ended=optional_text(log, "end_time"),
        stdout=optional_text(log, "stdout"),
        stderr=optional_text(log, "stderr"),
    )


def _output(name: str, output: JsonObject) -> Output:
    return Output(
        name,
        text(output, "url"),
        number(output, "size"),
        optional_text(output, "published"),
        optional_text(output, "sha256"),
    )
