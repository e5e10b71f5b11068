"""A plan on disk, so that a run that is taken up again is carried out as it was accepted."""

import json
from dataclasses import asdict
from pathlib import Path

from wesemu.runs.model import Resources
from wesemu.runs.ports import Plan, Publication
from wesemu.runs.workspace import Workspace, write_json
from wesemu.sla import ServiceLevel


def write_plan(workspace: Workspace, plan: Plan) -> None:
    values = asdict(plan)
    for publication in values["publications"] or ():
        if publication["destination"] is not None:
            publication["destination"] = str(publication["destination"])
    write_json(workspace.plan, values)


def read_plan(workspace: Workspace) -> Plan:
    values = json.loads(workspace.plan.read_text())
    publications = values.pop("publications")
    return Plan(
        engine=values["engine"],
        workflow=values["workflow"],
        service_level=ServiceLevel(values["service_level"]),
        resources=Resources(**values["resources"]),
        publications=None if publications is None else tuple(map(_publication, publications)),
        input_bytes=values["input_bytes"],
        tags=values["tags"],
    )


def _publication(values: dict[str, str | bool | None]) -> Publication:
    destination = values["destination"]
    return Publication(
        name=str(values["name"]),
        result=str(values["result"]),
        destination=None if destination is None else Path(str(destination)),
        url=None if values["url"] is None else str(values["url"]),
        optional=bool(values["optional"]),
    )
