"""The operations of GA4GH WES 0.3.0, and what lies behind the URLs in its answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import aiohttp

from wesemu.client.transport import Transport, inner, number, several, some, text, texts
from wesemu.runs.model import JsonObject, RunState

_ROOT = "/ga4gh/wes/v1"
_PAGE = 1000
_PAUSE_SECONDS = 0.4
_HANDLE = "wesemu.handle"


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run of ListRuns. `handle` is the short name that AGS job names end with."""

    id: str
    state: RunState
    handle: str
    tags: Mapping[str, str]
    started: str | None
    ended: str | None


@dataclass(frozen=True, slots=True)
class Log:
    """WES's Log of a run or a task; what is not known yet is None."""

    name: str
    exit_code: int | None
    started: str | None
    ended: str | None
    stdout: str | None
    stderr: str | None


@dataclass(frozen=True, slots=True)
class Output:
    """One result: where it answers, its size in bytes, and where it was published, if anywhere."""

    url: str
    size: int
    published: str | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """WES's RunLog; `error` is the one sentence of a run that failed."""

    id: str
    state: RunState
    handle: str
    tags: Mapping[str, str]
    log: Log
    tasks: tuple[Log, ...]
    outputs: Mapping[str, Output]
    error: str | None
    raw: JsonObject

    @property
    def tasks_done(self) -> int:
        return sum(task.ended is not None for task in self.tasks)


class WesOperations:
    """WES under its unversioned path. Each raises ClientError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def service_info(self) -> JsonObject:
        """GetServiceInfo, as the server sends it."""
        return await self._transport.call("GET", f"{_ROOT}/service-info")

    async def submit(
        self,
        workflow_url: str,
        params: JsonObject,
        *,
        workflow_type: str = "SMK",
        workflow_type_version: str = "9",
        tags: Mapping[str, str] | None = None,
        engine_parameters: Mapping[str, str] | None = None,
        attachments: Sequence[tuple[str, Path]] = (),
    ) -> str:
        """RunWorkflow; `attachments` are names and the files to send. Returns the run's id."""
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("workflow_url", workflow_url)
        form.add_field("workflow_params", json.dumps(params))
        form.add_field("workflow_type", workflow_type)
        form.add_field("workflow_type_version", workflow_type_version)
        form.add_field("tags", json.dumps(dict(tags or {})))
        form.add_field("workflow_engine_parameters", json.dumps(dict(engine_parameters or {})))
        with ExitStack() as files:
            for name, path in attachments:
                file = files.enter_context(await asyncio.to_thread(path.open, "rb"))
                form.add_field("workflow_attachment", file, filename=name)
            return text(await self._transport.call("POST", f"{_ROOT}/runs", form=form), "run_id")

    async def runs(self, *, limit: int | None = None) -> list[RunLine]:
        """ListRuns, newest first, over as many pages as `limit` needs (None: all)."""
        found: list[RunLine] = []
        query = {"page_size": str(min(limit or _PAGE, _PAGE))}
        while True:
            answer = await self._transport.call("GET", f"{_ROOT}/runs", query=query)
            found += [_line(run) for run in several(answer, "runs")]
            query["page_token"] = text(answer, "next_page_token")
            if not query["page_token"] or (limit is not None and len(found) >= limit):
                return found[:limit]

    async def run(self, run_id: str) -> RunDetail:
        """GetRunLog."""
        return _detail(await self._transport.call("GET", _path(run_id)))

    async def state(self, run_id: str) -> RunState:
        """GetRunStatus."""
        return _state(await self._transport.call("GET", f"{_path(run_id)}/status"))

    async def follow(self, run_id: str) -> AsyncIterator[RunDetail]:
        """GetRunLog again and again, the last time when the run has ended."""
        while True:
            run = await self.run(run_id)
            yield run
            if run.state.ended:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def cancel(self, run_id: str) -> None:
        """CancelRun."""
        await self._transport.call("DELETE", _path(run_id))

    async def remove(self, run_id: str) -> None:
        """Forget a run that has ended: this server's addition."""
        await self._transport.call("DELETE", _path(run_id), query={"purge": "true"})

    def read(self, url: str, *, start: int = 0) -> AsyncIterator[bytes]:
        """The bytes behind a log's or an output's URL, from byte `start` on."""
        return self._transport.chunks(url, start=start)

    async def text(self, url: str) -> str:
        """A whole log."""
        return b"".join([chunk async for chunk in self.read(url)]).decode(errors="replace")

    async def crate(self, run_id: str, target: Path, *, outputs: str = "small") -> None:
        """Write the RO-Crate of a run that has ended to `target`, a ZIP; `outputs` says which of
        them lie in it: "small", "all" or "none"."""
        url = f"{_path(run_id)}/ro-crate?outputs={quote(outputs, safe='')}"
        await self._write(url, target)

    async def download(self, output: Output, target: Path) -> None:
        """Write an output to `target`, which appears once it is whole."""
        await self._write(output.url, target)

    async def _write(self, url: str, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.part")
        file = await asyncio.to_thread(temporary.open, "wb")
        try:
            with file:
                async for chunk in self.read(url):
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(temporary.replace, target)
        finally:
            await asyncio.to_thread(temporary.unlink, missing_ok=True)


def _path(run_id: str) -> str:
    return f"{_ROOT}/runs/{quote(run_id, safe='')}"


def _state(values: JsonObject) -> RunState:
    return RunState(text(values, "state"))


def _line(run: JsonObject) -> RunLine:
    tags = texts(run, "tags")
    return RunLine(
        id=text(run, "run_id"),
        state=_state(run),
        handle=tags.get(_HANDLE, ""),
        tags=tags,
        started=some(run, "start_time"),
        ended=some(run, "end_time"),
    )


def _detail(answer: JsonObject) -> RunDetail:
    tags, outputs = texts(inner(answer, "request"), "tags"), inner(answer, "outputs")
    return RunDetail(
        id=text(answer, "run_id"),
        state=_state(answer),
        handle=tags.get(_HANDLE, ""),
        tags=tags,
        log=_log(inner(answer, "run_log")),
        tasks=tuple(_log(task) for task in several(answer, "task_logs")),
        outputs={name: _output(inner(outputs, name)) for name in outputs},
        error=some(inner(inner(answer, "wesemu"), "error"), "message"),
        raw=answer,
    )


def _log(log: JsonObject) -> Log:
    code = log.get("exit_code")
    return Log(
        name=text(log, "name"),
        exit_code=code if isinstance(code, int) else None,
        started=some(log, "start_time"),
        ended=some(log, "end_time"),
        stdout=some(log, "stdout"),
        stderr=some(log, "stderr"),
    )


def _output(output: JsonObject) -> Output:
    return Output(text(output, "url"), number(output, "size"), some(output, "published"))
