"""Who asks for how much of a node, who has it, and who gets it next. Pure; `leases` does the work.

Tasks of the lowest rank go first, then those of the oldest run, then who came first. The first one
that does not fit may be passed, but only into room that it would leave free even after
everything before it has ended: so a wide task is not starved by narrow ones.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wesemu.runs.ports import QueuePriority

# A run's priority in the queue for leases, as JSON in the order for its process.


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
    """What a node has. `memory_mb` (MiB) of 0: memory is not counted. `devices` are the indexes
    of its GPUs."""

    cores: int
    memory_mb: int = 0
    devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ticket:
    """One task's claim: waiting, or held with its `devices`. `number` grows with every ticket of
    the node."""

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
        """Lower ones are served first."""
        return (self.rank, self.age, self.number)

    @property
    def name(self) -> str:
        """All there is to know about the ticket; it is the name of its file."""
        numbers = (self.rank, self.age, self.number, self.cores, self.memory_mb, self.gpus)
        words = [_HOLDS if self.held else _WAITS, *map(str, numbers)]
        return ".".join([*words, "+".join(map(str, self.devices))])

    def clamped(self, capacity: Capacity) -> "Ticket":
        """Whoever asks for more than the node has means all of it."""
        cores = min(self.cores, capacity.cores)
        memory_mb = min(self.memory_mb, capacity.memory_mb)
        gpus = min(self.gpus, len(capacity.devices))
        if (cores, memory_mb, gpus) == (self.cores, self.memory_mb, self.gpus):
            return self
        return replace(self, cores=cores, memory_mb=memory_mb, gpus=gpus)


def devices_environment(devices: Iterable[int]) -> dict[str, str]:
    """What shows a program these GPUs and no others; empty for none, or it would see all.

    Indexes are those of `nvidia-smi`, which CUDA has to be told: it counts by speed otherwise.
    """
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def parse(name: str) -> Ticket | None:
    """The ticket of that name; None for a name that is none."""
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
    """Those waiting tickets that get their lease now, held and with their devices."""
    tickets = [ticket.clamped(capacity) for ticket in tickets]
    held = [ticket for ticket in tickets if ticket.held]
    waiting = sorted((ticket for ticket in tickets if not ticket.held), key=in_order)
    free = [index for index in capacity.devices if not any(index in t.devices for t in held)]
    room = _Room(capacity, held)
    first: Ticket | None = None
    left_for_first = room
    granted = list[Ticket]()
    for ticket in waiting:
        if not room.fits(ticket):
            if first is None:
                passed = [other for other in held if other.order > ticket.order]
                first, left_for_first = ticket, _Room(capacity, passed)
            continue
        if first is not None:
            if not left_for_first.fits(first, ticket):
                continue
            left_for_first.take(ticket)
        room.take(ticket)
        devices, free = tuple(free[: ticket.gpus]), free[ticket.gpus :]
        granted.append(replace(ticket, held=True, devices=devices))
    return granted


def in_order(ticket: Ticket) -> tuple[int, int, int]:
    """A key for sorting."""
    return ticket.order


class _Room:
    """What a node has left beside some tickets."""

    def __init__(self, capacity: Capacity, beside: Iterable[Ticket]) -> None:
        self._cores = capacity.cores
        self._memory = capacity.memory_mb
        self._gpus = len(capacity.devices)
        for ticket in beside:
            self.take(ticket)

    def fits(self, *tickets: Ticket) -> bool:
        """Whether all of them would; a ticket that wants none of something minds no lack of it."""
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
