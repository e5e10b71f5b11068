"""Workflows that a user sends along: the file that `workflow_url` names among the attachments."""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

from wesemu.errors import InvalidRequest
from wesemu.runs.model import Run, RunRequest
from wesemu.runs.ports import Job, Plan
from wesemu.runs.workspace import Workspace, safe_name
from wesemu.sla import ServiceLevel
from wesemu.workflows.params import PARAMS
from wesemu.workflows.placement import Offer, place, settled, tell
from wesemu.workflows.shares import others

_TASKWISE = "snakemake"
"""The engine whose tasks lease GPUs one by one; those of others have one lease for the run."""


class AttachedWorkflows:
    """Plans a user's own workflow; it runs in a folder that holds copies of the attachments."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer

    async def plan(self, engine: str, request: RunRequest, attachments: Path | None) -> Plan:
        await asyncio.to_thread(_find, request.workflow_url, attachments)
        parameters = request.engine_parameters
        placement = place(parameters, self._offer, whole=engine != _TASKWISE)
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
        await asyncio.to_thread(
            shutil.copytree, workspace.attachments, workspace.work, dirs_exist_ok=True
        )
        resources = settled(run, self._offer)
        await asyncio.to_thread(tell, run, workspace)
        return Job(
            run_id=run.id,
            workspace=workspace,
            workflow_file=workspace.work / safe_name(run.request.workflow_url),
            config=run.request.params,
            resources=resources,
            engine_parameters=others(run.request.engine_parameters),
        )


def _find(url: str, attachments: Path | None) -> None:
    bundled = " or ".join(PARAMS)
    if "://" in url:
        raise InvalidRequest(
            f"workflow_url {url[:80]!r}: this server fetches no workflows; send the file as "
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


def _service_level(tags: Mapping[str, str]) -> ServiceLevel:
    """The tag `wesemu.service` (s, g or p) gives a user's workflow its place in the queue."""
    level = tags.get("wesemu.service", ServiceLevel.SILVER.value)
    try:
        return ServiceLevel(level)
    except ValueError as error:
        raise InvalidRequest(
            f"the tag wesemu.service is {level[:20]!r}; it is s, g or p", field="tags"
        ) from error
