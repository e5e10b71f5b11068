"""The emulated clock: its rate, and that it never goes back. These tests never sleep."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import soon

from wesemu.errors import InvalidRequest
from wesemu.runs.clock import (
    END_OF_TIME,
    FASTEST,
    ClockRate,
    EmulatedClock,
    ManualClock,
    PersistentClock,
    WallClock,
)

START = datetime(2020, 1, 15, 8, 30, 25, tzinfo=UTC)
steps = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=30))
speeds = st.floats(min_value=0, max_value=FASTEST, allow_subnormal=False)


def emulated(speed: float) -> tuple[ManualClock, EmulatedClock]:
    wall = ManualClock(START)
    return wall, EmulatedClock(wall, ClockRate(START, START, speed))


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_ten_minutes_a_second() -> None:
    wall, clock = emulated(600)
    wall.advance(timedelta(seconds=8))
    assert clock.now() == START + timedelta(minutes=80)


@given(turns=st.lists(st.tuples(steps, st.none() | st.floats(0, 1000), steps), max_size=10))
def test_emulated_time_never_goes_back(
    turns: list[tuple[timedelta, float | None, timedelta]],
) -> None:
    wall, clock = emulated(1)
    told = clock.now()
    for passed, speed, step in turns:
        wall.advance(passed)
        assert told <= clock.now()
        before = clock.now()
        clock.follow(clock.rate.changed(wall.now(), speed=speed, step=step))
        assert clock.now() == before + step
        told = clock.now()


@given(speed=speeds, wait=steps)
def test_a_moment_is_reached_when_the_course_says_and_not_before(
    speed: float, wait: timedelta
) -> None:
    course, moment = ClockRate(START, START, speed), START + wait
    due = course.reaches(moment)
    if due is None or due == END_OF_TIME:
        assert speed < 1
        return
    assert course.at(due) >= moment
    assert due == START or course.at(due - timedelta(microseconds=1)) < moment


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(-7200, 7200)),
            st.tuples(st.just("speed"), st.sampled_from([0, 1, 600])),
            st.tuples(st.just("leap"), st.integers(0, 7200)),
        ),
        max_size=12,
    )
)
def test_emulated_time_never_goes_back_whatever_the_wall_clock_does(
    steps: list[tuple[str, int]],
) -> None:
    wall = ManualClock(START)
    clock = EmulatedClock(wall, ClockRate(START, START))
    latest = clock.now()
    for what, amount in steps:
        if what == "pass":
            wall.advance(timedelta(seconds=amount))
        elif what == "speed":
            clock.follow(clock.rate.changed(wall.now(), speed=amount))
        else:
            clock.follow(clock.rate.changed(wall.now(), step=timedelta(seconds=amount)))
        assert clock.now() >= latest
        latest = clock.now()


def test_emulated_time_goes_on_when_the_wall_clock_is_set_back() -> None:
    wall, clock = emulated(600)
    wall.advance(timedelta(seconds=6))
    assert clock.now() == START + timedelta(hours=1)
    wall.advance(timedelta(days=-1))
    assert clock.now() == START + timedelta(hours=1)
    wall.advance(timedelta(seconds=6))
    assert clock.now() == START + timedelta(hours=2)
    wall.advance(timedelta(days=-1))
    clock.follow(clock.changed(step=timedelta(hours=1)))
    assert clock.now() == START + timedelta(hours=3)


async def test_who_waits_is_woken_after_the_wall_clock_was_set_back() -> None:
    wall, clock = emulated(600)
    waiting = asyncio.create_task(clock.wait_until(START + timedelta(hours=1)))
    await settled()
    wall.advance(timedelta(days=-1))
    clock.now()
    await settled()
    wall.advance(timedelta(seconds=6))
    async with soon():
        await waiting


def test_no_time_is_before_one_of_an_earlier_server() -> None:
    wall, clock = emulated(1)
    clock.not_before(START + timedelta(hours=1))
    assert clock.now() == START + timedelta(hours=1)
    wall.advance(timedelta(minutes=1))
    assert clock.now() == START + timedelta(hours=1, minutes=1)
    clock.follow(clock.changed(step=timedelta(minutes=1)))
    assert clock.now() == START + timedelta(hours=1, minutes=2)


def test_emulated_time_ends_before_dates_do() -> None:
    course = ClockRate(START, START, FASTEST)
    assert course.at(START + timedelta(days=365_000)) == END_OF_TIME
    with pytest.raises(InvalidRequest, match="ends at 9000"):
        course.changed(START, step=timedelta(days=365 * 7500))


@pytest.mark.parametrize("speed", [-1.0, 1e9, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ClockRate(START, START).changed(START, speed=speed)
    assert caught.value.field == "speed"


def test_nobody_can_turn_time_back() -> None:
    with pytest.raises(InvalidRequest, match="never goes back"):
        ClockRate(START, START).changed(START, step=timedelta(seconds=-1))


async def test_who_waits_is_woken_when_the_wall_clock_gets_there() -> None:
    wall, clock = emulated(600)
    waiting = asyncio.create_task(clock.wait_until(START + timedelta(minutes=80)))
    await settled()
    wall.advance(timedelta(seconds=8) - timedelta(microseconds=1))
    await settled()
    assert not waiting.done()
    wall.advance(timedelta(microseconds=1))
    async with soon():
        await waiting


async def test_who_waits_is_woken_at_once_by_an_advance() -> None:
    wall, clock = emulated(1)
    waiting = asyncio.create_task(clock.wait_until(START + timedelta(hours=1)))
    await settled()
    clock.follow(clock.rate.changed(wall.now(), step=timedelta(minutes=59)))
    await settled()
    assert not waiting.done()
    clock.follow(clock.rate.changed(wall.now(), step=timedelta(minutes=1)))
    async with soon():
        await waiting


async def test_a_change_of_speed_changes_how_long_is_waited() -> None:
    wall, clock = emulated(0)
    waiting = asyncio.create_task(clock.wait_until(START + timedelta(hours=1)))
    await settled()
    wall.advance(timedelta(days=1))
    await settled()
    assert not waiting.done()
    clock.follow(clock.rate.changed(wall.now(), speed=3600))
    await settled()
    assert not waiting.done()
    wall.advance(timedelta(seconds=1))
    async with soon():
        await waiting


async def test_a_wait_can_be_given_up() -> None:
    _, clock = emulated(1)
    waiting = asyncio.create_task(clock.wait_until(START + timedelta(hours=1)))
    await settled()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_wall_clock_does_not_wait_for_what_is_over() -> None:
    async with soon():
        await WallClock().wait_until(datetime.now(UTC))


async def test_after_a_restart_emulated_time_goes_on(tmp_path: Path) -> None:
    wall = ManualClock(START)
    first = await PersistentClock.open(tmp_path / "clock.json", wall, 600)
    wall.advance(timedelta(seconds=1))
    await first.adjust(step=timedelta(hours=5))
    told = first.clock.now()
    assert told == START + timedelta(hours=5, minutes=10)
    await first.close()
    wall.advance(timedelta(minutes=1))
    second = await PersistentClock.open(tmp_path / "clock.json", wall, 600)
    assert second.clock.now() == told + timedelta(minutes=1)
    wall.advance(timedelta(seconds=1))
    assert second.clock.now() == told + timedelta(minutes=11)


async def test_after_a_crash_emulated_time_is_not_behind_a_time_that_was_shown(
    tmp_path: Path,
) -> None:
    wall = ManualClock(START)
    first = await PersistentClock.open(tmp_path / "clock.json", wall, 1)
    await first.adjust(speed=600)
    wall.advance(timedelta(minutes=3))
    told = first.clock.now()
    wall.advance(timedelta(seconds=1))
    second = await PersistentClock.open(tmp_path / "clock.json", wall, 1)
    assert second.clock.now() == told + timedelta(minutes=10)
    assert second.clock.rate.speed == 1


@pytest.mark.parametrize("rubbish", ["", "[]", '{"wall": 1, "emulated": 2, "speed": 3}', "\x00"])
async def test_a_broken_file_is_no_reason_not_to_start(tmp_path: Path, rubbish: str) -> None:
    path = tmp_path / "clock.json"
    path.write_text(rubbish)
    keeper = await PersistentClock.open(path, ManualClock(START), 1)
    assert keeper.clock.now() == START
    assert json.loads(path.read_text())["speed"] == 1
