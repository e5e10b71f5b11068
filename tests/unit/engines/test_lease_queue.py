"""The grant algorithm: within the capacity, in order, without starving wide tasks."""

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesemu.engines.lease_queue import Capacity, Ticket, grants, parse

NODE = Capacity(cores=4, memory_mb=8000, devices=(0, 2))


def ticket(
    number: int,
    cores: int = 1,
    *,
    memory_mb: int = 0,
    gpus: int = 0,
    rank: int = 2,
    age: int = 0,
    devices: tuple[int, ...] | None = None,
) -> Ticket:
    """One of silver's, waiting; held with `devices`."""
    held = devices is not None
    return Ticket(rank, age, number, cores, memory_mb, gpus, held, devices or ())


def numbers(tickets: list[Ticket]) -> list[int]:
    return [each.number for each in tickets]


def test_first_come_first_served() -> None:
    waiting = [ticket(3, 2), ticket(1, 2), ticket(2, 2)]
    assert numbers(grants(waiting, NODE)) == [1, 2]


def test_older_runs_and_then_higher_levels_go_first() -> None:
    waiting = [ticket(1, 4, age=9), ticket(2, 4, age=8), ticket(3, 4, age=10, rank=0)]
    assert numbers(grants(waiting, NODE)) == [3]
    assert numbers(grants(waiting[:2], NODE)) == [2]


def test_nobody_passes_a_task_that_wants_the_whole_node() -> None:
    held = ticket(1, 1, devices=())
    assert grants([held, ticket(2, 4), ticket(3, 1)], NODE) == []


def test_a_narrow_task_passes_into_room_that_the_waiting_one_never_needs() -> None:
    held = ticket(1, 2, devices=())
    assert numbers(grants([held, ticket(2, 3), ticket(3, 1), ticket(4, 1)], NODE)) == [3]
    passed = ticket(3, 1, devices=())
    assert grants([held, passed, ticket(2, 3), ticket(4, 1)], NODE) == []


def test_memory_counts_as_cores_do() -> None:
    held = ticket(1, memory_mb=6000, devices=())
    assert grants([held, ticket(2, memory_mb=3000)], NODE) == []
    assert numbers(grants([held, ticket(2, memory_mb=2000)], NODE)) == [2]
    uncounted = replace(NODE, memory_mb=0)
    assert numbers(grants([held, ticket(2, memory_mb=3000)], uncounted)) == [2]


def test_every_gpu_has_one_task() -> None:
    [first] = grants([ticket(1, gpus=1)], NODE)
    assert first.devices == (0,)
    [second] = grants([first, ticket(2, gpus=1)], NODE)
    assert second.devices == (2,)
    assert grants([first, second, ticket(3, gpus=1)], NODE) == []
    assert numbers(grants([first, second, ticket(4)], NODE)) == [4]


def test_whoever_asks_for_more_than_there_is_gets_all_of_it() -> None:
    [greedy] = grants([ticket(1, 99, memory_mb=99_999, gpus=9)], NODE)
    assert (greedy.cores, greedy.memory_mb, greedy.devices) == (4, 8000, (0, 2))
    assert grants([greedy, ticket(2)], NODE) == []


@pytest.mark.parametrize(
    "known", [ticket(17, 3, memory_mb=5, gpus=2, rank=1, age=4), ticket(1, devices=(0, 2))]
)
def test_a_name_tells_everything(known: Ticket) -> None:
    assert parse(known.name) == known


@pytest.mark.parametrize("name", ["node.json", "waits", "waits.1.2.3.4.5.6", "waits.a.2.3.4.5.6."])
def test_other_names_are_no_tickets(name: str) -> None:
    assert parse(name) is None


ASKS = st.tuples(
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 6),
    st.integers(0, 10_000),
    st.integers(0, 3),
)
STEPS = st.lists(st.one_of(ASKS, st.integers(0, 7)), max_size=40)
"""Somebody asks, or the n-th of those who hold gives back."""


@given(STEPS)
def test_never_more_than_there_is_and_everybody_in_the_end(steps: list[object]) -> None:
    tickets: dict[int, Ticket] = {}
    arrivals = count()
    for step in steps:
        if isinstance(step, int):
            give_back(tickets, step)
        else:
            rank, age, cores, memory_mb, gpus = step  # type: ignore[misc]
            number = next(arrivals)
            tickets[number] = Ticket(rank, age, number, cores, memory_mb, gpus)
        grant(tickets)
    while tickets:
        assert any(each.held for each in tickets.values()), "all wait, for nobody"
        give_back(tickets, 0)
        grant(tickets)


def grant(tickets: dict[int, Ticket]) -> None:
    first = min((t for t in tickets.values() if not t.held), key=lambda t: t.order, default=None)
    granted = grants(tickets.values(), NODE)
    if granted and first is not None and granted[0].number != first.number:
        assert_not_delayed(first, granted, tickets)
    tickets |= {each.number: each for each in granted}
    held = [each for each in tickets.values() if each.held]
    assert sum(each.cores for each in held) <= NODE.cores
    assert sum(each.memory_mb for each in held) <= NODE.memory_mb
    devices = [index for each in held for index in each.devices]
    assert len(devices) == len(set(devices))
    assert set(devices) <= set(NODE.devices)
    assert all(len(each.devices) == each.gpus for each in held)


def assert_not_delayed(first: Ticket, granted: list[Ticket], tickets: dict[int, Ticket]) -> None:
    """Once all that goes before it has ended, the first one that waits still fits."""
    wanted = first.clamped(NODE)
    after = [t for t in tickets.values() if t.held and t.order > first.order] + granted
    assert sum(each.cores for each in after) + wanted.cores <= NODE.cores
    assert sum(each.memory_mb for each in after) + wanted.memory_mb <= NODE.memory_mb


def give_back(tickets: dict[int, Ticket], place: int) -> None:
    held = [each for each in tickets.values() if each.held]
    if held:
        del tickets[held[place % len(held)].number]
