"""The queue for leases: tickets, their file names, and the grant algorithm. Pure functions.

Tickets are ordered by rank, then by age of the run, then by time of arrival. Later tickets may
overtake the first one that does not fit, but only with resources that it will not need once the
tickets before it are released. So narrow tasks cannot starve a wide task.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from wesemu.runs.ports import QueuePriority


def priority_to_json(priority: QueuePriority | None) -> dict[str, Any] | None:
    if priority is None:
        return None
    return {**asdict(priority), "folder": str(priority.folder.absolute())}


def priority_from_json(values: dict[str, Any] | None) -> QueuePriority | None:
    if values is None:
        return None
    return QueuePriority(**{**values, "folder": Path(values["folder"])})


_HOLDS, _WAITS = "holds", "waits"


@dataclass(frozen=True, slots=True)
class Capacity:
    """Resources of a node. `memory_mb` in MiB; 0: memory is not counted. `devices`: GPU indexes."""

    cores: int
    memory_mb: int = 0
    devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ticket:
    """Request of one task: waiting, or held with its `devices`.

    `number` increases with every ticket of the node.
    """

    rank: int
    age: int
    number: int
    cores: int
    memory_mb: int
    gpus: int
    held: bool = False
    devices: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key; the lowest is served first."""
        return (self.rank, self.age, self.number)

    @property
    def name(self) -> str:
        """File name of the ticket; it encodes all fields."""
        numbers = (self.rank, self.age, self.number, self.cores, self.memory_mb, self.gpus)
        words = [_HOLDS if self.held else _WAITS, *map(str, numbers)]
        return ".".join([*words, "+".join(map(str, self.devices))])

    def clamped(self, capacity: Capacity) -> "Ticket":
        """Return the ticket with its request limited to the capacity of the node."""
        cores = min(self.cores, capacity.cores)
        memory_mb = min(self.memory_mb, capacity.memory_mb)
        gpus = min(self.gpus, len(capacity.devices))
        if (cores, memory_mb, gpus) == (self.cores, self.memory_mb, self.gpus):
            return self
        return replace(self, cores=cores, memory_mb=memory_mb, gpus=gpus)


def devices_environment(devices: Iterable[int]) -> dict[str, str]:
    """Return the variables that limit a program to these GPUs.

    Without a device the value is empty: an unset variable would show all GPUs. The indexes are
    those of `nvidia-smi`; CUDA needs `PCI_BUS_ID` for them, because it orders devices by speed.
    """
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def parse(name: str) -> Ticket | None:
    """Return the ticket of a file name, or None for other files."""
    word, *rest = name.split(".")
    if word not in (_HOLDS, _WAITS) or len(rest) != 7:
        return None
    *numbers, devices = rest
    try:
        rank, age, number, cores, memory_mb, gpus = map(int, numbers)
        indexes = tuple(int(index) for index in devices.split("+") if index)
    except ValueError:
        return None
    return Ticket(rank, age, number, cores, memory_mb, gpus, word == _HOLDS, indexes)


def grants(tickets: Iterable[Ticket], capacity: Capacity) -> list[Ticket]:
    """Return the waiting tickets that get a lease now, as held tickets with devices."""
    tickets = [ticket.clamped(capacity) for ticket in tickets]
    held = [ticket for ticket in tickets if ticket.held]
    waiting = waiting_tickets(tickets)
    free_devices = [
        index for index in capacity.devices if not any(index in t.devices for t in held)
    ]
    unused = _FreeResources(capacity, held)
    # `first`: the first ticket that does not fit. `free_for_first`: what will be free for it
    # once all tickets before it are released; tickets that have overtaken it still count.
    first: Ticket | None = None
    free_for_first = unused
    granted = list[Ticket]()
    for ticket in waiting:
        if not unused.fits(ticket):
            if first is None:
                later = [other for other in held if other.order > ticket.order]
                first, free_for_first = ticket, _FreeResources(capacity, later)
            continue
        if first is not None:
            # a later ticket may overtake only if `first` would still fit beside it
            if not free_for_first.fits(first, ticket):
                continue
            free_for_first.take(ticket)
        unused.take(ticket)
        devices, free_devices = tuple(free_devices[: ticket.gpus]), free_devices[ticket.gpus :]
        granted.append(replace(ticket, held=True, devices=devices))
    return granted


def waiting_tickets(tickets: Iterable[Ticket]) -> list[Ticket]:
    """Return the tickets without a lease, in the order of the queue."""
    return sorted((ticket for ticket in tickets if not ticket.held), key=attrgetter("order"))


class _FreeResources:
    """Free resources of a node beside some tickets."""

    def __init__(self, capacity: Capacity, beside: Iterable[Ticket]) -> None:
        self._cores = capacity.cores
        self._memory = capacity.memory_mb
        self._gpus = len(capacity.devices)
        for ticket in beside:
            self.take(ticket)

    def fits(self, *tickets: Ticket) -> bool:
        """Return whether all tickets fit. A shortage matters only to tickets that request it."""
        cores = sum(ticket.cores for ticket in tickets)
        memory = sum(ticket.memory_mb for ticket in tickets)
        gpus = sum(ticket.gpus for ticket in tickets)
        return (
            (not cores or cores <= self._cores)
            and (not memory or memory <= self._memory)
            and (not gpus or gpus <= self._gpus)
        )

    def take(self, ticket: Ticket) -> None:
        self._cores -= ticket.cores
        self._memory -= ticket.memory_mb
        self._gpus -= ticket.gpus
