"""The five operations, told apart by method and path as the gateway does it."""

import asyncio
import re
from contextlib import suppress

from aiohttp import web

from wesemu.api.ags.auth import AgsAuthenticator
from wesemu.api.ags.requests import KINDS, StartWorkflow, parse_body, translate
from wesemu.api.ags.responses import (
    Jobs,
    Started,
    answer,
    describe,
    find_run,
    job_name,
    list_entry,
    render,
    status,
)
from wesemu.api.base import OWNER
from wesemu.errors import Forbidden, InvalidRequest, RunActive, RunNotFound
from wesemu.runs.clock import Clock
from wesemu.runs.model import Owner, Run, RunState
from wesemu.runs.publishing import SHARED
from wesemu.runs.service import RunService
from wesemu.runs.store import Selection
from wesemu.util.text import whole_number

# AGS as the middleware sees it.


class AgsDialect:
    """Implements `wesemu.api.base.Dialect`: `/gs/…`, signatures, errors in JSON or XML."""

    handle = None
    operation = None

    def __init__(self, authenticator: AgsAuthenticator) -> None:
        self._authenticator = authenticator

    def owns(self, request: web.Request) -> bool:
        return request.path == "/gs" or request.path.startswith("/gs/")

    async def authenticate(self, request: web.Request) -> Owner:
        """Raises SignatureRefused; TokenRefused, Forbidden or IssuerUnreachable of a token."""
        return await self._authenticator.owner(request)

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        return render(error, request)

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-acs-request-id": request_id}


_PAGE = 500
_RUN = re.compile(r"the run ([0-9a-f-]{36})")
_JOBS = Selection(workflows=KINDS)


class AgsHandlers:
    """Answers for the runs of one service.

    `clock` tells how long a running job has taken; `namespace` is the 16-digit account id and
    `cluster_id` the cluster that every job is said to belong to.
    """

    def __init__(self, runs: RunService, clock: Clock, *, namespace: str, cluster_id: str) -> None:
        self._runs = runs
        self._clock = clock
        self._namespace = namespace
        self._cluster_id = cluster_id

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/gs/workflow", self.start_workflow),
            web.get("/gs/workflows", self.describe_workflows),
            web.get("/gs/workflow/{name}", self.descirbe_workflow),
            web.put("/gs/workflow/{name}", self.cancel_workflow),
            web.delete("/gs/workflow/{name}", self.remove_workflow),
        ]

    async def start_workflow(self, request: web.Request) -> web.Response:
        """Queues a run and answers at once; SDKs wait 10 s at most."""
        start = await asyncio.to_thread(_start, await request.read())
        with start.in_callers_words():
            run = await self._runs.submit(request[OWNER], start.request)
        warning = await self._in_job_names(request[OWNER], run.tags.get(SHARED))
        started = Started(job_name=job_name(run), warning=warning)
        return answer(request, "StartWorkflow", started)

    async def describe_workflows(self, request: web.Request) -> web.Response:
        """All jobs, newest first. The API has no paging; `limit` is our addition."""
        runs = await self._newest(request[OWNER], _limit(request))
        jobs = [list_entry(run, self._cluster_id) for run in runs]
        return answer(request, "DescribeWorkflows", Jobs(jobs=jobs))

    async def descirbe_workflow(self, request: web.Request) -> web.Response:
        run = await self._find(request)
        told = describe(run, now=self._clock.now(), namespace=self._namespace)
        return answer(request, "DescirbeWorkflow", told)

    async def cancel_workflow(self, request: web.Request) -> web.Response:
        """A job that has ended stays as it is, which is a success too."""
        run = await self._find(request)
        body = await asyncio.to_thread(parse_body, await request.read())
        action = body.get("action")
        if action != "cancel":
            raise InvalidRequest("the only action is 'cancel'", field="action")
        await self._runs.cancel(request[OWNER], run.id)
        return web.Response()

    async def remove_workflow(self, request: web.Request) -> web.Response:
        """Forgets a job that has ended. Raises RunActive."""
        run = await self._find(request)
        if run.state.active:
            if run.state is RunState.CANCELING:
                raise RunActive(
                    f"the workflow {job_name(run)!r} is being cancelled; remove it once it has "
                    "ended"
                )
            raise RunActive(
                f"the workflow {job_name(run)!r} is {status(run.state)}; cancel it or wait for its "
                "end before you remove it"
            )
        await self._runs.remove(request[OWNER], run.id)
        return web.Response()

    async def _in_job_names(self, owner: Owner, told: str | None) -> str | None:
        """A sentence about another run, which AGS knows by the name of its job."""
        named = None if told is None else _RUN.search(told)
        if told is None or named is None:
            return told
        with suppress(RunNotFound, Forbidden):
            other = await self._runs.get(owner, named[1])
            return told.replace(named[0], f"the workflow {job_name(other)}")
        return told

    async def _find(self, request: web.Request) -> Run:
        return await find_run(self._runs, request[OWNER], request.match_info["name"])

    async def _newest(self, owner: Owner, limit: int | None) -> list[Run]:
        found: list[Run] = []
        before: int | None = None
        while limit is None or len(found) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            page = await self._runs.page(owner, size=size, before=before, selection=_JOBS)
            found += page.runs
            before = page.before
            if before is None:
                break
        return found


def _start(body: bytes) -> StartWorkflow:
    return translate(parse_body(body))


def _limit(request: web.Request) -> int | None:
    text = request.query.get("limit", "")
    if not text:
        return None
    if not (limit := whole_number(text)):
        raise InvalidRequest("write a number from 1 to 999999999", field="limit")
    return limit
