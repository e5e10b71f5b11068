"""The WES dialect and its routes, mounted once for each version."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from aiohttp import web
from yarl import URL

from wesemu.api.base import OWNER, REQUEST_ID, Dialect, merge_slashes
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
    refuse_active,
)
from wesemu.api.wes.models import PREFIX, VERSIONS, Version, VersionName
from wesemu.api.wes.query import PageTokens, flag, page_size, read_selection, task_page
from wesemu.api.wes.responses import Limits, RunResponses, ServiceFacts
from wesemu.api.wes.submit import RunSubmission, parse_json, refuse_callbacks
from wesemu.errors import Forbidden, InvalidRequest, IssuerUnreachable, NotFound, Unauthorized
from wesemu.runs.model import JsonObject, Owner, Run, TaskLog
from wesemu.runs.ports import DryRunResult
from wesemu.runs.resume import resume_draft
from wesemu.runs.run_directory import Workspace, open_below
from wesemu.runs.service import RunService
from wesemu.runs.store import EVERYTHING, HeadPage
from wesemu.util.cancellation import close, open_in_thread
from wesemu.util.text import whole_number


class MergedSlashes(web.AbstractResource):
    """Resolves a path with surplus slashes as the normalized one, without a redirect.

    A redirect works for GET only: clients drop the body or the credentials of other requests.
    """

    def __init__(self, router: web.UrlDispatcher, prefixes: tuple[str, ...]) -> None:
        super().__init__()
        self._router = router
        self._prefixes = prefixes

    @property
    def canonical(self) -> str:
        return "/{unmerged}"

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
        raise NotImplementedError("a path with surplus slashes has no URL of its own")

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
    """Registers `MergedSlashes` for these prefixes."""

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes

    def register(self, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
        router.register_resource(MergedSlashes(router, self._prefixes))
        return []


# Dialect

Authenticator = Callable[[web.Request], Awaitable[Owner]]

GUEST = Owner("")
"""The owner of public requests without credentials. It has no runs."""

_PUBLIC = ("/wes/v1/service-info", "/wes/v1/openapi.yaml", "/wes/v1/reference")
_PATHS = re.compile(r"(/\d+\.\d+\.\d+)?/ga4gh(/.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ResumeRequest:
    """The body of `resume`: parameters to change, and what to do with the finished files."""

    params: JsonObject
    from_scratch: bool = False
    dry_run: bool = False


def _read_resume(text: str) -> ResumeRequest:
    """Parse the body, which may be empty. Raises InvalidRequest."""
    body = parse_json("the body", text) if text.strip() else {}
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    params = body.pop("workflow_params", None) or {}
    if not isinstance(params, dict):
        raise InvalidRequest("workflow_params must be a JSON object", field="workflow_params")
    flags = {name: body.pop(name, False) for name in ("from_scratch", "dry_run")}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name} must be true or false", field=name)
    if body:
        name = min(body)
        raise InvalidRequest(f"{name[:80]} is not known; leave it out", field=name[:80])
    return ResumeRequest(params, bool(flags["from_scratch"]), bool(flags["dry_run"]))


class WesDialect(Dialect):
    """Every version of WES."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def owns(self, request: web.Request) -> bool:
        return _PATHS.fullmatch(merge_slashes(request.path)) is not None

    async def authenticate(self, request: web.Request) -> Owner:
        """Return the caller, or GUEST for public paths.

        service-info is public because it tells clients how to get credentials (WES 1.1.0,
        auth_instructions_url). So are the API's descriptions.
        """
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


# Routes

_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_OUTPUT = {
    "Content-Type": "application/octet-stream",
    # An HTML report from a workflow must not act with the credentials of the user who views it.
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
    """Return the routes of WES: `version` at /ga4gh/wes/v1, and all at /{version}/ga4gh/wes/v1.

    `page_key` signs page tokens. `check_callback` raises InvalidRequest for a callback_url that the
    server must not call. Without `crates`, RO-Crates are a 404. The caller closes `events`.
    Register these routes before routes that match any path.
    """
    tokens = PageTokens(page_key)
    submissions = RunSubmission(runs, facts, limits or Limits(), check_callback)
    run_responses = RunResponses(runs)
    docs_page = DocsPage()
    mounts = {PREFIX: VERSIONS[version]} | {known.prefix: known for known in VERSIONS.values()}
    events = events or RunEvents(runs)
    table: list[web.AbstractRouteDef] = []
    for prefix, mounted in mounts.items():
        handlers = WesHandlers(
            runs, submissions, facts, tokens, run_responses, mounted, prefix, events, crates
        )
        table += [*handlers.routes(), web.get(f"{prefix}/reference", docs_page.get)]
    table.append(MergedSlashesDef(*mounts))
    return table


class WesHandlers:
    """Handles the routes of one version under one prefix."""

    def __init__(
        self,
        runs: RunService,
        submissions: RunSubmission,
        facts: ServiceFacts,
        tokens: PageTokens,
        run_responses: RunResponses,
        version: Version,
        prefix: str,
        events: RunEvents,
        crates: Crates | None = None,
    ) -> None:
        self._runs = runs
        self._submissions = submissions
        self._facts = facts
        self._tokens = tokens
        self._responses = run_responses
        self._version = version
        self._prefix = prefix
        self._crates = crates
        self._events = events

    def routes(self) -> list[web.RouteDef]:
        run = f"{self._prefix}/runs/{{run_id}}"
        task = f"{run}/tasks/{{task_id}}"
        return [
            # aiohttp tries the routes in their order: what clients poll comes first
            web.get(f"{run}/status", self.run_status),
            web.get(run, self.run_log),
            web.delete(run, self.delete),
            web.get(f"{self._prefix}/service-info", self.service_info),
            web.get(f"{self._prefix}/openapi.yaml", self.document),
            web.get(f"{self._prefix}/runs", self.list_runs),
            web.post(f"{self._prefix}/runs", self.run_workflow),
            web.post(f"{run}/cancel", self.cancel),
            web.post(f"{run}/resume", self.resume),
            web.get(f"{run}/events", self.run_events),
            web.get(f"{run}/ro-crate", self.ro_crate),
            web.get(f"{run}/tasks", self.list_tasks),
            web.get(task, self.task),
            web.get(f"{run}/{{stream:stdout|stderr}}", self.run_stream),
            web.get(f"{task}/{{stream:stdout|stderr}}", self.task_stream),
            web.get(f"{run}/outputs/{{path:(?s:.+)}}", self.output),
        ]

    async def service_info(self, request: web.Request) -> web.Response:
        """GetServiceInfo."""
        owner, home = request[OWNER], f"{base_url(request)}/"

        async def render() -> str:
            counts = await self._runs.state_counts(owner)
            return json.dumps(responses.service_info(self._version, self._facts, counts, home))

        key = ("service-info", self._version.name, owner, home)
        text = await self._responses.current.get(key, render)
        return web.json_response(text=text)

    async def document(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(DOCUMENT, headers={"Content-Type": "application/yaml"})

    async def list_runs(self, request: web.Request) -> web.Response:
        """ListRuns."""
        owner = request[OWNER]
        selection = read_selection(self._version, request.query)
        scope = f"runs of {owner}" + (f" with {selection}" if selection != EVERYTHING else "")
        size = page_size(request.query)
        before = self._tokens.read(scope, request.query)

        async def render() -> str:
            page = HeadPage((), None)
            if selection is not None:
                page = await self._runs.heads(owner, size=size, before=before, selection=selection)
            summaries = ", ".join(await self._responses.summaries(self._version, owner, page.heads))
            token = json.dumps(self._tokens.issue(scope, page.before))
            return f'{{"runs": [{summaries}], "next_page_token": {token}}}'

        key = ("runs", self._version.name, owner, selection, size, before)
        return web.json_response(text=await self._responses.current.get(key, render))

    async def run_workflow(self, request: web.Request) -> web.Response:
        """RunWorkflow. A dry run is an extension."""
        result = await self._submissions.receive(request[OWNER], request)
        match result:
            case DryRunResult():
                return web.json_response(responses.dry_run(result))
            case Run():
                return web.json_response(_accepted(result))
            case _:
                assert_never(result)

    async def resume(self, request: web.Request) -> web.Response:
        """Submit the request of an ended run once more, with its finished files (extension)."""
        body = _read_resume(await self._submissions.read_text(request))
        owner = request[OWNER]
        asked, draft = await resume_draft(
            self._runs,
            owner,
            request.match_info["run_id"],
            body.params,
            from_scratch=body.from_scratch,
        )
        if body.dry_run:
            plan = await self._runs.dry_run(owner, asked, draft)
            return web.json_response(responses.dry_run(plan))
        return web.json_response(_accepted(await self._runs.submit(owner, asked, draft)))

    async def run_log(self, request: web.Request) -> web.Response:
        """GetRunLog."""
        run_id = request.match_info["run_id"]
        url = self._url(request, run_id)
        text = await self._responses.log(self._version, request[OWNER], run_id, url)
        return web.json_response(text=text)

    async def run_events(self, request: web.Request) -> web.StreamResponse:
        return await self._events.stream(request, self._version)

    async def ro_crate(self, request: web.Request) -> web.StreamResponse:
        """Return the RO-Crate of an ended run (extension)."""
        run = await self._run(request)
        if self._crates is None:
            raise no_crates()
        refuse_active(run)
        url = self._url(request, run.id)
        json_type = metadata_type(request.headers.get("Accept", ""))
        chunks = self._crates.chunks(
            run,
            await self._workspace(run),
            url=url,
            log=await self._responses.log(self._version, request[OWNER], run.id, url),
            inclusion=inclusion(request.query, "small" if json_type is None else "none"),
        )
        if json_type is not None:
            text = await metadata(chunks)
            return web.Response(body=text, content_type=json_type, charset="utf-8")
        # Wait for the first chunk: an error before it can still become an error response.
        return CrateResponse(run.id, await anext(chunks), chunks)

    async def run_status(self, request: web.Request) -> web.Response:
        """GetRunStatus."""
        head = await self._runs.head(request[OWNER], request.match_info["run_id"])
        return web.json_response(responses.status(self._version, head.id, head.state))

    async def delete(self, request: web.Request) -> web.Response:
        """Cancel the run (WES 0.3.0). With `purge=true`, an extension, remove an ended run."""
        if not flag(request.query, "purge"):
            return await self.cancel(request)
        run = await self._run(request)
        await self._runs.remove(request[OWNER], run.id)
        return web.json_response(models.WesRunId(run_id=run.id))

    async def cancel(self, request: web.Request) -> web.Response:
        """CancelRun: DELETE in 0.3.0, POST …/cancel from 1.0.0 on. Ended runs stay unchanged."""
        run = await self._runs.cancel(request[OWNER], request.match_info["run_id"])
        return web.json_response(models.WesRunId(run_id=run.id))

    async def list_tasks(self, request: web.Request) -> web.Response:
        """ListTasks (WES 1.1.0)."""
        run = await self._run(request)
        scope = f"tasks of {run.id}"
        start, size = task_page(self._tokens, scope, request.query)
        tasks = await self._runs.tasks(run, start=start, size=size + 1)
        url = self._url(request, run.id)
        body: models.TaskListResponse = {
            "task_logs": [responses.task_log(task, url) for task in tasks[:size]],
            "next_page_token": self._tokens.issue(
                scope, start + size if len(tasks) > size else None
            ),
        }
        return web.json_response(body)

    async def task(self, request: web.Request) -> web.Response:
        """GetTask (WES 1.1.0)."""
        run, task = await self._task(request)
        return web.json_response(responses.task_log(task, self._url(request, run.id)))

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
        """Return an output file of the run; supports Range."""
        run = await self._run(request)
        path = request.match_info["path"]
        root = self._runs.workspace(run).outputs
        output = next((output for output in run.outputs if output.path == path), None)
        if output is None:
            raise NotFound(f"run {run.id} has no output {path[:200]!r}")
        await self._workspace(run)
        file = await open_in_thread(close, open_below, root, path)
        if file is None:
            raise NotFound(f"the output {path!r} of run {run.id} is gone from its directory")
        headers = _HTML if path.endswith(".html") else _OUTPUT
        return OpenedFile(request, file, headers | digest_headers(output.sha256))

    async def _run(self, request: web.Request) -> Run:
        return await self._runs.get(request[OWNER], request.match_info["run_id"])

    async def _workspace(self, run: Run) -> Workspace:
        """Return the run's directory. Raises NotFound if it was removed."""
        workspace = self._runs.workspace(run)
        if not await asyncio.to_thread(workspace.root.is_dir):
            raise NotFound(f"the directory of run {run.id} is gone from the server's disk")
        return workspace

    async def _task(self, request: web.Request) -> tuple[Run, TaskLog]:
        run = await self._run(request)
        wanted = request.match_info["task_id"]
        task_id, _, attempt = wanted.rpartition("-")
        task = await self._runs.task(run, task_id, whole_number(attempt) or 0)
        if task is None or responses.task_id(task) != wanted:
            raise NotFound(f"run {run.id} has no task {wanted[:80]!r}")
        return run, task

    def _url(self, request: web.Request, run_id: str) -> str:
        return f"{base_url(request)}{self._prefix}/runs/{run_id}"


async def _log(request: web.Request, root: Path, path: str | None) -> web.StreamResponse:
    """Return a log file so far, or an empty response before its first line."""
    file = None if path is None else await open_in_thread(close, open_below, root, path)
    return web.Response(headers=_TEXT) if file is None else OpenedFile(request, file, _TEXT)


def _accepted(run: Run) -> models.WesRunId:
    body = models.WesRunId(run_id=run.id)
    if run.shared_output is not None:
        body["warnings"] = [run.shared_output.warning()]
    return body
