"""The whole demonstration, from an empty directory to a verdict."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from wesemu.client import connect
from wesemu.demo.orders import BUCKET, REFERENCE, Show, carry_out
from wesemu.demo.server import running
from wesemu.demo.verdict import Check, examine
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.simulate import Fixture, FixtureSettings, write_fixture


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was shown: `server` was its address, `seconds` all of it took."""

    fixture: Fixture
    checks: tuple[Check, ...]
    server: str
    seconds: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


async def perform(data: Path, show: Show) -> Outcome:
    """Show everything in the data directory `data`. Raises SystemFault, ClientError."""
    began = time.monotonic()
    setting = asyncio.create_task(asyncio.to_thread(_set, data), name="demo fixture")
    try:
        async with running(data) as server, connect(server) as client:
            fixture = await setting
            done = await carry_out(client, show)
    finally:
        setting.cancel()
    checks = await asyncio.to_thread(lambda: tuple(examine(data, fixture, done)))
    return Outcome(fixture, checks, server, time.monotonic() - began)


def _set(data: Path) -> Fixture:
    """Reads in a bucket, their reference registered."""
    fixture = write_fixture(data / "buckets" / BUCKET, FixtureSettings())
    ReferenceStore(data / "references", data / "cache").add(REFERENCE, fixture.reference)
    return fixture
