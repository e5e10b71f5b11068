"""The endpoints of the emulated clock."""

from datetime import datetime, timedelta

import pytest
from api.admin.conftest import Control
from support.scripted import START

from wesemu.runs.clock import ManualClock


async def test_time_runs_at_the_speed_that_was_set(control: Control, clock: ManualClock) -> None:
    told = await control("clock")
    assert (told["speed"], told["pace"]) == (1, "real")
    assert datetime.fromisoformat(told["now"]) == datetime.fromisoformat(told["wall"]) == START
    for method, speed in (("PUT", 600), ("PATCH", 60)):
        assert (await control("clock", {"speed": speed}, method=method))["speed"] == speed
    clock.advance(timedelta(seconds=2))
    told = await control("clock")
    assert datetime.fromisoformat(told["now"]) == START + timedelta(minutes=2)
    assert datetime.fromisoformat(told["wall"]) == START + timedelta(seconds=2)


async def test_time_leaps(control: Control) -> None:
    told = await control("clock/advance", {"days": 1, "hours": 2, "minutes": 3, "seconds": 4.5})
    leap = timedelta(days=1, hours=2, minutes=3, seconds=4.5)
    assert datetime.fromisoformat(told["now"]) == START + leap
    assert datetime.fromisoformat(told["wall"]) == START


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"seconds": 0},
        {"minutes": -1},
        {"weeks": 1},
        {"days": 1e6, "hours": 1e8},
        {"days": "x"},
        [],
    ],
)
async def test_time_never_goes_back_nor_beyond_its_end(control: Control, body: object) -> None:
    await control("clock/advance", body, status=400)
    assert datetime.fromisoformat((await control("clock"))["now"]) == START


@pytest.mark.parametrize("speed", [-1, 1e9, None, "1x"])
async def test_a_speed_is_a_number_from_nought_on(control: Control, speed: object) -> None:
    told = await control("clock", {"speed": speed}, method="PUT", status=400)
    assert told["field"] == "speed"
    assert (await control("clock"))["speed"] == 1
