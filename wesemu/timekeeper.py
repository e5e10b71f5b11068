"""Who steers the emulated clock, and remembers its course in the data directory.

After a restart emulated time goes on from where it was. While no server runs it passes as the
wall clock's does; after a server that was killed, at the speed that it had.
"""

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from wesemu.clock import Clock, Course, EmulatedClock
from wesemu.runs.workspace import write_json

log = structlog.get_logger("wesemu.clock")


class TimeKeeper:
    """Owns `clock`. Open it with `open`, close it with `close` (idempotent)."""

    def __init__(self, path: Path, wall: Clock, course: Course) -> None:
        self.clock = EmulatedClock(wall, course)
        self._path = path
        self._wall = wall
        self._steering = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, wall: Clock, speed: float) -> "TimeKeeper":
        """Take up the course that `path` remembers, at `speed` from now on. Raises OSError."""
        now = wall.now()
        past = await asyncio.to_thread(_load, path) or Course(now, now)
        keeper = cls(path, wall, past)
        await keeper.steer(speed=speed)
        return keeper

    async def steer(self, *, speed: float | None = None, step: timedelta = timedelta()) -> Course:
        """Change the speed, and be `step` ahead; returns once that is on disk and in force.

        Raises InvalidRequest as `Course.turned`.
        """
        async with self._steering:
            course = self.clock.course.turned(self._wall.now(), speed=speed, step=step)
            await asyncio.to_thread(_save, self._path, course)
            self.clock.follow(course)
            return course

    async def close(self) -> None:
        """Remember where emulated time stands; the clock itself runs on."""
        if not self._closed:
            self._closed = True
            course = self.clock.course.turned(self._wall.now())
            await asyncio.to_thread(_save, self._path, replace(course, speed=1.0))


def _load(path: Path) -> Course | None:
    """None where nothing usable is remembered: emulated time is then the wall clock's."""
    try:
        told = json.loads(path.read_text())
        return Course(
            wall=datetime.fromisoformat(told["wall"]),
            emulated=datetime.fromisoformat(told["emulated"]),
            speed=float(told["speed"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("emulated time begins anew", file=path.name, error=str(error))
        return None


def _save(path: Path, course: Course) -> None:
    write_json(
        path,
        {
            "wall": course.wall.isoformat(timespec="microseconds"),
            "emulated": course.emulated.isoformat(timespec="microseconds"),
            "speed": course.speed,
        },
    )
