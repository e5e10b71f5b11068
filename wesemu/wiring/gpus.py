"""The GPUs that the settings have lent; also for the command line, which has no server."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from wesemu.engines.leases import live_tickets
from wesemu.gpus import Choice, Gpu, Inventory, Wanted, choose, has_driver, take_inventory
from wesemu.nodes import Node
from wesemu.runs.ports import Cards
from wesemu.settings import GpuSettings, NodeSettings


def look() -> Inventory:
    """What NVML tells, where there is a driver; it is not even loaded where there is none."""
    return take_inventory() if has_driver() else Inventory()


def leased(leases: Path) -> set[int]:
    """The indexes of the GPUs that tasks of this data directory have now."""
    return {device for ticket in live_tickets(leases) for device in ticket.devices}


def cards(node: Node, leases: Path) -> Cards:
    """The node's GPUs, and which of them no task of this data directory has now."""
    taken = leased(leases)
    return Cards(node.devices, tuple(each for each in node.devices if each not in taken))


def choose_gpus(
    settings: NodeSettings,
    *,
    ours: Collection[int] = (),
    look: Callable[[], Inventory] = look,
) -> Choice:
    """`ours` are leased at the moment: who computes on them is no stranger."""
    wanted = _wanted(settings)
    if wanted == 0:
        return Choice()
    return choose(
        wanted,
        look(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        lend_busy=settings.lend_busy_gpus,
        ours=ours,
    )


def _wanted(settings: NodeSettings) -> Wanted:
    """With a cluster's executor the GPUs are the cluster's: this machine's do not count."""
    if settings.gpus == "auto" and settings.executor != "local":
        return 0
    if not isinstance(settings.gpus, list):
        return settings.gpus
    return [
        Gpu(each.index, name=each.name, memory_mb=each.memory_mb, driver=each.driver)
        if isinstance(each, GpuSettings)
        else Gpu(each)
        for each in settings.gpus
    ]
