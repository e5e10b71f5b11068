"""`/_wesemu/…` over the core."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from aiohttp import web

from wesemu.api.control.clock import ClockHandlers
from wesemu.api.control.events import EventHandlers
from wesemu.api.control.faults import FaultHandlers
from wesemu.api.control.metrics import MetricsHandlers
from wesemu.api.control.prune import PruneHandlers
from wesemu.api.control.reset import ResetHandlers
from wesemu.api.control.state import StateHandlers
from wesemu.api.reception import Reception
from wesemu.errors import ToolMissing
from wesemu.genomics.inventory import found_tools
from wesemu.genomics.tools import Tool
from wesemu.nodes import Node
from wesemu.objects.services import ObjectServices
from wesemu.readiness import Readiness
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.runs.overseer import Overseer
from wesemu.settings import Settings
from wesemu.wiring.core import Core


def add_controls(
    app: web.Application,
    settings: Settings,
    core: Core,
    objects: ObjectServices,
    reception: Reception,
    readiness: Readiness,
    sandbox: str,
) -> None:
    """Add the controls' routes to `app`; open event streams end when it shuts down.

    `sandbox` says which one users' own workflows run in.
    """
    overseer = Overseer(core.store, core.runs, core.changes, core.scheduler.drained, core.data.runs)
    pace = settings.sla.pace.value
    faults = FaultHandlers(reception.faults, core.policy)
    events = EventHandlers(overseer)

    async def restore() -> None:
        faults.forget_all()
        await core.keeper.steer(speed=settings.clock.speed)

    places: dict[str, JsonValue] = {
        "data": str(core.data.root),
        "pipelines": str(core.pipelines),
        "pace": pace,
        "node": _node(core.node),
        "sandbox": sandbox,
    }
    resets = ResetHandlers(
        overseer,
        reception.gate,
        core.ids,
        restore=restore,
        empty_buckets=objects.shelves.empty,
    )

    async def hindrances() -> list[str]:
        resetting = ["the server is being reset"] if reception.gate.is_closed else []
        return resetting + await readiness.hindrances()

    for part in (
        StateHandlers(core.engines, hindrances, partial(_tools, settings.tools), places),
        ClockHandlers(core.keeper, core.wall, pace),
        faults,
        events,
        MetricsHandlers(overseer, reception.traffic, core.keeper.clock),
        resets,
        PruneHandlers(core.retention),
    ):
        app.add_routes(part.routes())
    app.on_shutdown.append(resets.close)
    app.on_shutdown.append(events.close)


def _node(node: Node) -> JsonValue:
    """What this machine offers, as it was found when the server started."""
    told: JsonObject = json.loads(json.dumps(asdict(node)))
    return told


def _tools(commands: Mapping[str, str]) -> list[JsonValue]:
    """The tools that runs would use, as `info` tells them; what is missing is told instead."""
    try:
        tools = found_tools(commands)
    except ToolMissing as error:
        return [{"error": error.message}]
    return [_tool(tool) for tool in tools]


def _tool(tool: Tool) -> JsonObject:
    told: JsonObject = {"name": tool.name, "version": tool.version, "source": tool.source}
    return told | {"note": tool.note} if tool.note else told
