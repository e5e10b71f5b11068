"""The WES routes, once for each version, over the one core."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, assert_never

from aiohttp import web
from yarl import URL

from wesemu.api.base import OWNER, REQUEST_ID
from wesemu.api.connections import base_url
from wesemu.api.wes import models, responses
from wesemu.api.wes.docs_page import DOCUMENT, DocsPage
from wesemu.api.wes.errors import render_error
from wesemu.api.wes.files import (
    CrateResponse,
    Crates,
    OpenedFile,
    RunEvents,
    digest_headers,
    inclusion,
    metadata,
    metadata_type,
    no_crates,
    open_below,
    refuse_active,
)
from wesemu.api.wes.models import PREFIX, VERSIONS, Version, VersionName
from wesemu.api.wes.query import PageTokens, flag, page_size, read_selection, task_page
from wesemu.api.wes.responses import Limits, RunResponses, ServiceFacts
from wesemu.api.wes.submit import RunSubmission, refuse_callbacks
from wesemu.errors import Forbidden, IssuerUnreachable, NotFound, Unauthorized
from wesemu.runs.model import Owner, Run, TaskLog
from wesemu.runs.ports import DryRunResult
from wesemu.runs.publishing import SHARED
from wesemu.runs.run_directory import Workspace
from wesemu.runs.service import RunService
from wesemu.runs.store import EVERYTHING, HeadPage

# Paths that clients build carelessly: `//ga4gh/wes/v1/runs/` is `/ga4gh/wes/v1/runs`.


_SLASHES = re.compile(r"/{2,}")


def merge_slashes(path: str) -> str:
    """Without doubled slashes and without one at the end."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


class MergedSlashes(web.AbstractResource):
    """Resolves a careless path below `prefix` as the path that was meant, in place.

    A redirect would do for a GET only: clients drop the body or the credentials of others.
    """

    def __init__(self, router: web.UrlDispatcher, prefixes: tuple[str, ...]) -> None:
        super().__init__()
        self._router = router
        self._prefixes = prefixes

    @property
    def canonical(self) -> str:
        return "/{careless}"

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        path = request.rel_url.raw_path
        merged = merge_slashes(path)
        if merged == path or not merged.startswith(self._prefixes):
            return None, set()
        meant = request.clone(rel_url=URL.build(path=merged, encoded=True))
        match = await self._router.resolve(meant)
        if isinstance(match.http_exception, web.HTTPMethodNotAllowed):
            return None, set(match.http_exception.allowed_methods)
        return (None, set()) if match.http_exception else (match, set())

    def url_for(self, **kwargs: str) -> URL:
        raise NotImplementedError("a careless path has no address of its own")

    def add_prefix(self, prefix: str) -> None:
        self._prefixes = tuple(prefix + own for own in self._prefixes)

    def get_info(self) -> Any:
        return {"formatter": self.canonical}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        return iter(())


class MergedSlashesDef(web.AbstractRouteDef):
    """Adds `MergedSlashes` for these prefixes, as one more line of a route table."""

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes

    def register(self, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
        router.register_resource(MergedSlashes(router, self._prefixes))
        return []


# WES as the middleware sees it.


Authenticator = Callable[[web.Request], Awaitable[Owner]]

GUEST = Owner("")
"""Who asks for something public without credentials: somebody without runs."""

_PUBLIC = ("/wes/v1/service-info", "/wes/v1/openapi.yaml", "/wes/v1/reference")
_PATHS = re.compile(r"(/\d+\.\d+\.\d+)?/ga4gh(/.*)?", re.DOTALL)


class WesDialect:
    """Implements `wesemu.api.base.Dialect` for every version of WES."""

    handle = None
    operation = None

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def owns(self, request: web.Request) -> bool:
        return _PATHS.fullmatch(merge_slashes(request.path)) is not None

    async def authenticate(self, request: web.Request) -> Owner:
        """service-info is public, for clients read there how to get credentials; so is what
        describes the API."""
        if not merge_slashes(request.path).endswith(_PUBLIC):
            return await self._authenticator(request)
        try:
            return await self._authenticator(request)
        except (Unauthorized, Forbidden, IssuerUnreachable):
            return GUEST

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        return render_error(error, request[REQUEST_ID])

    def headers(self, request_id: str) -> dict[str, str]:
        return {"X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"}


_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_OUTPUT = {
    "Content-Type": "application/octet-stream",
    # A report that a workflow wrote must not act in the name of who looks at it.
    "Content-Security-Policy": "sandbox allow-scripts",
}
_HTML = _OUTPUT | {"Content-Type": "text/html; charset=utf-8"}


def routes(
    runs: RunService,
    facts: ServiceFacts,
    *,
    page_key: bytes,
    version: VersionName = "0.3.0",
    limits: Limits | None = None,
    check_callback: Callable[[str], None] = refuse_callbacks,
    crates: Crates | None = None,
    events: RunEvents | None = None,
) -> list[web.AbstractRouteDef]:
    """Every route of WES: `version` at /ga4gh/wes/v1, and each one at /{version}/ga4gh/wes/v1.

    `page_key` signs page tokens; `check_callback` raises InvalidRequest for a callback_url that
    this server will not send to; without `crates` there are none; open `events` are the caller's
    to close. Register before routes that
    match any path.
    """
    tokens = PageTokens(page_key)
    submissions = RunSubmission(runs, facts, limits or Limits(), check_callback)
    texts = RunResponses(runs)
    reference = DocsPage()
    mounts = {PREFIX: VERSIONS[version]} | {known.prefix: known for known in VERSIONS.values()}
    events = events or RunEvents(runs)
    table: list[web.AbstractRouteDef] = []
    for prefix, answered in mounts.items():
        handlers = WesHandlers(
            runs, submissions, facts, tokens, texts, answered, prefix, events, crates
        )
        table += [*handlers.routes(), web.get(f"{prefix}/reference", reference.answer)]
    table.append(MergedSlashesDef(*mounts))
    return table


class WesHandlers:
    """Answers under one prefix as one version."""

    def __init__(
        self,
        runs: RunService,
        submissions: RunSubmission,
        facts: ServiceFacts,
        tokens: PageTokens,
        texts: RunResponses,
        version: Version,
        prefix: str,
        events: RunEvents,
        crates: Crates | None = None,
    ) -> None:
        self._runs = runs
        self._submissions = submissions
        self._facts = facts
        self._tokens = tokens
        self._texts = texts
        self._version = version
        self._prefix = prefix
        self._crates = crates
        self._events = events

    def routes(self) -> list[web.RouteDef]:
        run = f"{self._prefix}/runs/{{run_id}}"
        task = f"{run}/tasks/{{task_id}}"
        return [
            web.get(f"{self._prefix}/service-info", self.service_info),
            web.get(f"{self._prefix}/openapi.yaml", self.document),
            web.get(f"{self._prefix}/runs", self.list_runs),
            web.post(f"{self._prefix}/runs", self.run_workflow),
            web.get(run, self.run_log),
            web.delete(run, self.delete),
            web.post(f"{run}/cancel", self.cancel),
            web.get(f"{run}/status", self.run_status),
            web.get(f"{run}/events", self.run_events),
            web.get(f"{run}/ro-crate", self.ro_crate),
            web.get(f"{run}/tasks", self.list_tasks),
            web.get(task, self.task),
            web.get(f"{run}/{{stream:stdout|stderr}}", self.run_stream),
            web.get(f"{task}/{{stream:stdout|stderr}}", self.task_stream),
            web.get(f"{run}/outputs/{{path:(?s:.+)}}", self.output),
        ]

    async def service_info(self, request: web.Request) -> web.Response:
        counts = await self._runs.state_counts(request[OWNER])
        home = f"{base_url(request)}/"
        return web.json_response(responses.service_info(self._version, self._facts, counts, home))

    async def document(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(DOCUMENT, headers={"Content-Type": "application/yaml"})

    async def list_runs(self, request: web.Request) -> web.Response:
        owner = request[OWNER]
        selection = read_selection(self._version, request.query)
        scope = f"runs of {owner}" + (f" with {selection}" if selection != EVERYTHING else "")
        size = page_size(request.query)
        before = self._tokens.read(scope, request.query)
        page = HeadPage((), None)
        if selection is not None:
            page = await self._runs.heads(owner, size=size, before=before, selection=selection)
        listed = ", ".join(await self._texts.summaries(self._version, owner, page.heads))
        token = json.dumps(self._tokens.issue(scope, page.before))
        return web.json_response(text=f'{{"runs": [{listed}], "next_page_token": {token}}}')

    async def run_workflow(self, request: web.Request) -> web.Response:
        accepted = await self._submissions.receive(request[OWNER], request)
        match accepted:
            case DryRunResult():
                return web.json_response(responses.dry_run(accepted))
            case Run():
                return web.json_response(_accepted(accepted))
            case _:
                assert_never(accepted)

    async def run_log(self, request: web.Request) -> web.Response:
        run_id = request.match_info["run_id"]
        url = f"{base_url(request)}{self._prefix}/runs/{run_id}"
        text = await self._texts.log(self._version, request[OWNER], run_id, url)
        return web.json_response(text=text)

    async def run_events(self, request: web.Request) -> web.StreamResponse:
        return await self._events.answer(request, self._version)

    async def ro_crate(self, request: web.Request) -> web.StreamResponse:
        """The first chunk is waited for, so that what is wrong from the start is an error."""
        run = await self._run(request)
        if self._crates is None:
            raise no_crates()
        refuse_active(run)
        url = self._url(request, run)
        json_type = metadata_type(request.headers.get("Accept", ""))
        chunks = self._crates.chunks(
            run,
            await self._workspace(run),
            url=url,
            log=await self._texts.log(self._version, request[OWNER], run.id, url),
            inclusion=inclusion(request.query, "small" if json_type is None else "none"),
        )
        if json_type is not None:
            text = await metadata(chunks)
            return web.Response(body=text, content_type=json_type, charset="utf-8")
        return CrateResponse(run.id, await anext(chunks), chunks)

    async def run_status(self, request: web.Request) -> web.Response:
        head = await self._runs.head(request[OWNER], request.match_info["run_id"])
        return web.json_response(responses.status(self._version, head.id, head.state))

    async def delete(self, request: web.Request) -> web.Response:
        """Cancels, as 0.3.0 has it; with `purge=true`, an extension, forgets an ended run."""
        if not flag(request.query, "purge"):
            return await self.cancel(request)
        run = await self._run(request)
        await self._runs.remove(request[OWNER], run.id)
        return web.json_response(models.WesRunId(run_id=run.id))

    async def cancel(self, request: web.Request) -> web.Response:
        """Both DELETE (0.3.0) and POST …/cancel; of a run that has ended, nothing changes."""
        run = await self._runs.cancel(request[OWNER], request.match_info["run_id"])
        return web.json_response(models.WesRunId(run_id=run.id))

    async def list_tasks(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        scope = f"tasks of {run.id}"
        start, size = task_page(self._tokens, scope, request.query)
        tasks = await self._runs.tasks(run)
        end = start + size
        url = self._url(request, run)
        answer: models.TaskListResponse = {
            "task_logs": [responses.task_log(task, url) for task in tasks[start:end]],
            "next_page_token": self._tokens.issue(scope, end if end < len(tasks) else None),
        }
        return web.json_response(answer)

    async def task(self, request: web.Request) -> web.Response:
        run, task = await self._task(request)
        return web.json_response(responses.task_log(task, self._url(request, run)))

    async def run_stream(self, request: web.Request) -> web.StreamResponse:
        run = await self._run(request)
        workspace = await self._workspace(run)
        path = workspace.stdout if request.match_info["stream"] == "stdout" else workspace.stderr
        return await _log(request, workspace.root, path.name)

    async def task_stream(self, request: web.Request) -> web.StreamResponse:
        run, task = await self._task(request)
        path = task.stdout if request.match_info["stream"] == "stdout" else task.stderr
        return await _log(request, (await self._workspace(run)).root, path)

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Only what the run has published as its output, by Range if asked so."""
        run = await self._run(request)
        path = request.match_info["path"]
        root = self._runs.workspace(run).outputs
        output = next((output for output in run.outputs if output.path == path), None)
        if output is None:
            raise NotFound(f"run {run.id} has no output {path[:200]!r}")
        await self._workspace(run)
        file = await asyncio.to_thread(open_below, root, path)
        if file is None:
            raise NotFound(f"the output {path!r} of run {run.id} is gone from its directory")
        headers = _HTML if path.endswith(".html") else _OUTPUT
        return OpenedFile(request, file, headers | digest_headers(output.sha256))

    async def _run(self, request: web.Request) -> Run:
        return await self._runs.get(request[OWNER], request.match_info["run_id"])

    async def _workspace(self, run: Run) -> Workspace:
        """The run's directory. Raises NotFound where somebody has removed it."""
        workspace = self._runs.workspace(run)
        if not await asyncio.to_thread(workspace.root.is_dir):
            raise NotFound(f"the directory of run {run.id} is gone from the server's disk")
        return workspace

    async def _task(self, request: web.Request) -> tuple[Run, TaskLog]:
        run = await self._run(request)
        wanted = request.match_info["task_id"]
        for task in await self._runs.tasks(run):
            if responses.task_id(task) == wanted:
                return run, task
        raise NotFound(f"run {run.id} has no task {wanted[:80]!r}")

    def _url(self, request: web.Request, run: Run) -> str:
        return f"{base_url(request)}{self._prefix}/runs/{run.id}"


async def _log(request: web.Request, root: Path, path: str | None) -> web.StreamResponse:
    """A log as far as it is written; an empty one before its first line."""
    file = None if path is None else await asyncio.to_thread(open_below, root, path)
    return web.Response(headers=_TEXT) if file is None else OpenedFile(request, file, _TEXT)


def _accepted(run: Run) -> models.WesRunId:
    answer = models.WesRunId(run_id=run.id)
    if (shared := run.tags.get(SHARED)) is not None:
        answer["warnings"] = [shared]
    return answer
