"""Leases on a node's cores, memory and GPUs, for the tasks of all its runs (docs/leases.md).

A folder holds `node.json` (what the node has; locked by flock for every change) and a file for
each task that waits or holds: its name tells which, by `tickets`. The file is a FIFO locked by
flock, so it dies with the processes that have it open: the task's worker and its tools. Nobody
else is needed: whoever gives a lease back hands it on, and rings the FIFO of who gets it.
"""

import contextlib
import fcntl
import json
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from wesemu.engines.lease_queue import (
    Capacity,
    Ticket,
    devices_environment,
    grants,
    in_order,
    parse,
    priority_from_json,
    priority_to_json,
)
from wesemu.errors import SystemFault
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority

_NODE = "node.json"
_OPEN = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW
_FIRST_SECONDS = 0.05
_OTHERS_SECONDS = 0.5
_NO_FIFO_SECONDS = 0.02


class LeasesClosed(RuntimeError):
    """The run was canceled: none of its tasks starts any more."""


class LeaseAbandoned(RuntimeError):
    """The task is not wanted any more: it has left the queue."""


class Lease:
    """A share of the node, until `release` or the end of all processes that inherited it.

    `devices` are the indexes of its GPUs.
    """

    def __init__(self, folder: "_LeaseFolder", ticket: Ticket, descriptor: int) -> None:
        self._folder = folder
        self._number = ticket.number
        self._descriptor = descriptor
        self.devices = ticket.devices

    def fileno(self) -> int:
        """For tools to inherit: the lease then lasts while they live, should the worker die."""
        return self._descriptor

    def release(self) -> None:
        """Hands it on. Once only. Never raises: the folder may be gone."""
        with contextlib.suppress(OSError):
            self._folder.remove(self._number, self._descriptor)


class LeaseClient:
    """Where the tasks of one run get their leases; for the threads of one process."""

    def __init__(self, priority: QueuePriority) -> None:
        """Raises FileNotFoundError where no node was declared."""
        self._priority = priority
        self._mutex = threading.RLock()
        self._folder = _LeaseFolder(priority.folder, self._mutex)
        self._waiting = set[int]()
        self._closed = False

    def take(self, wanted: Resources, needed: Callable[[], bool] = lambda: True) -> Lease:
        """Blocks until it is this task's turn, or until it is not `needed` any more, which is
        looked at twice a second. Raises LeasesClosed, LeaseForgone, OSError for a full disk.

        Where somebody empties the folder meanwhile, the task queues again.
        """
        while True:
            with contextlib.suppress(FileNotFoundError):
                return self._take(wanted, needed)

    def _take(self, wanted: Resources, needed: Callable[[], bool]) -> Lease:
        with self._mutex:
            self._raise_if_closed()
            number, descriptor = self._folder.add(self._priority, wanted)
            self._waiting.add(descriptor)
        try:
            ticket = self._wait(number, descriptor, needed)
        except BaseException:
            self._stop_notifying(descriptor)
            with contextlib.suppress(OSError):
                self._folder.remove(number, descriptor)
            raise
        self._stop_notifying(descriptor)
        return Lease(self._folder, ticket, descriptor)

    def _stop_notifying(self, descriptor: int) -> None:
        """It is not to be rung any more: its number may soon be another file's."""
        with self._mutex:
            self._waiting.discard(descriptor)

    def _wait(self, number: int, descriptor: int, needed: Callable[[], bool]) -> Ticket:
        while True:
            self._raise_if_closed()
            if not needed():
                raise LeaseAbandoned("the task is not needed any more")
            ticket, is_first = self._folder.poll(number)
            if ticket.held:
                return ticket
            _wait_for_notification(descriptor, _FIRST_SECONDS if is_first else _OTHERS_SECONDS)

    def close(self) -> None:
        """All that wait, and all that will ask, get LeasesClosed. What is held stays held."""
        with self._mutex:
            self._closed = True
            for descriptor in self._waiting:
                _notify(descriptor)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise LeasesClosed("the run was canceled")


class SystemLeases:
    """Leases for work of this machine that belongs to no run, such as indexing. It goes before
    all tasks, because runs wait for it. Where no node was declared there is nothing to lend."""

    def __init__(self, folder: Path) -> None:
        self._client: LeaseClient | None = None
        with contextlib.suppress(FileNotFoundError):
            self._client = LeaseClient(QueuePriority(folder, rank=0, age=0))

    @contextlib.contextmanager
    def lease(self, wanted: Resources, needed: Callable[[], bool]) -> Iterator[tuple[int, ...]]:
        """Blocks until it is the work's turn; the descriptors are for its processes to inherit.

        Raises SystemFault once the work is not `needed` any more.
        """
        if self._client is None:
            yield ()
            return
        try:
            lease = self._client.take(wanted, needed)
        except LeaseAbandoned:
            raise SystemFault("The work was given up while it waited for its turn.") from None
        try:
            yield (lease.fileno(),)
        finally:
            lease.release()


def declare(folder: Path, capacity: Capacity) -> None:
    """Make `folder` the place of a node's leases, or change what the node has."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _NODE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _write_capacity(descriptor, capacity)
    finally:
        os.close(descriptor)
    leases = _LeaseFolder(folder, threading.RLock())
    try:
        leases.reap()
    finally:
        leases.close()


def declare_again(folder: Path, capacity: Capacity) -> None:
    """As `declare`, where somebody has removed or emptied the folder or its `node.json`."""
    try:
        there = (folder / _NODE).stat().st_size > 0
    except FileNotFoundError:
        there = False
    if not there:
        declare(folder, capacity)


def list_tickets(folder: Path) -> list[Ticket]:
    """Who holds and who waits, in no order; some of the dead may be among them."""
    return [ticket for name in _list_names(folder) if (ticket := parse(name)) is not None]


def live_tickets(folder: Path) -> list[Ticket]:
    """As `list_tickets`, the dead left out; none where no node was declared."""
    if not (folder / _NODE).exists():
        return []
    leases = _LeaseFolder(folder, threading.RLock())
    try:
        leases.reap()
    finally:
        leases.close()
    return list_tickets(folder)


class _LeaseFolder:
    """The folder's writing end. One process's threads share it, and `mutex`."""

    def __init__(self, folder: Path, mutex: "threading.RLock") -> None:
        """Raises FileNotFoundError where no node was declared."""
        self._folder = folder
        self._mutex = mutex
        self._descriptor = os.open(folder / _NODE, os.O_RDWR | os.O_NOFOLLOW)
        self._last = dict[str, Ticket]()
        self._known: Capacity | None = None
        with contextlib.suppress(SystemFault):
            self._capacity()

    def close(self) -> None:
        os.close(self._descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            while not self._is_current():
                self._recreate()
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _is_current(self) -> bool:
        """Whether the file that is locked is still the one that others lock."""
        ours = os.fstat(self._descriptor)
        try:
            theirs = (self._folder / _NODE).stat()
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def _recreate(self) -> None:
        """Somebody has removed the folder or the file. All processes make the same file again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / _NODE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def add(self, priority: QueuePriority, wanted: Resources) -> tuple[int, int]:
        """A new ticket, waiting: its number, and the descriptor that keeps it alive."""
        with self._locked():
            ticket = Ticket(
                rank=priority.rank,
                age=priority.age,
                number=time.monotonic_ns(),
                cores=wanted.cores,
                memory_mb=wanted.memory_mb,
                gpus=wanted.gpus,
            )
            descriptor = _create(self._folder / ticket.name)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ticket.number, descriptor

    def poll(self, number: int) -> tuple[Ticket, bool]:
        """The ticket as it is now, and whether it is the first of those that wait.

        The first one minds the dead. Raises FileNotFoundError for a ticket that was removed.
        """
        with self._locked():
            tickets = self._grant()
            if (mine := _find(number, tickets)).held:
                return mine, False
            is_first = self._reap_before(mine, tickets)
            return _find(number, self._grant()), is_first

    def remove(self, number: int, descriptor: int) -> None:
        with self._locked():
            try:
                for name, ticket in self._read().items():
                    if ticket.number == number:
                        (self._folder / name).unlink(missing_ok=True)
                self._grant()
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # tools may have inherited it
                os.close(descriptor)

    def reap(self) -> None:
        """Remove all tickets of the dead, and hand on what they had."""
        with self._locked():
            for name in self._read():
                self._remove_dead(name)
            self._grant()

    def _grant(self) -> dict[str, Ticket]:
        """Hand out what is free. Returns the tickets as they are then, by their names."""
        capacity = self._capacity()
        while True:
            tickets = self._read()
            granted = grants(tickets.values(), capacity)
            if not granted:
                return tickets
            names = {ticket.number: name for name, ticket in tickets.items()}
            for ticket in granted:
                if not self._remove_dead(names[ticket.number]):
                    self._hand_over(names[ticket.number], ticket.name)

    def _hand_over(self, waiting: str, holding: str) -> None:
        (self._folder / waiting).rename(self._folder / holding)
        descriptor = os.open(self._folder / holding, _OPEN)
        _notify(descriptor)
        os.close(descriptor)

    def _reap_before(self, mine: Ticket, tickets: dict[str, Ticket]) -> bool:
        """Whether `mine` is the first that waits; remove the dead that stand in its way."""
        waiting = [name for name in tickets if not tickets[name].held]
        for name in sorted(waiting, key=lambda name: in_order(tickets[name])):
            if tickets[name] == mine:
                for other in tickets:
                    if tickets[other].held:
                        self._remove_dead(other)
                return True
            if not self._remove_dead(name):
                return False
        return False

    def _remove_dead(self, name: str) -> bool:
        """False for a ticket whose process, or a tool that inherited it, is alive."""
        path = self._folder / name
        try:
            descriptor = os.open(path, _OPEN)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        path.unlink(missing_ok=True)
        return True

    def _read(self) -> dict[str, Ticket]:
        """All tickets by their names, most of them known from the last time."""
        known, self._last = self._last, {}
        for name in _list_names(self._folder):
            if (ticket := known.get(name) or parse(name)) is not None:
                self._last[name] = ticket
        return self._last

    def _capacity(self) -> Capacity:
        """Raises SystemFault for a file that says nothing, where nothing was known before."""
        size = os.fstat(self._descriptor).st_size
        try:
            record = json.loads(os.pread(self._descriptor, size, 0))
            devices = tuple(record["devices"])
            self._known = Capacity(record["cores"], record["memory_mb"], devices)
        except (ValueError, KeyError, TypeError):
            if self._known is None:
                raise SystemFault(
                    f"{self._folder / _NODE} does not say what this node has; start the server anew"
                ) from None
            _write_capacity(self._descriptor, self._known)
        return self._known


def _write_capacity(descriptor: int, capacity: Capacity) -> None:
    text = json.dumps(asdict(capacity)).encode() + b"\n"
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _list_names(folder: Path) -> list[str]:
    return os.listdir(folder)  # noqa: PTH208  # pathlib would make a path of each


def _find(number: int, tickets: dict[str, Ticket]) -> Ticket:
    for ticket in tickets.values():
        if ticket.number == number:
            return ticket
    raise FileNotFoundError("a lease was removed from the node's folder")


def _create(path: Path) -> int:
    """A FIFO, or an ordinary file where the file system has no FIFOs."""
    try:
        os.mkfifo(path, 0o600)
    except OSError:
        return os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
    return os.open(path, _OPEN)


def _notify(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.write(descriptor, b"\0")


def _wait_for_notification(descriptor: int, timeout_seconds: float) -> None:
    """Wait for a ring, at most so long."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        time.sleep(min(timeout_seconds, _NO_FIFO_SECONDS))
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(timeout_seconds * 1000)
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)


# `python -m wesemu.engines.leases ORDER COMMAND…`: a whole command under one lease.


def lease_command(
    python: str, command: Sequence[str], priority: QueuePriority, wanted: Resources
) -> list[str]:
    """The command line that runs `command` once it has what it wants of the node."""
    arguments = {
        "priority": priority_to_json(priority),
        "wanted": asdict(wanted),
    }
    return [python, "-P", "-m", "wesemu.engines.leases", json.dumps(arguments), *command]


def main() -> None:
    arguments = json.loads(sys.argv[1])
    priority = priority_from_json(arguments["priority"])
    assert priority is not None
    client = LeaseClient(priority)
    lease = client.take(Resources(**arguments["wanted"]))
    os.set_inheritable(lease.fileno(), True)
    environment = {**os.environ, **devices_environment(lease.devices)}
    os.execvpe(sys.argv[2], sys.argv[2:], environment)  # noqa: S606


if __name__ == "__main__":
    main()
