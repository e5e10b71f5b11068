"""`/_wesemu/…` over the core."""

import json
import resource
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from aiohttp import web

from wesemu.api.control.clock import ClockHandlers
from wesemu.api.control.events import EventHandlers
from wesemu.api.control.faults import FaultHandlers
from wesemu.api.control.metrics import MachineFigures, MetricsHandlers
from wesemu.api.control.prune import PruneHandlers
from wesemu.api.control.reset import ResetHandlers
from wesemu.api.control.state import StateHandlers
from wesemu.api.reception import Reception
from wesemu.engines.leases import live_tickets
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
        MetricsHandlers(
            overseer, reception.traffic, core.keeper.clock, partial(_machine, core, settings)
        ),
        resets,
        PruneHandlers(core.retention),
    ):
        app.add_routes(part.routes())
    app.on_shutdown.append(resets.close)
    app.on_shutdown.append(events.close)


def _machine(core: Core, settings: Settings) -> MachineFigures:
    tickets = live_tickets(core.data.leases)
    held = [ticket for ticket in tickets if ticket.held]
    disk = shutil.disk_usage(core.data.root)
    return MachineFigures(
        offered={
            "cores": core.node.cores,
            "memory": core.node.memory_mb << 20,
            "gpus": len(core.node.gpus),
        },
        leased={
            "cores": sum(ticket.cores for ticket in held),
            "memory": sum(ticket.memory_mb for ticket in held) << 20,
            "gpus": sum(len(ticket.devices) for ticket in held),
        },
        waiting_tasks=len(tickets) - len(held),
        disk_free=disk.free,
        disk_total=disk.total,
        cache=_size_below(core.data.cache / "inputs" / "blobs"),
        cache_limit=int(settings.inputs.cache_gib * (1 << 30)),
        open_files=_open_files(),
        open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _open_files() -> int:
    """0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _size_below(folder: Path) -> int:
    """Bytes of the files in the folders of `folder`; those that go meanwhile do not count."""
    size = 0
    for path in folder.glob("*/*"):
        with suppress(OSError):
            size += path.stat().st_size
    return size


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
