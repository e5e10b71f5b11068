"""The whole demonstration, from an empty directory to a verdict."""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

from wesemu.client import connect
from wesemu.demo.cuda import CudaNode, count_on_gpu, examine_node
from wesemu.demo.orders import BUCKET, REFERENCE, Show, carry_out
from wesemu.demo.server import running
from wesemu.demo.verdict import Check, examine
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.simulate import Fixture, FixtureSettings, write_fixture

_ON_THE_CPU = {"WESEMU_NODE__DEFAULT": "cpu"}
"""So that the demo is the same where there are GPUs."""


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


async def perform(data: Path, show: Show, node: CudaNode | None = None) -> Outcome:
    """Show everything in the data directory `data`, on the CPU or on `node`.

    Raises SystemFault, ClientError.
    """
    began = time.monotonic()
    setting = asyncio.create_task(asyncio.to_thread(_set, data), name="demo fixture")
    try:
        settings = _ON_THE_CPU if node is None else node.settings
        reads = data / "selftest.fq"
        # the self-test is a user's workflow, and its sandbox hides the data directory
        settings = {**settings, "WESEMU_ENGINE__READABLE": json.dumps([str(reads)])}
        async with running(data, settings) as server, connect(server) as client:
            fixture = await setting
            done = await carry_out(client, show, cuda=node is not None)
            counted = None
            if node is not None and node.selftest is not None:
                counted = await count_on_gpu(client, node.selftest, reads, show)
    finally:
        setting.cancel()
    parabricks = node is not None and node.selftest is None
    checks = await asyncio.to_thread(
        lambda: list(examine(data, fixture, done, exact=not parabricks))
    )
    if node is not None:
        checks += examine_node(node, done, counted)
    return Outcome(fixture, tuple(checks), server, time.monotonic() - began)


def _set(data: Path) -> Fixture:
    """Reads in a bucket, their reference registered."""
    fixture = write_fixture(data / "buckets" / BUCKET, FixtureSettings())
    ReferenceStore(data / "references", data / "cache").add(REFERENCE, fixture.reference)
    return fixture
