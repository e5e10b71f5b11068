"""The pages of the node: resources, leases, GPUs, queue and history; and what uses its storage."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from wesemu.api.admin.data import Summary
from wesemu.dashboard.pages import STATE_WORDS, WebPage, iso
from wesemu.engines.lease_queue import Ticket, waiting_tickets
from wesemu.node import Node
from wesemu.runs.model import JsonObject, JsonValue, Owner, Run
from wesemu.runs.queries import LeasedCores
from wesemu.runs.run_directory import tree_size
from wesemu.runs.service import RunService
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore

_MOST_LEASES = 200
_MOST_QUEUED = 100
_HISTORY_TASKS = 5000
_HISTORY = timedelta(hours=24)
_HISTORY_BARS = 48
_LEAST_BAR_SECONDS = 10.0
_MEASURED_RUNS = 1000
_MEASURE_SECONDS = 2.0
_LARGEST_RUNS = 20
_STORAGE = ("disk", "cache of inputs")


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Where the pages get their facts from.

    `resources` and `tickets` block: they return offered and leased resources, disk and cache; and
    the requests for leases. `problems` are the reasons why no run can start. `references` returns
    the registered references with their names; it blocks. `facts` describe the engines and the
    folders.
    """

    node: Node
    store: RunStore
    resources: Callable[[], JsonObject]
    tickets: Callable[[], list[Ticket]]
    problems: Callable[[], Awaitable[list[str]]]
    references: Callable[[], list[tuple[str, Summary]]]
    facts: JsonObject


async def page(machine: MachineFacts, owner: Owner) -> WebPage:
    """Return the page of node and queue. Runs of other owners have no name and no id."""
    store, node = machine.store, machine.node
    tickets = await asyncio.to_thread(machine.tickets)
    runs = await store.statistics.by_sequence(ticket.age for ticket in tickets)
    holders = {sequence: _name(run, owner) for sequence, run in runs.items()}
    queued = await store.queue.first(_MOST_QUEUED)
    history = await store.statistics.leased_cores(_HISTORY_TASKS)
    content: JsonObject = {
        "problems": list(await machine.problems()),
        "gpus": [*_gpus(node, tickets, holders)],
        "leases": [*_leases(node, tickets, holders)],
        "left_out": max(0, len(tickets) - _MOST_LEASES),
        "queue": [
            {"level": ServiceLevel(level).name.lower(), "runs": number, "oldest": iso(oldest)}
            for level, number, oldest in await store.queue.levels()
        ],
        "queued": [*_queued(node, queued, owner)],
        "history": _history(history, node.cores, datetime.now(UTC)),
        "facts": machine.facts,
        **await asyncio.to_thread(machine.resources),
    }
    return WebPage("node.html", "Node", content)


async def storage(machine: MachineFacts, runs: RunService, owner: Owner) -> WebPage:
    """Return the page of disk, largest runs of the owner, and references.

    Measures the newest runs for a few seconds at most.
    """
    newest = (await runs.page(owner, size=_MEASURED_RUNS)).runs
    sizes = await asyncio.to_thread(_measure, newest, runs)
    largest = sorted(sizes, key=lambda each: -each[1])[:_LARGEST_RUNS]
    resources: Any = (await asyncio.to_thread(machine.resources))["resources"]
    content: JsonObject = {
        "problems": [],
        "resources": [row for row in resources if row["name"] in _STORAGE],
        "largest": [
            {**_name(run, owner), "word": STATE_WORDS[run.state], "state": run.state.value}
            | {"bytes": size, "created": iso(run.created)}
            for run, size in largest
        ],
        "measured": len(sizes),
        "bytes": sum(size for _, size in sizes),
        "complete": len(sizes) == len(newest) < _MEASURED_RUNS,
        "references": await asyncio.to_thread(_references, machine),
    }
    return WebPage("storage.html", "Storage", content)


def _measure(runs: Sequence[Run], service: RunService) -> list[tuple[Run, int]]:
    end = time.monotonic() + _MEASURE_SECONDS
    sizes: list[tuple[Run, int]] = []
    for run in runs:
        if time.monotonic() > end:
            break
        sizes.append((run, tree_size(service.workspace(run).root)))
    return sizes


def _references(machine: MachineFacts) -> list[JsonValue]:
    return [
        {
            "name": name,
            "sequences": found.sequences,
            "alternates": found.alternates,
            "indexes": [*found.indexes],
        }
        for name, found in machine.references()
    ]


def _name(run: Run | None, owner: Owner) -> JsonObject:
    if run is None or run.owner != owner:
        return {"id": None, "name": "another owner's run" if run else "the server"}
    return {"id": run.id, "name": run.handle}


_Holders = dict[int, JsonObject]
"""Name and id of runs, by their sequence."""


def _gpus(node: Node, tickets: Sequence[Ticket], holders: _Holders) -> Iterator[JsonValue]:
    for gpu in node.gpus:
        yield {
            "index": gpu.index,
            "name": gpu.name,
            "memory_mb": gpu.memory_mb,
            "driver": gpu.driver,
            "runs": [
                _holder(ticket, holders)
                for ticket in tickets
                if ticket.held and gpu.index in ticket.devices
            ],
        }


def _leases(node: Node, tickets: Sequence[Ticket], holders: _Holders) -> Iterator[JsonValue]:
    """Yield the leases that tasks hold, then those that they wait for, in queue order."""
    held = [ticket for ticket in tickets if ticket.held]
    free = {
        "cores": node.cores - sum(ticket.cores for ticket in held),
        "MiB": node.memory_mb - sum(ticket.memory_mb for ticket in held),
        "GPUs": len(node.gpus) - sum(len(ticket.devices) for ticket in held),
    }
    for ticket in [*held, *waiting_tickets(tickets)][:_MOST_LEASES]:
        yield {
            "run": _holder(ticket, holders),
            "cores": ticket.cores,
            "memory_mb": ticket.memory_mb,
            "gpus": ticket.gpus,
            "devices": [*ticket.devices],
            "held": ticket.held,
            "reason": None if ticket.held else _shortage(ticket, free),
        }


def _holder(ticket: Ticket, holders: _Holders) -> JsonObject:
    # work of the server itself, such as indexing a reference, has no run
    return holders.get(ticket.age, {"id": None, "name": "the server"})


def _shortage(ticket: Ticket, free: dict[str, int]) -> str:
    wanted = {"cores": ticket.cores, "MiB": ticket.memory_mb, "GPUs": ticket.gpus}
    short = [
        f"{number:,} {unit} ({max(0, free[unit]):,} free)"
        for unit, number in wanted.items()
        if number > free[unit]
    ]
    return f"needs {', '.join(short)}" if short else "another task is before it"


def _queued(node: Node, queued: Sequence[Run], owner: Owner) -> Iterator[JsonValue]:
    """Yield the first queued runs, each with the reason why it waits."""
    before = 0
    for run in queued:
        if run.resources.least_gpus > len(node.gpus):
            reason = f"needs {run.resources.least_gpus} GPUs, and this node has {len(node.gpus)}"
        else:
            reason = f"all places for its level are taken ({node.runs} at a time)"
            if before:
                reason = f"{before} {'run is' if before == 1 else 'runs are'} before it"
            before += 1
        yield {
            "run": _name(run, owner),
            "level": run.service_level.name.lower(),
            "created": iso(run.created),
            "reason": reason,
        }


def _history(leases: Sequence[LeasedCores], cores: int, now: datetime) -> JsonObject | None:
    """Return the mean share of the cores that tasks leased, in intervals of the last hours."""
    begin = max(min((lease.started for lease in leases), default=now), now - _HISTORY)
    seconds = max((now - begin).total_seconds(), _HISTORY_BARS * _LEAST_BAR_SECONDS)
    begin, width = now - timedelta(seconds=seconds), seconds / _HISTORY_BARS
    used = [0.0] * _HISTORY_BARS
    for lease in leases:
        first = max((lease.started - begin).total_seconds(), 0.0)
        last = min(((lease.ended or now) - begin).total_seconds(), seconds)
        for bar in range(int(first / width), min(int(last / width) + 1, _HISTORY_BARS)):
            overlap = min(last, (bar + 1) * width) - max(first, bar * width)
            used[bar] += lease.cores * max(0.0, overlap)
    if not any(used):
        return None
    return {
        "from": iso(begin),
        "to": iso(now),
        "seconds": width,
        "shares": [round(min(1.0, each / (cores * width)), 4) for each in used],
    }
