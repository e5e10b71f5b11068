"""Which jobs of a run share a lease, and when it is released."""

from pathlib import Path

import pytest

from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import LeaseClient, LeasesClosed, declare, list_tickets
from wesemu.engines.snakemake.executor import TaskLeases
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    declare(tmp_path / "leases", Capacity(cores=2))
    return tmp_path / "leases"


@pytest.fixture
def leases(folder: Path) -> TaskLeases:
    return TaskLeases(LeaseClient(QueuePriority(folder, 2, 1)))


def cores(folder: Path) -> list[int]:
    return sorted(ticket.cores for ticket in list_tickets(folder))


def test_each_job_has_its_own(leases: TaskLeases, folder: Path) -> None:
    assert leases.enter(1, Resources(cores=1)) is not leases.enter(2, Resources(cores=1))
    assert cores(folder) == [1, 1]
    leases.leave(1)
    assert cores(folder) == [1]
    leases.leave(2)
    leases.leave(2)
    assert cores(folder) == []


@pytest.mark.parametrize("wanted", [None, Resources(cores=0)])
def test_some_want_none(leases: TaskLeases, folder: Path, wanted: Resources | None) -> None:
    assert leases.enter(1, wanted) is None
    assert cores(folder) == []
    leases.leave(1)


def test_without_a_desk_there_are_none() -> None:
    leases = TaskLeases(None)
    assert leases.enter(1, Resources(cores=1)) is None
    leases.leave(1)
    leases.close()


def test_jobs_that_run_together_have_one_until_all_have_left(
    leases: TaskLeases, folder: Path
) -> None:
    leases.enter_group([1, 2], Resources(cores=2))
    assert leases.enter(1, Resources(cores=1)) is leases.enter(2, Resources(cores=1))
    assert cores(folder) == [2]
    leases.leave(1)
    leases.leave_group([1, 2])
    assert cores(folder) == [2]
    leases.leave(2)
    assert cores(folder) == []


def test_a_group_may_run_again(leases: TaskLeases, folder: Path) -> None:
    for _ in range(2):
        leases.enter_group([1], Resources(cores=2))
        leases.enter(1, Resources(cores=1))
        leases.leave(1)
        leases.leave_group([1])
        assert cores(folder) == []


def test_nobody_enters_a_canceled_run(leases: TaskLeases, folder: Path) -> None:
    leases.close()
    with pytest.raises(LeasesClosed):
        leases.enter(1, Resources(cores=1))
    with pytest.raises(LeasesClosed):
        leases.enter_group([1], Resources(cores=1))
    assert leases.enter(2, None) is None
    assert cores(folder) == []
