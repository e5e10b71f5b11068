"""Which workflow a request means: a bundled pipeline by name, one that came with it, or one by URL,
which has come with it once it is fetched."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wesemu.errors import InvalidRequest
from wesemu.runs.graphs import Graph
from wesemu.runs.model import OutputFile, Owner, Run, RunFailure, RunRequest, workflow_kind
from wesemu.runs.ports import Delivery, Engine, Job, Plan, Results, Tell
from wesemu.runs.workspace import Draft, Workspace
from wesemu.workflows.attached import AttachedWorkflows
from wesemu.workflows.bundled import BundledPipelines
from wesemu.workflows.params import PARAMS
from wesemu.workflows.remote import RemoteWorkflows

_BUNDLED_KIND = "SMK"


class WorkflowPlanner:
    """Implements `runs.ports.Planner` over the bundled pipelines and the engines there are."""

    def __init__(
        self,
        bundled: BundledPipelines,
        attached: AttachedWorkflows,
        engines: Sequence[Engine],
        remote: RemoteWorkflows,
    ) -> None:
        self._bundled = bundled
        self._attached = attached
        self._remote = remote
        self._engines: Mapping[str, Engine] = {
            workflow_kind(kind): engine for engine in engines for kind in engine.workflow_types
        }

    async def collect(self, request: RunRequest, files: Draft) -> RunRequest:
        if not self._remote.takes(request.workflow_url):
            return request
        self._engine(request)
        return await self._remote.collect(request, workflow_kind(request.workflow_type), files)

    async def plan(self, owner: Owner, request: RunRequest, attachments: Path | None) -> Plan:
        engine = self._engine(request)
        engine.check_parameters(request.engine_parameters)
        if request.workflow_url in PARAMS:
            if workflow_kind(request.workflow_type) != _BUNDLED_KIND:
                raise InvalidRequest(
                    f"workflow_type is {request.workflow_type[:40]!r}; {request.workflow_url} is "
                    "bundled, and of the type SMK",
                    field="workflow_type",
                )
            return await self._bundled.plan(engine.name, request, attachments)
        self._attached.check_owner(owner)
        return await self._attached.plan(engine.name, request, attachments)

    async def rehearse(self, plan: Plan, request: RunRequest, workspace: Workspace) -> Graph | None:
        engine = self._engine(request)
        names: dict[str, str] = {}
        if plan.workflow:
            sketch = await self._bundled.sketch(plan, request, workspace)
            if sketch is None:
                return None
            job, names = sketch
        else:
            job = await self._attached.sketch(plan, request, workspace)
        graph = await engine.rehearse(job)
        return None if graph is None else graph.renamed(names)

    async def prepare(self, run: Run, workspace: Workspace, tell: Tell) -> Job:
        if run.workflow:
            return await self._bundled.prepare(run, workspace, tell)
        return await self._attached.prepare(run, workspace)

    async def deliver(
        self, run: Run, workspace: Workspace, outputs: Sequence[OutputFile], tell: Tell
    ) -> Delivery:
        if run.workflow:
            return await self._bundled.deliver(workspace, outputs, tell)
        return Delivery(tuple(outputs))

    async def release(self, run: Run, workspace: Workspace) -> None:
        if run.workflow:
            await self._bundled.release(run, workspace)

    async def results(self, run: Run, workspace: Workspace) -> Results:
        return await self._bundled.results(workspace) if run.workflow else Results()

    async def explain(self, run: Run, workspace: Workspace) -> RunFailure | None:
        return await self._bundled.explain(run, workspace) if run.workflow else None

    def _engine(self, request: RunRequest) -> Engine:
        engine = self._engines.get(workflow_kind(request.workflow_type))
        if engine is None:
            known = ", ".join(sorted(self._engines))
            raise InvalidRequest(
                f"workflow_type {request.workflow_type[:40]!r} is not one that this server "
                f"runs; it runs {known}",
                field="workflow_type",
            )
        return engine
