"""Leases on cores, memory and GPUs of a node, for the tasks of all runs (docs/leases.md).

A folder holds `node.json` (the capacity; every change locks it with flock) and one ticket file
for each task that waits for a lease or holds one. `lease_queue` defines the file names. A ticket
file is a FIFO locked with flock, so the kernel unlocks it when the worker and its tools have ended.
There is no lease server: the process that releases a lease grants the next ones and notifies their
owners through the FIFOs.
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
_PAUSE_SECONDS = 0.01
_LIST_SECONDS = 1.0
"""How long a list of tickets waits for the lock, which a workflow can hold."""

_DECLARE_SECONDS = 10.0
"""How long a starting server waits for the lock."""

_LARGEST_NODE = 1 << 20
"""Bytes of `node.json` that are read; a workflow can make it larger than the memory."""


class LeasesClosed(RuntimeError):
    """The run was canceled; no more of its tasks start."""


class LeaseAbandoned(RuntimeError):
    """The task is no longer needed and has left the queue."""


class Lease:
    """Cores, memory and GPUs of one task, until `release` or the end of all its processes.

    `devices` are the indexes of the GPUs.
    """

    def __init__(self, folder: "_LeaseFolder", ticket: Ticket, descriptor: int) -> None:
        self._folder = folder
        self._number = ticket.number
        self._descriptor = descriptor
        self.devices = ticket.devices
        self.cores, self.memory_mb = ticket.cores, ticket.memory_mb

    def fileno(self) -> int:
        """Return the descriptor for tools to inherit; it keeps the lease if the worker dies."""
        return self._descriptor

    def release(self) -> None:
        """Release the lease. Call once. Raises nothing, even if the folder is gone."""
        with contextlib.suppress(OSError):
            self._folder.remove(self._number, self._descriptor)


class LeaseClient:
    """Takes leases for the tasks of one run. Thread-safe within one process."""

    def __init__(self, priority: QueuePriority) -> None:
        """Raise FileNotFoundError if the folder declares no node."""
        self._priority = priority
        self._mutex = threading.RLock()
        self._folder = _LeaseFolder(priority.folder, self._mutex)
        self._waiting = set[int]()
        self._closed = False

    def take(self, wanted: Resources, needed: Callable[[], bool] = lambda: True) -> Lease:
        """Block until the task gets its lease. Calls `needed` at least twice a second.

        Raises LeasesClosed; LeaseAbandoned once `needed` returns False; OSError on a full disk.
        """
        # FileNotFoundError: another process has emptied the folder, so the task queues again
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
        """Forget the descriptor before it is closed: another file may get its number."""
        with self._mutex:
            self._waiting.discard(descriptor)

    def _wait(self, number: int, descriptor: int, needed: Callable[[], bool]) -> Ticket:
        while True:
            self._raise_if_closed()
            if not needed():
                raise LeaseAbandoned("the task is no longer needed")
            ticket, is_first = self._folder.poll(number)
            if ticket.held:
                return ticket
            # a killed process sends no notification, so the first waiter polls more often
            _wait_for_notification(descriptor, _FIRST_SECONDS if is_first else _OTHERS_SECONDS)

    def close(self) -> None:
        """Raise LeasesClosed in waiting and later calls of `take`. Leases remain held."""
        with self._mutex:
            self._closed = True
            for descriptor in self._waiting:
                _notify(descriptor)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise LeasesClosed("the run was canceled")


class SystemLeases:
    """Leases for work outside of runs, such as indexing a reference.

    This work precedes all tasks because runs wait for it. Without a declared node it takes none.
    """

    def __init__(self, folder: Path) -> None:
        self._client: LeaseClient | None = None
        with contextlib.suppress(FileNotFoundError):
            self._client = LeaseClient(QueuePriority(folder, rank=0, age=0))

    @contextlib.contextmanager
    def lease(self, wanted: Resources, needed: Callable[[], bool]) -> Iterator[tuple[int, ...]]:
        """Block until the lease is granted; yield descriptors for the processes to inherit.

        Raises SystemFault once `needed` returns False.
        """
        if self._client is None:
            yield ()
            return
        try:
            lease = self._client.take(wanted, needed)
        except LeaseAbandoned:
            raise SystemFault("The work was canceled while it waited for a lease.") from None
        try:
            yield (lease.fileno(),)
        finally:
            lease.release()


def declare(folder: Path, capacity: Capacity) -> None:
    """Make `folder` the lease folder of a node, or change the capacity of the node.

    Replaces a `node.json` that a workflow keeps locked, because a server must be able to start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _open_node(folder)
    try:
        _lock(descriptor, _DECLARE_SECONDS)
    except TimeoutError:
        os.close(descriptor)
        (folder / _NODE).unlink(missing_ok=True)
        descriptor = _open_node(folder)
    try:
        _write_capacity(descriptor, capacity)
    finally:
        os.close(descriptor)
    with contextlib.suppress(TimeoutError):
        _reap(folder)


def _open_node(folder: Path) -> int:
    return os.open(folder / _NODE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def _lock(descriptor: int, seconds: float | None) -> None:
    """Lock the file. Raise TimeoutError if another process keeps the lock for `seconds`."""
    deadline = time.monotonic() + (seconds or 0)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if seconds is None else fcntl.LOCK_NB))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("another process keeps the lease folder locked") from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def declare_again(folder: Path, capacity: Capacity) -> None:
    """Call `declare` if the folder or its `node.json` was removed or emptied."""
    try:
        there = (folder / _NODE).stat().st_size > 0
    except FileNotFoundError:
        there = False
    if not there:
        declare(folder, capacity)


def list_tickets(folder: Path) -> list[Ticket]:
    """Return waiting and held tickets, unordered; includes tickets of dead processes."""
    return [ticket for name in _list_names(folder) if (ticket := parse(name)) is not None]


def live_tickets(folder: Path) -> list[Ticket]:
    """Return the tickets of living processes; none without a declared node.

    Includes those of dead processes while a workflow keeps the folder locked.
    """
    if not (folder / _NODE).exists():
        return []
    with contextlib.suppress(TimeoutError):
        _reap(folder)
    return list_tickets(folder)


def _reap(folder: Path) -> None:
    """Remove the tickets of dead processes. Raise TimeoutError if the folder stays locked."""
    leases = _LeaseFolder(folder, threading.RLock(), seconds=_LIST_SECONDS)
    try:
        leases.reap()
    finally:
        leases.close()


class _LeaseFolder:
    """Adds, grants and removes tickets in the folder. The threads of a process share `mutex`.

    `flock` excludes other processes, `mutex` the other threads of this one.
    """

    def __init__(
        self, folder: Path, mutex: "threading.RLock", *, seconds: float | None = None
    ) -> None:
        """`seconds`: how long to wait for the lock; None: forever.

        Raise FileNotFoundError if the folder declares no node.
        """
        self._folder = folder
        self._mutex = mutex
        self._seconds = seconds
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
            _lock(self._descriptor, self._seconds)
            while not self._is_current():
                self._recreate()
                _lock(self._descriptor, self._seconds)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _is_current(self) -> bool:
        """Return whether the locked file is still the one at this path, which others lock."""
        ours = os.fstat(self._descriptor)
        try:
            theirs = (self._folder / _NODE).stat()
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def _recreate(self) -> None:
        """Open or create `node.json` after another process has removed or replaced it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_node(self._folder)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def add(self, priority: QueuePriority, wanted: Resources) -> tuple[int, int]:
        """Add a waiting ticket; return its number and the descriptor that keeps it alive."""
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
            # marks the owner as alive; the kernel unlocks it when all copies are closed
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ticket.number, descriptor

    def poll(self, number: int) -> tuple[Ticket, bool]:
        """Return the current ticket, and whether it is the first in the queue.

        Only the first waiter removes the tickets of dead processes. Raises FileNotFoundError if the
        ticket was removed.
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
        """Remove the tickets of dead processes and grant what they held."""
        with self._locked():
            for name in self._read():
                self._remove_dead(name)
            self._grant()

    def _grant(self) -> dict[str, Ticket]:
        """Grant free resources to waiting tickets. Return all tickets by file name."""
        capacity = self._capacity()
        while True:
            tickets = self._read()
            granted = grants(tickets.values(), capacity)
            if not granted:
                return tickets
            # a dead waiter gets nothing; then the next round grants its share to others
            names = {ticket.number: name for name, ticket in tickets.items()}
            for ticket in granted:
                if not self._remove_dead(names[ticket.number]):
                    self._hand_over(names[ticket.number], ticket.name)

    def _hand_over(self, waiting: str, holding: str) -> None:
        # the name is the state, so the rename is the grant: atomic, and visible to all processes
        (self._folder / waiting).rename(self._folder / holding)
        descriptor = os.open(self._folder / holding, _OPEN)
        _notify(descriptor)
        os.close(descriptor)

    def _reap_before(self, mine: Ticket, tickets: dict[str, Ticket]) -> bool:
        """Remove dead waiters before `mine`, then dead holders. Return whether `mine` is first."""
        waiting = [name for name in tickets if not tickets[name].held]
        for name in sorted(waiting, key=lambda name: tickets[name].order):
            if tickets[name] == mine:
                for other in tickets:
                    if tickets[other].held:
                        self._remove_dead(other)
                return True
            if not self._remove_dead(name):
                return False
        return False

    def _remove_dead(self, name: str) -> bool:
        """Remove a ticket unless its process, or a tool that inherited it, is alive."""
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
        """Return all tickets by file name; parses only names that are new."""
        known, self._last = self._last, {}
        for name in _list_names(self._folder):
            if (ticket := known.get(name) or parse(name)) is not None:
                self._last[name] = ticket
        return self._last

    def _capacity(self) -> Capacity:
        """Return the capacity. Rewrites a damaged file from the last known capacity.

        Raises SystemFault if the file is damaged and no capacity is known.
        """
        size = min(os.fstat(self._descriptor).st_size, _LARGEST_NODE)
        try:
            record = json.loads(os.pread(self._descriptor, size, 0))
            devices = tuple(record["devices"])
            self._known = Capacity(record["cores"], record["memory_mb"], devices)
        except (ValueError, KeyError, TypeError, RecursionError):
            if self._known is None:
                raise SystemFault(
                    f"{self._folder / _NODE} lacks the capacity of this node; restart the server"
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
    raise FileNotFoundError("a ticket was removed from the lease folder")


def _create(path: Path) -> int:
    """Create a FIFO, or a regular file on file systems without FIFOs."""
    try:
        os.mkfifo(path, 0o600)
    except OSError:
        return os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
    return os.open(path, _OPEN)


def _notify(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.write(descriptor, b"\0")


def _wait_for_notification(descriptor: int, timeout_seconds: float) -> None:
    """Wait for a notification for at most `timeout_seconds`; a regular file is only polled."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        time.sleep(min(timeout_seconds, _NO_FIFO_SECONDS))
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(timeout_seconds * 1000)
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)


# `python -m wesemu.engines.leases ARGUMENTS COMMAND…`: one lease for a whole command.


def lease_command(
    python: str, command: Sequence[str], priority: QueuePriority, wanted: Resources
) -> list[str]:
    """Return a command line that takes a lease and then executes `command`."""
    arguments = {"priority": priority_to_json(priority), "wanted": asdict(wanted)}
    return [python, "-P", "-m", "wesemu.engines.leases", json.dumps(arguments), *command]


def main() -> None:
    arguments = json.loads(sys.argv[1])
    priority = priority_from_json(arguments["priority"])
    assert priority is not None
    client = LeaseClient(priority)
    lease = client.take(Resources(**arguments["wanted"]))
    # no release: the descriptor survives exec, so the lease ends with the command
    os.set_inheritable(lease.fileno(), True)
    environment = {**os.environ, **devices_environment(lease.devices)}
    os.execvpe(sys.argv[2], sys.argv[2:], environment)  # noqa: S606


if __name__ == "__main__":
    main()
