"""Clocks: wall clock, manual clock (tests), the emulated clock with its speed; a time format.

Components receive a clock, so tests never sleep. `PersistentClock` stores the emulated time in the
data directory.
"""

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
from wesemu.util.text import os_reason

FASTEST = 86_400.0
"""The highest speed: one day per second."""

END_OF_TIME = datetime(9000, 1, 1, tzinfo=UTC)
"""Emulated time stops here, before dates overflow."""

_MICROSECOND = timedelta(microseconds=1)
_CHECK_SECONDS = 60.0
"""A wait reads the wall clock at least this often: the clock may be set, or the machine sleep."""


def rfc3339(timestamp: datetime) -> str:
    """Format as AGS and WES do, in UTC and whole seconds: "2020-01-15T13:18:52Z"."""
    return timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Clock(Protocol):
    """A clock. All times in wesemu are timezone-aware and in UTC."""

    def now(self) -> datetime: ...

    async def wait_until(self, timestamp: datetime) -> None:
        """Return when `now()` is `timestamp` or later."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, also if the clock is set back meanwhile."""
        ...


class WallClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait_until(self, timestamp: datetime) -> None:
        while True:
            left = (timestamp - self.now()).total_seconds()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _CHECK_SECONDS))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only by `advance`."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    async def wait_until(self, timestamp: datetime) -> None:
        while self._now < timestamp:
            await self._moved.wait()

    async def sleep(self, seconds: float) -> None:
        await self.wait_until(self._now + timedelta(seconds=seconds))

    def advance(self, step: timedelta) -> None:
        self._now += step
        self._moved.set()
        self._moved = asyncio.Event()


@dataclass(frozen=True, slots=True)
class ClockRate:
    """The relation of emulated time to wall time.

    At wall time `wall` it was `emulated`; since then, `speed` emulated seconds pass per second.
    A speed of 0 stops the clock.
    """

    wall: datetime
    emulated: datetime
    speed: float = 1.0

    def at(self, wall: datetime) -> datetime:
        """Return the emulated time for the wall-clock time `wall`, at most `END_OF_TIME`."""
        since = max(wall - self.wall, timedelta())  # the wall clock may have been set back
        # Fractions: floats would make `reaches` and `at` disagree by a microsecond.
        passed = math.floor(Fraction(self.speed) * (since // _MICROSECOND))
        return _later(self.emulated, passed)

    def reaches(self, timestamp: datetime) -> datetime | None:
        """Return the first wall time with an emulated time of `timestamp` or later; None: never."""
        if not self.speed or timestamp > END_OF_TIME:
            return None
        left = Fraction((timestamp - self.emulated) // _MICROSECOND)
        return _later(self.wall, math.ceil(left / Fraction(self.speed)))

    def changed(
        self, wall: datetime, *, speed: float | None = None, step: timedelta = timedelta()
    ) -> "ClockRate":
        """Return the rate from `wall` on, with another `speed` and `step` ahead.

        Raises InvalidRequest for a speed below 0 or above `FASTEST`, for a negative step, and for
        a step beyond `END_OF_TIME`.
        """
        if speed is not None and not 0 <= speed <= FASTEST:
            raise InvalidRequest(
                f"{speed} is not a valid speed; write emulated seconds per second, from 0 "
                f"(time stands still) to {FASTEST:.0f}",
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
    """A clock that runs at a `ClockRate`. A change of the rate wakes everyone who waits.

    It never goes back: if the wall clock is set back, it goes on from the latest time.
    """

    def __init__(self, wall: Clock, rate: ClockRate) -> None:
        self._wall = wall
        self._rate = rate
        self._rate_changed = asyncio.Event()
        self._latest = rate.emulated
        self._latest_wall = rate.wall

    @property
    def rate(self) -> ClockRate:
        return self._rate

    def now(self) -> datetime:
        wall = self._wall.now()
        if wall < self._latest_wall:
            self.follow(replace(self._rate, wall=wall, emulated=self._latest))
        self._latest_wall = wall
        self._latest = max(self._latest, self._rate.at(wall))
        return self._latest

    async def wait_until(self, timestamp: datetime) -> None:
        while self.now() < timestamp:
            changed, due = self._rate_changed, self._rate.reaches(timestamp)
            if due is None:
                await changed.wait()
            else:
                await _first(changed, self._wall, due)

    async def sleep(self, seconds: float) -> None:
        await self.wait_until(self.now() + timedelta(seconds=seconds))

    def not_before(self, timestamp: datetime) -> None:
        """Go on from `timestamp`, the latest time that a run has stored, if it is not over."""
        if timestamp > self.now():
            self._latest = min(timestamp, END_OF_TIME)
            self.follow(replace(self._rate, wall=self._latest_wall, emulated=self._latest))

    def restart(self, rate: ClockRate) -> None:
        """Run at another rate, which may be at an earlier time: all runs must be removed before."""
        self._latest = rate.emulated
        self.follow(rate)

    def changed(self, *, speed: float | None = None, step: timedelta = timedelta()) -> ClockRate:
        """Return another rate from now on, as `ClockRate.changed`."""
        self.now()  # goes on if the wall clock was set back
        return self._rate.changed(self._latest_wall, speed=speed, step=step)

    def follow(self, rate: ClockRate) -> None:
        """Run at another rate from now on."""
        self._rate = rate
        self._rate_changed.set()
        self._rate_changed = asyncio.Event()


async def _first(event: asyncio.Event, clock: Clock, due: datetime) -> None:
    """Wait for `event`, at most until `clock` shows `due`, and at most a minute."""
    tasks = {
        asyncio.create_task(event.wait(), name="clock rate changed"),
        asyncio.create_task(clock.wait_until(due), name=f"{due:%H:%M:%S}"),
    }
    try:
        await asyncio.wait(tasks, timeout=_CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _later(timestamp: datetime, microseconds: int) -> datetime:
    try:
        return min(timestamp + timedelta(microseconds=microseconds), END_OF_TIME)
    except OverflowError:
        return END_OF_TIME


log = structlog.get_logger("wesemu.runs.clock")


class PersistentClock:
    """The emulated `clock`, stored in a file. Open with `open`, close with `close` (idempotent)."""

    def __init__(self, path: Path, wall: Clock, rate: ClockRate) -> None:
        self.clock = EmulatedClock(wall, rate)
        self._path = path
        self._wall = wall
        self._adjusting = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, wall: Clock, speed: float, *, start: datetime | None = None
    ) -> "PersistentClock":
        """Continue from the time in `path` at `speed`, or else begin at `start`. Raises OSError.

        Without a `start`, emulated time begins at wall time.
        """
        now = wall.now()
        stored = await asyncio.to_thread(_load, path) or ClockRate(now, start or now)
        clock = cls(path, wall, stored)
        await clock.adjust(speed=speed)
        return clock

    async def adjust(
        self, *, speed: float | None = None, step: timedelta = timedelta()
    ) -> ClockRate:
        """Change the speed and advance by `step`; return when the file is written.

        Raises InvalidRequest as `ClockRate.changed`.
        """
        async with self._adjusting:
            rate = self.clock.changed(speed=speed, step=step)
            await asyncio.to_thread(_save, self._path, rate)
            self.clock.follow(rate)
            return rate

    async def restart(self, emulated: datetime, speed: float) -> None:
        """Continue from `emulated`, as `EmulatedClock.restart`. Raises InvalidRequest."""
        async with self._adjusting:
            now = self._wall.now()
            rate = ClockRate(now, min(emulated, END_OF_TIME)).changed(now, speed=speed)
            await asyncio.to_thread(_save, self._path, rate)
            self.clock.restart(rate)

    async def close(self) -> None:
        """Store the emulated time, with speed 1 while the server is down.

        A disk that is full or read-only does not stop the shutdown: the file keeps the earlier time
        and speed.
        """
        if not self._closed:
            self._closed = True
            rate = replace(self.clock.changed(), speed=1.0)
            try:
                await asyncio.to_thread(_save, self._path, rate)
            except OSError as error:
                log.warning("storing the emulated time failed", error=os_reason(error))


def _load(path: Path) -> ClockRate | None:
    """Return None if the file is missing or invalid: emulated time then starts at wall time."""
    try:
        content = json.loads(path.read_text())
        return ClockRate(
            wall=datetime.fromisoformat(content["wall"]),
            emulated=datetime.fromisoformat(content["emulated"]),
            speed=float(content["speed"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("reading the emulated time failed", file=path.name, error=str(error))
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
