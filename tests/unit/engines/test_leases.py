"""Leases in a real folder, between threads and processes, some of which are killed."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from support.leases import HOLDER, STRESS, most_at_once
from support.remove_tree import remove_tree

from wesemu.engines import leases
from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import (
    Lease,
    LeaseAbandoned,
    LeaseClient,
    LeasesClosed,
    declare,
    declare_again,
    lease_command,
    list_tickets,
    live_tickets,
)
from wesemu.errors import SystemFault
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority

DEADLINE_SECONDS = 60.0
ALL = Resources(cores=2)
ONE = Resources(cores=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a node with two cores and two GPUs."""
    declare(tmp_path / "leases", Capacity(cores=2, memory_mb=1000, devices=(3, 5)))
    return tmp_path / "leases"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def lease_client(folder: Path, *, rank: int = 2, age: int = 1) -> LeaseClient:
    return LeaseClient(QueuePriority(folder, rank, age))


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not look():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def waiting(folder: Path) -> int:
    return sum(not ticket.held for ticket in list_tickets(folder))


def ask(
    threads: ThreadPoolExecutor, folder: Path, wanted: Resources, **priority: int
) -> Future[Lease]:
    """A request that has to wait, and does."""
    before = waiting(folder)
    asked = threads.submit(lease_client(folder, **priority).take, wanted)
    until(lambda: waiting(folder) == before + 1)
    return asked


def test_a_free_node_is_leased_at_once_and_left_clean(folder: Path) -> None:
    lease = lease_client(folder).take(ALL)
    assert [(ticket.held, ticket.cores) for ticket in list_tickets(folder)] == [(True, 2)]
    lease.release()
    assert sorted(path.name for path in folder.iterdir()) == ["node.json"]


def test_whoever_gives_back_hands_on_in_order(folder: Path, threads: ThreadPoolExecutor) -> None:
    first = lease_client(folder).take(ALL)
    young = ask(threads, folder, ALL, age=2)
    old = ask(threads, folder, ALL, age=1)
    platinum = ask(threads, folder, ALL, rank=0, age=9)
    assert not any(asked.done() for asked in (young, old, platinum))
    first.release()
    for asked in (platinum, old, young):
        lease = asked.result(DEADLINE_SECONDS)
        assert sum(ticket.held for ticket in list_tickets(folder)) == 1
        lease.release()


@pytest.fixture
def only_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the queue now and then, as long as a test waits."""
    monkeypatch.setattr(leases, "_FIRST_SECONDS", 2 * DEADLINE_SECONDS)
    monkeypatch.setattr(leases, "_OTHERS_SECONDS", 2 * DEADLINE_SECONDS)


@pytest.mark.usefixtures("only_notifications")
def test_a_release_notifies_the_next_task(folder: Path, threads: ThreadPoolExecutor) -> None:
    lease = lease_client(folder).take(ALL)
    asked = ask(threads, folder, ALL)
    behind = ask(threads, folder, ALL, age=2)
    lease.release()
    asked.result(DEADLINE_SECONDS).release()
    behind.result(DEADLINE_SECONDS).release()


def test_devices_are_named_and_exclusive(folder: Path, threads: ThreadPoolExecutor) -> None:
    lease = lease_client(folder).take(Resources(cores=1, gpus=1))
    other = lease_client(folder).take(Resources(cores=1, gpus=1))
    assert (lease.devices, other.devices) == ((3,), (5,))
    asked = ask(threads, folder, Resources(cores=0, gpus=1))
    lease.release()
    third = asked.result(DEADLINE_SECONDS)
    assert third.devices == (3,)
    third.release()
    other.release()


def test_whoever_asks_for_more_than_the_node_gets_the_node(folder: Path) -> None:
    lease = lease_client(folder).take(Resources(cores=64, memory_mb=1 << 20, gpus=8))
    [ticket] = list_tickets(folder)
    assert (ticket.cores, ticket.memory_mb, ticket.devices) == (2, 1000, (3, 5))
    lease.release()


@pytest.mark.usefixtures("only_notifications")
def test_closing_ends_the_waiting_at_once(folder: Path, threads: ThreadPoolExecutor) -> None:
    lease = lease_client(folder).take(ONE)
    canceled = lease_client(folder, age=1)
    asked = threads.submit(canceled.take, ALL)
    until(lambda: waiting(folder) == 1)
    behind = ask(threads, folder, ONE, age=2)
    canceled.close()
    with pytest.raises(LeasesClosed):
        asked.result(DEADLINE_SECONDS)
    behind.result(DEADLINE_SECONDS).release()
    with pytest.raises(LeasesClosed):
        canceled.take(ONE)
    lease.release()
    assert not list_tickets(folder)


def hold(folder: Path, *, tool: bool = False) -> "subprocess.Popen[str]":
    """A process that has the whole node, or that waits for it; `tool`: and a child inherited."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), "tool" if tool else ""],
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_lease_dies_with_its_holder(folder: Path, threads: ThreadPoolExecutor) -> None:
    holder = hold(folder)
    assert said(holder) == "holds"
    asked = ask(threads, folder, ALL)
    kill(holder)
    asked.result(DEADLINE_SECONDS).release()
    assert not list_tickets(folder)


def test_a_tool_keeps_the_lease_of_a_holder_that_was_killed(
    folder: Path, threads: ThreadPoolExecutor
) -> None:
    holder = hold(folder, tool=True)
    assert said(holder) == "holds"
    tool = int(said(holder))
    kill(holder)
    asked = ask(threads, folder, ALL)
    with pytest.raises(TimeoutError):
        asked.result(0.3)
    os.kill(tool, signal.SIGKILL)
    asked.result(DEADLINE_SECONDS).release()


def test_who_dies_waiting_stands_in_nobodys_way(folder: Path, threads: ThreadPoolExecutor) -> None:
    lease = lease_client(folder).take(ALL)
    dead = hold(folder)
    until(lambda: waiting(folder) == 1)
    behind = ask(threads, folder, ALL, age=9)
    kill(dead)
    lease.release()
    behind.result(DEADLINE_SECONDS).release()
    assert not list_tickets(folder)


def test_a_node_that_grows_lets_more_in(folder: Path, threads: ThreadPoolExecutor) -> None:
    lease = lease_client(folder).take(ALL)
    asked = ask(threads, folder, ONE)
    declare(folder, Capacity(cores=3))
    asked.result(DEADLINE_SECONDS).release()
    lease.release()


def test_a_new_server_sweeps_what_the_dead_left(folder: Path) -> None:
    holder = hold(folder)
    assert said(holder) == "holds"
    kill(holder)
    assert len(list_tickets(folder)) == 1
    declare(folder, Capacity(cores=2))
    assert not list_tickets(folder)


@pytest.fixture
def locked(folder: Path) -> Iterator[None]:
    """A workflow that keeps the folder locked."""
    with (folder / "node.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("locked")
def test_a_workflow_that_keeps_the_folder_locked_does_not_stop_the_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_LIST_SECONDS", 0.05)
    monkeypatch.setattr(leases, "_DECLARE_SECONDS", 0.05)
    assert live_tickets(folder) == []
    declare(folder, Capacity(cores=3))
    lease_client(folder).take(Resources(cores=3)).release()


def test_a_node_file_larger_than_the_memory_is_not_read_whole(folder: Path) -> None:
    os.truncate(folder / "node.json", 1 << 33)
    with pytest.raises(SystemFault, match="lacks the capacity"):
        live_tickets(folder)


def test_a_node_file_that_is_nested_too_deeply_lacks_the_capacity(folder: Path) -> None:
    (folder / "node.json").write_text("[" * 100_000)
    with pytest.raises(SystemFault, match="lacks the capacity"):
        live_tickets(folder)


def test_without_fifos_too(
    folder: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError("this file system has no FIFOs")

    monkeypatch.setattr(os, "mkfifo", refuse)
    lease = lease_client(folder).take(ALL)
    asked = ask(threads, folder, ALL)
    lease.release()
    asked.result(DEADLINE_SECONDS).release()
    closing = lease_client(folder)
    lease = lease_client(folder).take(ALL)
    refused = threads.submit(closing.take, ALL)
    until(lambda: waiting(folder) == 1)
    closing.close()
    with pytest.raises(LeasesClosed):
        refused.result(DEADLINE_SECONDS)
    lease.release()
    assert not list_tickets(folder)


def written(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_processes_and_threads_together_never_take_more_than_there_is(
    folder: Path, tmp_path: Path
) -> None:
    declare(folder, Capacity(cores=3))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STRESS, str(folder), str(tmp_path / f"spans{seed}"), str(seed)]
        )
        for seed in range(3)
    ]
    until(lambda: len(written(tmp_path / "spans0")) > 20)
    processes[0].kill()
    processes[0].wait()
    assert [process.wait(60) for process in processes[1:]] == [0, 0]
    spans = [line for path in tmp_path.glob("spans*") for line in written(path)]
    assert most_at_once("\n".join(spans)) == 3
    lease = lease_client(folder).take(Resources(cores=3))
    lease.release()
    assert not list_tickets(folder)


SHOW = "import os; print('runs', repr(os.environ['CUDA_VISIBLE_DEVICES']), flush=True); input()"


def test_a_whole_command_under_one_lease(folder: Path, threads: ThreadPoolExecutor) -> None:
    command = [sys.executable, "-c", SHOW]
    wanted = Resources(cores=2, gpus=2)
    process = subprocess.Popen(
        lease_command(sys.executable, command, QueuePriority(folder, 2, 1), wanted),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert said(process) == "runs '3,5'"
    asked = ask(threads, folder, ONE, age=2)
    process.communicate("\n", timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    asked.result(DEADLINE_SECONDS).release()


def test_a_command_that_waits_is_ended_at_once(folder: Path) -> None:
    lease = lease_client(folder).take(ALL)
    process = subprocess.Popen(
        lease_command(
            sys.executable, [sys.executable, "-c", SHOW], QueuePriority(folder, 2, 1), ALL
        )
    )
    until(lambda: waiting(folder) == 1)
    process.terminate()
    assert process.wait(DEADLINE_SECONDS) == -signal.SIGTERM
    lease.release()


def test_task_that_is_not_needed_any_more_leaves_the_queue(
    folder: Path, threads: ThreadPoolExecutor
) -> None:
    held = lease_client(folder).take(ALL)
    needed = Event()
    needed.set()
    asked = threads.submit(lease_client(folder).take, ONE, needed.is_set)
    until(lambda: waiting(folder) == 1)
    needed.clear()
    with pytest.raises(LeaseAbandoned):
        asked.result(DEADLINE_SECONDS)
    assert waiting(folder) == 0
    held.release()


def empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)


def empty_node(folder: Path) -> None:
    (folder / "node.json").write_text("")


def remove_node(folder: Path) -> None:
    (folder / "node.json").unlink()


def garble_node(folder: Path) -> None:
    (folder / "node.json").write_text("[1, 2")


@pytest.mark.parametrize(
    "damage", [remove_tree, empty_folder, empty_node, remove_node, garble_node]
)
def test_a_folder_that_somebody_damages_is_made_again(
    folder: Path, threads: ThreadPoolExecutor, damage: Callable[[Path], None]
) -> None:
    first, second = lease_client(folder), lease_client(folder, age=2)
    whole = ALL
    held = first.take(whole)
    waits = threads.submit(second.take, whole)
    until(lambda: waiting(folder) == 1)
    damage(folder)
    held.release()
    got = waits.result(timeout=60)
    behind = threads.submit(first.take, whole)
    until(lambda: waiting(folder) == 1)
    assert not behind.done()
    got.release()
    behind.result(timeout=60).release()
    assert [path.name for path in folder.iterdir()] == ["node.json"]


def test_the_server_declares_its_node_again(folder: Path) -> None:
    capacity = Capacity(2, 1000)
    for damage in (remove_tree, empty_folder, empty_node):
        damage(folder)
        declare_again(folder, capacity)
        lease_client(folder).take(ALL).release()
