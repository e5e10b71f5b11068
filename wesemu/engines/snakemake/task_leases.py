"""The leases of a run's jobs, in its worker: one each, or one for jobs that run together."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from wesemu.engines.leases import Lease, LeaseDesk
from wesemu.runs.model import Resources


@dataclass(slots=True)
class _Share:
    """A lease and how many (members, and their group) still need it."""

    lease: Lease
    users: int = 1


class TaskLeases:
    """Thread-safe. Without a desk nobody waits and there are no leases."""

    def __init__(self, desk: LeaseDesk | None) -> None:
        self._desk = desk
        self._lock = threading.Lock()
        self._groups = dict[int, _Share]()
        self._entered = dict[int, _Share]()

    def enter(self, jobid: int, wanted: Resources | None) -> Lease | None:
        """Blocks until the job may start; at once with a lease of its group, and for a job that
        wants none. Raises LeasesClosed, OSError."""
        with self._lock:
            share = self._groups.get(jobid)
            if share is not None:
                share.users += 1
        if share is None:
            share = self._take(wanted)
        if share is None:
            return None
        with self._lock:
            self._entered[jobid] = share
        return share.lease

    def leave(self, jobid: int) -> None:
        """The job needs its lease no more; harmless for one that has none."""
        with self._lock:
            share = self._entered.pop(jobid, None)
        self._drop(share)

    def enter_group(self, jobids: Iterable[int], wanted: Resources | None) -> None:
        """Blocks until jobs that run together may start: one lease, or they could wait for each
        other for ever. Raises as `enter` does."""
        share = self._take(wanted)
        if share is not None:
            with self._lock:
                self._groups |= dict.fromkeys(jobids, share)

    def leave_group(self, jobids: Iterable[int]) -> None:
        """The lease goes when the last member, who may be about to be killed, has left too."""
        with self._lock:
            shares = [self._groups.pop(jobid, None) for jobid in jobids]
        self._drop(shares[0] if shares else None)

    def close(self) -> None:
        """Whoever waits gets LeasesClosed."""
        if self._desk is not None:
            self._desk.close()

    def _take(self, wanted: Resources | None) -> _Share | None:
        if self._desk is None or wanted is None or not any(_figures(wanted)):
            return None
        return _Share(self._desk.take(wanted))

    def _drop(self, share: _Share | None) -> None:
        if share is None:
            return
        with self._lock:
            share.users -= 1
            if share.users:
                return
        share.lease.release()


def _figures(wanted: Resources) -> tuple[int, int, int]:
    return (wanted.cores, wanted.memory_mb, wanted.gpus)
