"""The AGS dialect and its five operations, identified by method and path (AGS API reference)."""

import asyncio
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

from wesemu.api.ags.auth import AgsAuthenticator
from wesemu.api.ags.requests import KINDS, StartWorkflow, parse_body, translate
from wesemu.api.ags.responses import (
    Jobs,
    Started,
    describe,
    empty,
    find_run,
    job_name,
    json_or_xml,
    list_entry,
    render,
    status,
)
from wesemu.api.base import OWNER, UNREAD, Dialect, refuse_encoded, single
from wesemu.errors import Forbidden, InvalidRequest, RunActive, RunNotFound
from wesemu.runs.clock import Clock
from wesemu.runs.model import Owner, Run, RunState, SharedOutput
from wesemu.runs.service import RunService
from wesemu.runs.store import Selection
from wesemu.util.text import whole_number

# Dialect


class AgsDialect(Dialect):
    """AGS: `/gs/…`, signatures, errors in JSON or XML."""

    def __init__(self, authenticator: AgsAuthenticator) -> None:
        self._authenticator = authenticator

    def owns(self, request: web.Request) -> bool:
        return request.path == "/gs" or request.path.startswith("/gs/")

    async def authenticate(self, request: web.Request) -> Owner:
        """Raise AgsSignatureRefused, or for tokens TokenRefused, Forbidden or IssuerUnreachable."""
        return await self._authenticator.owner(request)

    def render_error(self, error: Exception, request: web.Request) -> web.Response:
        return render(error, request)

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-acs-request-id": request_id}


# Operations

_PAGE = 500
_JOBS = Selection(workflows=KINDS)


class AgsHandlers:
    """Handles the five operations.

    `clock` measures how long jobs have run. `namespace` is the 16-digit account id, and
    `cluster_id` the cluster of all jobs.
    """

    def __init__(self, runs: RunService, clock: Clock, *, namespace: str, cluster_id: str) -> None:
        self._runs = runs
        self._clock = clock
        self._namespace = namespace
        self._cluster_id = cluster_id

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/gs/workflow", _with_single_values(self.start_workflow)),
            web.get("/gs/workflows", _with_single_values(self.describe_workflows)),
            web.get("/gs/workflow/{name}", _with_single_values(self.descirbe_workflow)),
            web.put("/gs/workflow/{name}", _with_single_values(self.cancel_workflow)),
            web.delete("/gs/workflow/{name}", _with_single_values(self.remove_workflow)),
        ]

    async def start_workflow(self, request: web.Request) -> web.Response:
        """Queue a run and return at once: SDKs time out after 10 s."""
        refuse_encoded(request)
        start = await asyncio.to_thread(_start, await request.read())
        request[UNREAD] = list(start.unread)
        with start.with_caller_fields():
            run = await self._runs.submit(request[OWNER], start.request)
        warning = await self._warning(request[OWNER], run.shared_output)
        started = Started(job_name=job_name(run), warning=warning)
        return json_or_xml(request, "StartWorkflow", started)

    async def describe_workflows(self, request: web.Request) -> web.Response:
        """List all jobs, newest first. AGS has no paging; `limit` is an extension."""
        runs = await self._newest(request[OWNER], _limit(request))
        jobs = [list_entry(run, self._cluster_id) for run in runs]
        return json_or_xml(request, "DescribeWorkflows", Jobs(jobs=jobs))

    async def descirbe_workflow(self, request: web.Request) -> web.Response:
        run = await self._find(request)
        description = describe(run, now=self._clock.now(), namespace=self._namespace)
        return json_or_xml(request, "DescirbeWorkflow", description)

    async def cancel_workflow(self, request: web.Request) -> web.Response:
        """Cancel a job. A job that has ended stays unchanged, which is also a success."""
        run = await self._find(request)
        refuse_encoded(request)
        body = await asyncio.to_thread(parse_body, await request.read())
        action = body.get("action")
        if action != "cancel":
            raise InvalidRequest("the only action is 'cancel'", field="action")
        await self._runs.cancel(request[OWNER], run.id)
        return empty(request)

    async def remove_workflow(self, request: web.Request) -> web.Response:
        """Remove a job that has ended. Raises RunActive."""
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
        return empty(request)

    async def _warning(self, owner: Owner, shared: SharedOutput | None) -> str | None:
        """Describe a shared output with the job name of the other run."""
        if shared is None:
            return None
        if shared.run_id is None:
            return shared.warning()
        with suppress(RunNotFound, Forbidden):
            other = await self._runs.get(owner, shared.run_id)
            return shared.warning(f"the workflow {job_name(other)}")
        return shared.warning()

    async def _find(self, request: web.Request) -> Run:
        return await find_run(self._runs, request[OWNER], request.match_info["name"])

    async def _newest(self, owner: Owner, limit: int | None) -> list[Run]:
        runs: list[Run] = []
        before: int | None = None
        while limit is None or len(runs) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(runs))
            page = await self._runs.page(owner, size=size, before=before, selection=_JOBS)
            runs += page.runs
            before = page.before
            if before is None:
                break
        return runs


def _with_single_values(handler: Handler) -> Handler:
    """Return a handler that refuses a query parameter with two values before it does anything.

    This includes the common parameters of Alibaba Cloud that no operation reads. `Format` and
    `format` are one name, as for `wants_xml`.
    """

    async def checked(request: web.Request) -> web.StreamResponse:
        values: dict[str, str] = {}
        for name, value in request.query.items():
            if values.setdefault(name.casefold(), value) != value:
                raise InvalidRequest("it has two values; send one of them", field=name)
        return await handler(request)

    return checked


def _start(body: bytes) -> StartWorkflow:
    return translate(parse_body(body))


def _limit(request: web.Request) -> int | None:
    text = single(request.query, "limit")
    if not text:
        return None
    if not (limit := whole_number(text)):
        raise InvalidRequest("write a number from 1 to 999999999", field="limit")
    return limit
