"""The clocks that are passed in, so that tests never sleep and emulated time never leaks."""

import asyncio
import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import structlog

from wesemu.errors import InvalidRequest
from wesemu.runs.run_directory import write_json

FASTEST = 86_400.0
"""The highest speed: a day a second."""

END_OF_TIME = datetime(9000, 1, 1, tzinfo=UTC)
"""Where emulated time stands still: beyond it, dates cannot be written down any more."""

_MICROSECOND = timedelta(microseconds=1)
_GLANCE_SECONDS = 60.0
"""How long the wall clock is left alone while somebody waits for it: it may be set, or sleep."""


class Clock(Protocol):
    """Tells the time. All times in wesemu are aware and in UTC."""

    def now(self) -> datetime: ...

    async def wait_until(self, moment: datetime) -> None:
        """Return once `now()` is `moment` or later; at once where it is already."""
        ...


class WallClock:
    """This machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait_until(self, moment: datetime) -> None:
        while True:
            left = (moment - self.now()).total_seconds()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _GLANCE_SECONDS))


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    async def wait_until(self, moment: datetime) -> None:
        while self._now < moment:
            await self._moved.wait()

    def advance(self, step: timedelta) -> None:
        self._now += step
        self._moved.set()
        self._moved = asyncio.Event()


@dataclass(frozen=True, slots=True)
class ClockRate:
    """How emulated time runs: it was `emulated` when the wall clock showed `wall`, and `speed`
    emulated seconds have passed for each second since. A speed of 0 is a clock that stands."""

    wall: datetime
    emulated: datetime
    speed: float = 1.0

    def at(self, wall: datetime) -> datetime:
        """Emulated time when the wall clock shows `wall`; never after `END_OF_TIME`."""
        since = max(wall - self.wall, timedelta())  # the wall clock may have been set back
        passed = math.floor(Fraction(self.speed) * (since // _MICROSECOND))
        return _later(self.emulated, passed)

    def reaches(self, moment: datetime) -> datetime | None:
        """The first wall time whose emulated time is `moment` or later; None for never."""
        if not self.speed or moment > END_OF_TIME:
            return None
        left = Fraction((moment - self.emulated) // _MICROSECOND)
        return _later(self.wall, math.ceil(left / Fraction(self.speed)))

    def changed(
        self, wall: datetime, *, speed: float | None = None, step: timedelta = timedelta()
    ) -> "ClockRate":
        """The rate from `wall` on, `step` ahead of where this one is then.

        Raises InvalidRequest for a speed below 0 or above `FASTEST`, for a step back and for
        one that leads beyond `END_OF_TIME`.
        """
        if speed is not None and not 0 <= speed <= FASTEST:
            raise InvalidRequest(
                f"{speed} is no speed; write emulated seconds a second, from 0 (time stands "
                f"still) to {FASTEST:.0f}",
                field="speed",
            )
        if step < timedelta():
            raise InvalidRequest("emulated time never goes back; advance by more than 0")
        now = self.at(wall)
        if step > END_OF_TIME - now:
            raise InvalidRequest(f"emulated time ends at {END_OF_TIME:%Y-%m-%d}; advance by less")
        return replace(
            self, wall=wall, emulated=now + step, speed=self.speed if speed is None else speed
        )


class EmulatedClock:
    """A clock on a `Course`; whoever waits for it is woken when the rate changes.

    It never goes back, also where the wall clock does: it stands still until that has caught up.
    """

    def __init__(self, wall: Clock, rate: ClockRate) -> None:
        self._wall = wall
        self._rate = rate
        self._turned = asyncio.Event()
        self._latest = rate.emulated

    @property
    def rate(self) -> ClockRate:
        return self._rate

    def now(self) -> datetime:
        self._latest = max(self._latest, self._rate.at(self._wall.now()))
        return self._latest

    async def wait_until(self, moment: datetime) -> None:
        while self.now() < moment:
            turned, due = self._turned, self._rate.reaches(moment)
            if due is None:
                await turned.wait()
            else:
                await _first(turned, self._wall, due)

    def not_before(self, moment: datetime) -> None:
        """Tell no time earlier than `moment`, which was told in an earlier life."""
        self._latest = max(self._latest, min(moment, END_OF_TIME))

    def follow(self, rate: ClockRate) -> None:
        """Go on by another rate, from now on."""
        self._rate = rate
        self._turned.set()
        self._turned = asyncio.Event()


async def _first(event: asyncio.Event, clock: Clock, due: datetime) -> None:
    """Wait for `event`, but no longer than until `clock` shows `due`."""
    tasks = {
        asyncio.create_task(event.wait(), name="a new rate"),
        asyncio.create_task(clock.wait_until(due), name=f"{due:%H:%M:%S}"),
    }
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _later(moment: datetime, microseconds: int) -> datetime:
    try:
        return min(moment + timedelta(microseconds=microseconds), END_OF_TIME)
    except OverflowError:
        return END_OF_TIME


# Who steers the emulated clock, and remembers its rate in the data directory.


log = structlog.get_logger("wesemu.runs.clock")


class PersistentClock:
    """Owns `clock`. Open it with `open`, close it with `close` (idempotent)."""

    def __init__(self, path: Path, wall: Clock, rate: ClockRate) -> None:
        self.clock = EmulatedClock(wall, rate)
        self._path = path
        self._wall = wall
        self._steering = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, wall: Clock, speed: float) -> "PersistentClock":
        """Take up the rate that `path` remembers, at `speed` from now on. Raises OSError."""
        now = wall.now()
        past = await asyncio.to_thread(_load, path) or ClockRate(now, now)
        keeper = cls(path, wall, past)
        await keeper.adjust(speed=speed)
        return keeper

    async def adjust(
        self, *, speed: float | None = None, step: timedelta = timedelta()
    ) -> ClockRate:
        """Change the speed, and be `step` ahead; returns once that is on disk and in force.

        Raises InvalidRequest as `Course.turned`.
        """
        async with self._steering:
            rate = self.clock.rate.changed(self._wall.now(), speed=speed, step=step)
            await asyncio.to_thread(_save, self._path, rate)
            self.clock.follow(rate)
            return rate

    async def close(self) -> None:
        """Remember where emulated time stands; the clock itself runs on."""
        if not self._closed:
            self._closed = True
            rate = self.clock.rate.changed(self._wall.now())
            await asyncio.to_thread(_save, self._path, replace(rate, speed=1.0))


def _load(path: Path) -> ClockRate | None:
    """None where nothing usable is remembered: emulated time is then the wall clock's."""
    try:
        told = json.loads(path.read_text())
        return ClockRate(
            wall=datetime.fromisoformat(told["wall"]),
            emulated=datetime.fromisoformat(told["emulated"]),
            speed=float(told["speed"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("emulated time begins anew", file=path.name, error=str(error))
        return None


def _save(path: Path, rate: ClockRate) -> None:
    write_json(
        path,
        {
            "wall": rate.wall.isoformat(timespec="microseconds"),
            "emulated": rate.emulated.isoformat(timespec="microseconds"),
            "speed": rate.speed,
        },
    )
