"""The page of the node: resources, leases, the queue, disk."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from wesemu.dashboard.pages import WebPage, iso
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.runs.sla import ServiceLevel


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Where the page gets its facts from.

    `resources` blocks: it returns offered and leased resources, disk and cache. `queue` is
    `RunQueue.levels`. `problems` are the reasons why no run can start. `facts` describe the node,
    the engines and the folders.
    """

    resources: Callable[[], JsonObject]
    queue: Callable[[], Awaitable[list[tuple[str, int, datetime]]]]
    problems: Callable[[], Awaitable[list[str]]]
    facts: JsonObject


async def page(machine: MachineFacts) -> WebPage:
    queued = await machine.queue()
    waiting: list[JsonValue] = [
        {"level": ServiceLevel(level).name.lower(), "runs": runs, "oldest": iso(oldest)}
        for level, runs, oldest in queued
    ]
    content: JsonObject = {
        "problems": list(await machine.problems()),
        "queue": waiting,
        "facts": machine.facts,
        **await asyncio.to_thread(machine.resources),
    }
    return WebPage("node.html", "Node", content)
