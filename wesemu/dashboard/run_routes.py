"""The routes of the pages of one run. `RunService` refuses runs of other owners."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler
from aiohttp.web_request import BaseRequest

from wesemu.api.base import OWNER, single_values
from wesemu.api.connections import base_url
from wesemu.dashboard import compare, run_page, variants
from wesemu.dashboard.charts import graph, timeline
from wesemu.dashboard.pages import (
    HOME,
    REFUSALS,
    Pages,
    WebPage,
    form_status,
    read_form,
    see_other,
    send_file,
)
from wesemu.dashboard.request_page import changed_params, request_page, rerun_page
from wesemu.dashboard.tasks import seconds_left, work_ratio
from wesemu.errors import NotFound, TooLarge
from wesemu.runs.clock import Clock
from wesemu.runs.model import Pacing, Run, RunState, TaskLog
from wesemu.runs.ports import DryRunResult
from wesemu.runs.resume import resume_draft
from wesemu.runs.run_directory import open_below
from wesemu.runs.service import RunService
from wesemu.runs.store import Selection
from wesemu.storage.buckets import Buckets

_RUN = HOME + "runs/{run_id}"

_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'self'"
)
"""Content-Security-Policy of reports: their scripts run without an origin, and load nothing."""

_STORAGE = b"""<script>
for (const name of ["localStorage", "sessionStorage"]) {
  const items = new Map();
  Object.defineProperty(window, name, { value: {
    getItem: (key) => items.get(String(key)) ?? null,
    setItem: (key, value) => { items.set(String(key), String(value)); },
    removeItem: (key) => { items.delete(String(key)); },
    clear: () => items.clear(),
    key: (number) => [...items.keys()][number] ?? null,
    get length() { return items.size; },
  } });
}
Object.defineProperty(document, "cookie", { get: () => "", set: () => {} });
</script>"""
"""A browser refuses storage and cookies to a page without an origin; MultiQC's scripts ask for
them."""

_HEAD = re.compile(rb"<head(\s[^>]*)?>", re.IGNORECASE)
_HEAD_BYTES = 64 << 10
_LARGEST_REPORT = 64 << 20


class RunPages:
    """The pages of one run. `buckets` are the local ones."""

    def __init__(self, runs: RunService, buckets: Buckets, clock: Clock, pages: Pages) -> None:
        self._runs = runs
        self._buckets = buckets
        self._clock = clock
        self._pages = pages

    def pages(self) -> Mapping[str, Handler]:
        """Return the pages that also exist as JSON, by their path below HOME."""
        return {
            "runs/{run_id}": self.overview,
            "runs/{run_id}/timeline": self.timeline,
            "runs/{run_id}/graph": self.graph,
            "runs/{run_id}/logs": self.logs,
            "runs/{run_id}/request": self.request,
            "runs/{run_id}/results": self.results,
            "runs/{run_id}/variants": self.variants,
            "runs/{run_id}/rerun": self.rerun_form,
            "compare": self.compare,
        }

    def routes(self) -> list[web.RouteDef]:
        """Return the other routes: files and actions."""
        return [
            web.post(f"{_RUN}/cancel", self.cancel),
            web.post(f"{_RUN}/remove", self.remove),
            web.post(f"{_RUN}/rerun", self.rerun),
            web.get(_RUN + "/outputs/{path:.+}", self.output),
            web.get(_RUN + "/reports/{path:.+}", self.report),
            web.get(_RUN + "/attachments/{path:.+}", self.attachment),
            web.get(_RUN + "/log/{name}", self.log),
            web.get(_RUN + "/reference/{name}", self.reference),
        ]

    async def overview(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        left = await self._seconds_left(run, tasks)
        page = await asyncio.to_thread(run_page.overview, run, tasks, self._clock.now(), left)
        return await self._render(run, page, request)

    async def _seconds_left(self, run: Run, tasks: list[TaskLog]) -> float | None:
        """Estimate by the owner's last complete run of the same pipeline, or by the own tasks."""
        if run.state is not RunState.RUNNING or run.terms.pace is Pacing.SLA:
            return None
        earlier: list[TaskLog] = []
        ratio = 1.0
        if run.workflow:
            alike = Selection(workflows=(run.workflow,), states=(RunState.COMPLETE,))
            for other in (await self._runs.page(run.owner, size=1, selection=alike)).runs:
                earlier, ratio = await self._runs.tasks(other), work_ratio(run, other)
        return seconds_left(tasks, earlier, ratio, datetime.now(UTC))

    async def timeline(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        query = single_values(request.query)
        page = await asyncio.to_thread(timeline, run, tasks, query, datetime.now(UTC))
        return await self._render(run, page, request)

    async def graph(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        page = await asyncio.to_thread(graph, run, await self._runs.tasks(run))
        return await self._render(run, page, request)

    async def logs(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        workspace = self._runs.workspace(run)
        query = single_values(request.query)
        page = await asyncio.to_thread(
            run_page.logs, run, tasks, workspace, query.get("task", ""), query.get("q", "")
        )
        return await self._render(run, page, request)

    async def request(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        names = await asyncio.to_thread(self._runs.workspace(run).attachment_names)
        page = await asyncio.to_thread(
            request_page, run, names, base_url(request), closed=self._pages.closed
        )
        return await self._render(run, page, request)

    async def results(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        page = await asyncio.to_thread(run_page.results, run, self._runs.workspace(run))
        return await self._render(run, page, request)

    async def variants(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        query = single_values(request.query)
        page = await asyncio.to_thread(
            variants.page, run, self._runs.workspace(run), self._buckets, query
        )
        return await self._render(run, page, request)

    async def compare(self, request: web.Request) -> web.Response:
        query = single_values(request.query)
        page = await compare.page(self._runs, request[OWNER], query, self._clock.now())
        return await self._pages.render(page, request)

    # Actions

    async def cancel(self, request: web.Request) -> web.Response:
        run = await self._runs.cancel(request[OWNER], request.match_info["run_id"])
        return _see(request, run)

    async def remove(self, request: web.Request) -> web.Response:
        await self._runs.remove(request[OWNER], request.match_info["run_id"])
        return see_other(request, HOME)

    async def rerun_form(self, request: web.Request) -> web.Response:
        """Show which tasks would run again. The query has the fields of the form."""
        run = await self._run(request)
        form = single_values(request.query)
        try:
            planned = None if run.state.active else await self._resume(run, form, dry_run=True)
        except REFUSALS as error:
            page = rerun_page(run, form, message=str(error))
            return await self._render(run, page, request, status=form_status(error))
        assert not isinstance(planned, Run)
        return await self._render(run, rerun_page(run, form, planned=planned), request)

    async def rerun(self, request: web.Request) -> web.Response:
        """Start the new run of the form, or show what is wrong with it."""
        form = await read_form(request)
        run = await self._run(request)
        try:
            started = await self._resume(run, form, dry_run=False)
        except REFUSALS as error:
            page = rerun_page(run, form, message=str(error))
            return await self._render(run, page, request, status=form_status(error))
        assert isinstance(started, Run)
        return _see(request, started)

    async def _resume(
        self, run: Run, form: Mapping[str, str], *, dry_run: bool
    ) -> Run | DryRunResult:
        from_scratch = form.get("from_scratch") == "true"
        params = changed_params(form.get("params", ""))
        asked, draft = await resume_draft(
            self._runs, run.owner, run.id, params, from_scratch=from_scratch
        )
        if dry_run:
            return await self._runs.dry_run(run.owner, asked, draft)
        return await self._runs.submit(run.owner, asked, draft)

    # Files

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Send a result, with ranges."""
        run = await self._run(request)
        root = self._runs.workspace(run).outputs
        return await send_file(request, root, request.match_info["path"], download=True)

    async def report(self, request: web.Request) -> web.StreamResponse:
        """Send an HTML result for a frame. Its scripts have no access to the dashboard."""
        run = await self._run(request)
        path = request.match_info["path"]
        html = await asyncio.to_thread(_read_report, self._runs.workspace(run).outputs, path)
        headers = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-cache"}
        return _Report(body=html, headers=headers)

    async def attachment(self, request: web.Request) -> web.StreamResponse:
        run = await self._run(request)
        root = self._runs.workspace(run).attachments
        return await send_file(request, root, request.match_info["path"], download=True)

    async def log(self, request: web.Request) -> web.StreamResponse:
        """Send a log: `stdout`, `stderr`, or that of a task (`ID-ATTEMPT.stderr`)."""
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        path = run_page.log_path(tasks, request.match_info["name"])
        return await send_file(request, self._runs.workspace(run).root, path, download=False)

    async def reference(self, request: web.Request) -> web.StreamResponse:
        """Send the reference of the run or its index, with ranges."""
        run = await self._run(request)
        fasta = await asyncio.to_thread(variants.reference_file, run, self._runs.workspace(run))
        if fasta is None:
            raise NotFound(f"the run {run.id} has no indexed reference")
        suffix = request.match_info["name"].removeprefix("genome.fa")
        if suffix not in ("", ".fai"):
            raise NotFound("there are only genome.fa and genome.fa.fai")
        return await send_file(request, fasta.parent, fasta.name + suffix, download=True)

    async def _render(
        self, run: Run, page: WebPage, request: web.Request, *, status: int = 200
    ) -> web.Response:
        """Render a page of a run: its content, and what all pages of the run show."""
        content = run_page.head(run, self._clock.now()) | dict(page.content)
        return await self._pages.render(replace(page, content=content), request, status=status)

    async def _run(self, request: web.Request) -> Run:
        return await self._runs.get(request[OWNER], request.match_info["run_id"])


class _Report(web.Response):
    """A report with its own Content-Security-Policy instead of that of pages."""

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        self.headers["Content-Security-Policy"] = _REPORT_POLICY
        return await super().prepare(request)


def _read_report(root: Path, path: str) -> bytes:
    """Return an HTML file below `root` with `_STORAGE` in its head. Raises NotFound, TooLarge."""
    is_report = path.endswith(run_page.REPORT_SUFFIX)
    file = open_below(root, path) if is_report else None
    if file is None:
        raise NotFound(f"there is no report {path[:200]!r}")
    with file:
        html = file.read(_LARGEST_REPORT + 1)
    if len(html) > _LARGEST_REPORT:
        raise TooLarge(f"{path} is too large for a frame; download it from the overview")
    head = _HEAD.search(html, 0, _HEAD_BYTES)
    place = head.end() if head else 0
    return html[:place] + _STORAGE + html[place:]


def _see(request: web.Request, run: Run) -> web.Response:
    return see_other(request, f"{HOME}runs/{run.id}")
