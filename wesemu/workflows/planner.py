"""Planner: finds the workflow of a request, and the engine that runs it.

A request names a bundled pipeline, an attachment (`AttachedWorkflows`), or a URL, whose files
become attachments at submission.
"""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from wesemu.engine_parameters import engines_own
from wesemu.errors import Forbidden, InvalidRequest
from wesemu.runs.model import Graph, Owner, Resources, Run, RunFailure, RunRequest, workflow_kind
from wesemu.runs.ports import Engine, LaunchRequest, Plan, ProgressCallback, Results
from wesemu.runs.run_directory import RunDirectoryDraft, Workspace, make_executable, safe_name
from wesemu.runs.sla import ServiceLevel
from wesemu.workflows.bundled import BundledPipelines
from wesemu.workflows.fetch import RemoteWorkflows, is_file, is_remote
from wesemu.workflows.params import PARAMS
from wesemu.workflows.placement import NodeOffer, place, resources_at_start, write_note


class AttachedWorkflows:
    """Plans workflows among a request's attachments; they run in a folder with copies of these."""

    def __init__(self, node: NodeOffer, owners: Sequence[str] = ("*",)) -> None:
        """`owners` may submit workflows; "*" stands for all."""
        self._node = node
        self._owners = frozenset(owners)

    def check_owner(self, owner: Owner) -> None:
        """Raise Forbidden for an owner who may not submit workflows."""
        if self._owners.isdisjoint({owner, "*"}):
            raise Forbidden(
                f"the owner {owner} may run the bundled pipelines ({' and '.join(PARAMS)}) but "
                "not send workflows; the setting workflows.owners lists who may"
            )

    async def plan(self, engine: str, request: RunRequest, attachments: Path | None) -> Plan:
        await asyncio.to_thread(_check_attached, document_of(request), attachments)
        placement, resources = place(request.engine_parameters, self._node)
        return Plan(
            engine=engine,
            workflow="",
            service_level=_service_level(request.tags),
            resources=resources,
            publications=None,
            placement=placement,
        )

    async def prepare(self, run: Run, workspace: Workspace) -> LaunchRequest:
        """Copy the attachments, since a workflow may change files beside it."""
        await asyncio.to_thread(_copy_attachments, workspace)
        resources = resources_at_start(run, self._node)
        await asyncio.to_thread(write_note, run, workspace)
        return _launch_request(run.request, workspace, resources)

    async def prepare_dry_run(
        self, plan: Plan, request: RunRequest, workspace: Workspace
    ) -> LaunchRequest:
        """Return the launch request of a dry run, which moves the attachments instead of
        copying. A resumed run has files of the earlier run in `work/` already.
        """
        if await asyncio.to_thread(workspace.work.exists):
            await asyncio.to_thread(_copy_attachments, workspace)
        else:
            await asyncio.to_thread(workspace.attachments.rename, workspace.work)
            await asyncio.to_thread(_make_scripts_executable, workspace.work)
        return _launch_request(request, workspace, plan.resources)


def _copy_attachments(workspace: Workspace) -> None:
    """Copy the attachments to `work/`; replace what lies in their places.

    The workflow of an earlier launch may have put links there. Its sandbox does not hold for the
    server, which must not write through them.
    """
    workspace.work.mkdir(exist_ok=True)
    for source in sorted(workspace.attachments.rglob("*")):  # folders before their files
        target = workspace.work / source.relative_to(workspace.attachments)
        if source.is_dir():
            if target.is_symlink() or not target.is_dir():
                target.unlink(missing_ok=True)
                target.mkdir()
            continue
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        shutil.copy2(source, target)
        if _is_script(target):
            make_executable(target)


def _make_scripts_executable(folder: Path) -> None:
    """Make scripts (files that begin with `#!`) executable."""
    for path in folder.rglob("*"):
        if path.is_file() and _is_script(path):
            make_executable(path)


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def _launch_request(
    request: RunRequest, workspace: Workspace, resources: Resources
) -> LaunchRequest:
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
    """Return the workflow's file name among the attachments and the process in it.

    The process is that of a packed CWL document (`packed.cwl#main`); "" means the document itself.
    """
    name = request.workflow_file
    if workflow_kind(request.workflow_type) != "CWL":
        return name or request.workflow_url, ""
    if name is not None:
        return name, urlsplit(request.workflow_url).fragment
    file, _, fragment = request.workflow_url.rpartition("#")
    return (file, fragment) if file and fragment else (request.workflow_url, "")


def _check_attached(document: tuple[str, str], attachments: Path | None) -> None:
    url, fragment = document
    bundled = " or ".join(PARAMS)
    if "://" in url:
        raise InvalidRequest(
            f"{url[:80]!r}: {_not_fetched_reason(url)}; send the file as "
            f"workflow_attachment and name it, or name a bundled pipeline ({bundled})",
            field="workflow_url",
        )
    try:
        relative = safe_name(url)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field="workflow_url") from error
    if attachments is None or not (attachments / relative).is_file():
        raise InvalidRequest(
            f"{url[:80]!r} is neither a bundled pipeline ({bundled}) nor the name "
            "of an attachment of this request",
            field="workflow_url",
        )
    if not fragment.isprintable():
        raise InvalidRequest("it has control characters", field="workflow_url")


def _not_fetched_reason(url: str) -> str:
    if is_remote(url):
        return "this server fetches no workflows (its setting workflows.fetch is off)"
    if is_file(url):
        return "no file of this server is read (its setting workflows.folders names no folder)"
    return "workflows are fetched from http, https, trs and file URLs only"


def _service_level(tags: Mapping[str, str]) -> ServiceLevel:
    """Return the service level of a user's workflow: the tag `wesemu.service` (s, g, p or n)."""
    level = tags.get("wesemu.service", ServiceLevel.SILVER.value)
    try:
        return ServiceLevel(level)
    except ValueError as error:
        raise InvalidRequest(
            f"the tag wesemu.service is {level[:20]!r}; it is s, g, p or n", field="tags"
        ) from error


_BUNDLED_KIND = "SMK"


class WorkflowPlanner:
    """Implements `runs.ports.Planner` over bundled and attached workflows."""

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
        fetched = request.workflow_file is not None  # a resumed run has the files already
        if fetched or not self._remote.can_fetch(request.workflow_url):
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
                    f"it is {request.workflow_type[:40]!r}; {request.workflow_url} is "
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
            prepared = await self._bundled.prepare_dry_run(plan, request, workspace)
            if prepared is None:
                return None
            job, names = prepared
        else:
            job = await self._attached.prepare_dry_run(plan, request, workspace)
        graph = await engine.dry_run(job)
        return None if graph is None else graph.renamed(names)

    async def prepare(
        self, run: Run, workspace: Workspace, report: ProgressCallback
    ) -> LaunchRequest:
        if run.workflow:
            return await self._bundled.prepare(run, workspace, report)
        return await self._attached.prepare(run, workspace)

    async def cleanup(self, run: Run, workspace: Workspace) -> None:
        if run.workflow:
            await self._bundled.cleanup(workspace)

    async def results(self, run: Run, workspace: Workspace) -> Results:
        return await self._bundled.results(workspace) if run.workflow else Results()

    async def describe_failure(self, run: Run, workspace: Workspace) -> RunFailure | None:
        return await self._bundled.describe_failure(run, workspace) if run.workflow else None

    def _engine(self, request: RunRequest) -> Engine:
        engine = self._engines.get(workflow_kind(request.workflow_type))
        if engine is None:
            known = ", ".join(sorted(self._engines))
            raise InvalidRequest(
                f"{request.workflow_type[:40]!r} is not one that this server runs; it runs {known}",
                field="workflow_type",
            )
        return engine
