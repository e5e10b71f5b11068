"""Workflows that a user sends along: the file that `workflow_url` names among the attachments."""

import asyncio
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from wesemu.engine_parameters import engines_own
from wesemu.errors import Forbidden, InvalidRequest
from wesemu.runs.model import Owner, Resources, Run, RunRequest, workflow_kind
from wesemu.runs.ports import Job, Plan
from wesemu.runs.workspace import Workspace, make_executable, safe_name
from wesemu.sla import ServiceLevel
from wesemu.workflows.params import PARAMS
from wesemu.workflows.placement import Offer, place, settled, write_note
from wesemu.workflows.remote import FILE, is_file, is_remote


class AttachedWorkflows:
    """Plans a user's own workflow; it runs in a folder that holds copies of the attachments."""

    def __init__(self, offer: Offer, owners: Sequence[str] = ("*",)) -> None:
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

    async def prepare(self, run: Run, workspace: Workspace) -> Job:
        """The attachments are copied, since a workflow may change its own inputs' folder."""
        await asyncio.to_thread(_copy_attachments, workspace)
        resources = settled(run, self._offer)
        await asyncio.to_thread(write_note, run, workspace)
        return _job(run.request, workspace, resources)

    async def sketch(self, plan: Plan, request: RunRequest, workspace: Workspace) -> Job:
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


def _job(request: RunRequest, workspace: Workspace, resources: Resources) -> Job:
    return Job(
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
