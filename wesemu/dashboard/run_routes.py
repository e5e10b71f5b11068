"""The routes of the pages of one run. `RunService` refuses runs of other owners."""

import asyncio
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from wesemu.api.base import OWNER
from wesemu.api.connections import base_url
from wesemu.dashboard import run_page, variants
from wesemu.dashboard.pages import HOME, Pages, send_file
from wesemu.errors import NotFound
from wesemu.runs.clock import Clock
from wesemu.runs.model import Run
from wesemu.runs.service import RunService
from wesemu.storage.buckets import Buckets

_RUN = HOME + "runs/{run_id}"


class RunPages:
    """The pages of one run. `buckets` are the local ones."""

    def __init__(self, runs: RunService, buckets: Buckets, clock: Clock, pages: Pages) -> None:
        self._runs = runs
        self._local = buckets
        self._clock = clock
        self._pages = pages

    def pages(self) -> Mapping[str, Handler]:
        """Return the pages that also exist as JSON, by their path below HOME."""
        return {
            "runs/{run_id}": self.overview,
            "runs/{run_id}/timeline": self.timeline,
            "runs/{run_id}/logs": self.logs,
            "runs/{run_id}/request": self.request,
            "runs/{run_id}/results": self.results,
            "runs/{run_id}/variants": self.variants,
        }

    def routes(self) -> list[web.RouteDef]:
        """Return the other routes: files and actions."""
        return [
            web.post(f"{_RUN}/cancel", self.cancel),
            web.post(f"{_RUN}/remove", self.remove),
            web.get(_RUN + "/outputs/{path:.+}", self.output),
            web.get(_RUN + "/log/{name}", self.log),
            web.get(_RUN + "/reference/{name}", self.reference),
        ]

    async def overview(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        page = await asyncio.to_thread(run_page.overview, run, tasks, self._clock.now())
        return await self._pages.render(page, request)

    async def timeline(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        page = await asyncio.to_thread(run_page.timeline, run, tasks, self._clock.now())
        return await self._pages.render(page, request)

    async def logs(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        workspace = self._runs.workspace(run)
        wanted = request.query.get("task", "")
        page = await asyncio.to_thread(
            run_page.logs, run, tasks, workspace, wanted, request.query.get("q", "")
        )
        return await self._pages.render(page, request)

    async def request(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        names = await asyncio.to_thread(self._runs.workspace(run).attachment_names)
        return await self._pages.render(run_page.request(run, names, base_url(request)), request)

    async def results(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        page = await asyncio.to_thread(run_page.results, run, self._runs.workspace(run))
        return await self._pages.render(page, request)

    async def variants(self, request: web.Request) -> web.Response:
        run = await self._run(request)
        page = await asyncio.to_thread(
            variants.page, run, self._runs.workspace(run), self._local, request.query
        )
        return await self._pages.render(page, request)

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

    async def cancel(self, request: web.Request) -> web.Response:
        run = await self._runs.cancel(request[OWNER], request.match_info["run_id"])
        return web.Response(status=303, headers={"Location": f"{HOME}runs/{run.id}"})

    async def remove(self, request: web.Request) -> web.Response:
        await self._runs.remove(request[OWNER], request.match_info["run_id"])
        return web.Response(status=303, headers={"Location": HOME})

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Send a result, with ranges."""
        run = await self._run(request)
        root = self._runs.workspace(run).outputs
        return await send_file(request, root, request.match_info["path"], download=True)

    async def log(self, request: web.Request) -> web.StreamResponse:
        """Send a log: `stdout`, `stderr`, or that of a task (`ID-ATTEMPT.stderr`)."""
        run = await self._run(request)
        tasks = await self._runs.tasks(run)
        path = run_page.log_path(tasks, request.match_info["name"])
        return await send_file(request, self._runs.workspace(run).root, path, download=False)

    async def _run(self, request: web.Request) -> Run:
        return await self._runs.get(request[OWNER], request.match_info["run_id"])
