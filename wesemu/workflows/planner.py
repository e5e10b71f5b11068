"""Which workflow a request means: a bundled pipeline by name, one that came with it, or one by URL,
which has come with it once it is fetched.
"""

import asyncio
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from wesemu.engine_parameters import engines_own
from wesemu.errors import Forbidden, InvalidRequest
from wesemu.runs.model import (
    Graph,
    OutputFile,
    Owner,
    Resources,
    Run,
    RunFailure,
    RunRequest,
    workflow_kind,
)
from wesemu.runs.ports import Delivery, Engine, LaunchRequest, Plan, ProgressCallback, Results
from wesemu.runs.run_directory import RunDirectoryDraft, Workspace, make_executable, safe_name
from wesemu.runs.service_levels import ServiceLevel
from wesemu.workflows.bundled import BundledPipelines
from wesemu.workflows.fetch import FILE, RemoteWorkflows, is_file, is_remote
from wesemu.workflows.params import PARAMS
from wesemu.workflows.placement import NodeOffer, place, resources_at_start, write_note

# Workflows that a user sends along: the file that `workflow_url` names among the attachments.


class AttachedWorkflows:
    """Plans a user's own workflow; it runs in a folder that holds copies of the attachments."""

    def __init__(self, offer: NodeOffer, owners: Sequence[str] = ("*",)) -> None:
        """`owners` may send workflows; "*" stands for all."""
        self._offer = offer
        self._owners = frozenset(owners)

    def check_owner(self, owner: Owner) -> None:
        """Raises Forbidden for an owner who may not send workflows."""
        if self._owners.isdisjoint({owner, "*"}):
            raise Forbidden(
                f"the owner {owner} may run the bundled pipelines ({' and '.join(PARAMS)}) but "
                "not send workflows; the setting workflows.owners lists who may"
            )

    async def plan(self, engine: str, request: RunRequest, attachments: Path | None) -> Plan:
        await asyncio.to_thread(_find, document_of(request), attachments)
        placement = place(request.engine_parameters, self._offer)
        return Plan(
            engine=engine,
            workflow="",
            service_level=_service_level(request.tags),
            resources=placement.resources,
            publications=None,
            tags=placement.tags,
        )

    async def prepare(self, run: Run, workspace: Workspace) -> LaunchRequest:
        """The attachments are copied, since a workflow may change its own inputs' folder."""
        await asyncio.to_thread(_copy_attachments, workspace)
        resources = resources_at_start(run, self._offer)
        await asyncio.to_thread(write_note, run, workspace)
        return _job(run.request, workspace, resources)

    async def sketch(self, plan: Plan, request: RunRequest, workspace: Workspace) -> LaunchRequest:
        """The job of a dry run: nobody needs the attachments again, so they are not copied."""
        await asyncio.to_thread(workspace.attachments.rename, workspace.work)
        await asyncio.to_thread(_make_scripts_executable, workspace.work)
        return _job(request, workspace, plan.resources)


def _copy_attachments(workspace: Workspace) -> None:
    shutil.copytree(workspace.attachments, workspace.work, dirs_exist_ok=True)
    names = (path.relative_to(workspace.attachments) for path in workspace.attachments.rglob("*"))
    _make_scripts_executable(workspace.work, names)


def _make_scripts_executable(folder: Path, names: Iterable[Path] | None = None) -> None:
    """Those of the files `names`, by default of all, that begin with `#!`."""
    for path in folder.rglob("*") if names is None else map(folder.joinpath, names):
        if path.is_file() and _is_script(path):
            make_executable(path)


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def _job(request: RunRequest, workspace: Workspace, resources: Resources) -> LaunchRequest:
    return LaunchRequest(
        run_id=workspace.root.name,
        workspace=workspace,
        workflow_file=workspace.work / safe_name(document_of(request)[0]),
        fragment=document_of(request)[1],
        config=request.params,
        resources=resources,
        engine_parameters=engines_own(request.engine_parameters),
        untrusted=True,
    )


def document_of(request: RunRequest) -> tuple[str, str]:
    """The workflow's name among the attachments, where one by URL has been put, and which process
    of a packed CWL document is meant (`packed.cwl#main`); "" for the document as such."""
    name = request.marks.get(FILE)
    if workflow_kind(request.workflow_type) != "CWL":
        return name or request.workflow_url, ""
    if name is not None:
        return name, urlsplit(request.workflow_url).fragment
    file, _, fragment = request.workflow_url.rpartition("#")
    return (file, fragment) if file and fragment else (request.workflow_url, "")


def _find(document: tuple[str, str], attachments: Path | None) -> None:
    url, fragment = document
    bundled = " or ".join(PARAMS)
    if "://" in url:
        raise InvalidRequest(
            f"workflow_url {url[:80]!r}: {_why_not(url)}; send the file as "
            f"workflow_attachment and name it, or name a bundled pipeline ({bundled})",
            field="workflow_url",
        )
    try:
        relative = safe_name(url)
    except InvalidRequest as error:
        raise InvalidRequest(f"workflow_url: {error.message}", field="workflow_url") from error
    if attachments is None or not (attachments / relative).is_file():
        raise InvalidRequest(
            f"workflow_url {url[:80]!r} is neither a bundled pipeline ({bundled}) nor the name "
            "of an attachment of this request",
            field="workflow_url",
        )
    if not fragment.isprintable():
        raise InvalidRequest("workflow_url has control characters", field="workflow_url")


def _why_not(url: str) -> str:
    if is_remote(url):
        return "this server fetches no workflows (its setting workflows.fetch is off)"
    if is_file(url):
        return "no file of this server is read (its setting workflows.folders names no folder)"
    return "workflows are fetched from http, https, trs and file URLs only"


def _service_level(tags: Mapping[str, str]) -> ServiceLevel:
    """The tag `wesemu.service` (s, g, p or n) gives a user's workflow its place in the queue."""
    level = tags.get("wesemu.service", ServiceLevel.SILVER.value)
    try:
        return ServiceLevel(level)
    except ValueError as error:
        raise InvalidRequest(
            f"the tag wesemu.service is {level[:20]!r}; it is s, g, p or n", field="tags"
        ) from error


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

    async def fetch_workflow(self, request: RunRequest, files: RunDirectoryDraft) -> RunRequest:
        if not self._remote.takes(request.workflow_url):
            return request
        self._engine(request)
        return await self._remote.fetch_workflow(
            request, workflow_kind(request.workflow_type), files
        )

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

    async def dry_run(self, plan: Plan, request: RunRequest, workspace: Workspace) -> Graph | None:
        engine = self._engine(request)
        names: dict[str, str] = {}
        if plan.workflow:
            sketch = await self._bundled.sketch(plan, request, workspace)
            if sketch is None:
                return None
            job, names = sketch
        else:
            job = await self._attached.sketch(plan, request, workspace)
        graph = await engine.dry_run(job)
        return None if graph is None else graph.renamed(names)

    async def prepare(
        self, run: Run, workspace: Workspace, tell: ProgressCallback
    ) -> LaunchRequest:
        if run.workflow:
            return await self._bundled.prepare(run, workspace, tell)
        return await self._attached.prepare(run, workspace)

    async def deliver(
        self, run: Run, workspace: Workspace, outputs: Sequence[OutputFile], tell: ProgressCallback
    ) -> Delivery:
        if run.workflow:
            return await self._bundled.deliver(workspace, outputs, tell)
        return Delivery(tuple(outputs))

    async def cleanup(self, run: Run, workspace: Workspace) -> None:
        if run.workflow:
            await self._bundled.cleanup(run, workspace)

    async def results(self, run: Run, workspace: Workspace) -> Results:
        return await self._bundled.results(workspace) if run.workflow else Results()

    async def describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        return await self._bundled.describe_failure(run, workspace) if run.workflow else None

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
