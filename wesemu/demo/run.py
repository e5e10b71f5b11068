"""The whole demonstration, from an empty directory to a verdict."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wesemu.client import Client, RunDetail, connect
from wesemu.demo.checks import (
    BUCKET,
    REFERENCE,
    Check,
    FinishedRequest,
    Show,
    carry_out,
    run_checks,
)
from wesemu.errors import SystemFault
from wesemu.genomics.gpu_selftest import summary
from wesemu.genomics.reference import ReferenceStore
from wesemu.genomics.simulate.fixture import Fixture, FixtureSettings, write_fixture
from wesemu.runs.model import PLACE, PLACE_NOTE, JsonObject, RunState

# A `wesemu serve` of one's own, as a process.


_START_SECONDS = 60
_STOP_SECONDS = 15


@asynccontextmanager
async def running(data: Path, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """The URL of a server on a free port over `data`; it ends with the context, its runs too.

    What it says goes to `server.log` in `data`. It takes no settings from the environment or
    from a wesemu.toml but `settings`, variables. Raises SystemFault where it does not start.
    """
    log = data / "server.log"
    process = await _start(data, log, settings)
    try:
        yield await _url(process, log)
    finally:
        await _stop(process)


async def _start(data: Path, log: Path, settings: Mapping[str, str]) -> Process:
    # a session of its own: Ctrl-C in the terminal reaches the demo, which ends the server
    with log.open("ab") as talk:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "wesemu.cli",
            "serve",
            "--port=0",
            f"--data={data}",
            cwd=data,
            env={name: value for name, value in os.environ.items() if name[:7] != "WESEMU_"}
            | dict(settings),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=talk,
            start_new_session=True,
        )


async def _url(process: Process, log: Path) -> str:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
    except TimeoutError:
        line = b""
    if not line:
        told = await asyncio.to_thread(log.read_text, errors="replace")
        last = told.strip().rpartition("\n")[2] or "it said nothing"
        raise SystemFault(f"the server did not start: {last} (see {log})")
    return line.decode().strip()


async def _stop(process: Process) -> None:
    """Ask it to stop and wait; kill it when it takes too long or the wait is broken off."""
    try:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


# The four runs: `mapping` and `wgs`, in AGS's words and in WES's.


# The demo on a node with GPUs: how its server is set up, and what really uses a card.


_NAME = "GPU self-test"
_FILES = ("Snakefile", "schemas/config.schema.yaml", "envs/gpu.yaml")


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The workflow in the folder `workflow`, on so many random reads."""

    workflow: Path
    reads: int


@dataclass(frozen=True, slots=True)
class CudaNode:
    """`settings` are the environment variables of the demo's server. `selftest` is None where
    Parabricks carries the runs out; else the CPU's tools do, and the self-test uses the card."""

    settings: Mapping[str, str]
    selftest: SelfTest | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """The self-test's run, and its report if it has left one."""

    run: RunDetail
    report: JsonObject | None


async def count_on_gpu(client: Client, selftest: SelfTest, reads: Path, show: Show) -> Counted:
    """Send the self-test as a user's own workflow, by WES, and wait. `reads` is a file to write.

    Raises ClientError.
    """
    from wesemu.genomics.histograms import write_random  # needs the extra cuda

    await asyncio.to_thread(write_random, reads, selftest.reads)
    run_id = await client.wes.submit(
        "Snakefile",
        {"reads": str(reads)},
        attachments=[(name, selftest.workflow / name) for name in _FILES],
        engine_parameters={"node": "cuda", "gpus": "1"},
        tags={"project": "wesemu demo"},
    )
    async for run in client.wes.follow(run_id):
        show(_NAME, run.state, run.tasks_done, len(run.tasks))
    for name, output in run.outputs.items():
        if name.endswith("gpu.json"):
            return Counted(run, json.loads(await client.wes.text(output.url)))
    return Counted(run, None)


def examine_node(
    node: CudaNode, done: Sequence[FinishedRequest], counted: Counted | None
) -> Iterator[Check]:
    """That the runs were carried out on the `cuda` node, as both APIs tell it, and the GPU used."""
    placed = [each.run.tags.get(PLACE) == "cuda" == each.job.raw.get("node") for each in done]
    notes = sorted({each.run.tags[PLACE_NOTE] for each in done if PLACE_NOTE in each.run.tags})
    told = f"cuda, by AGS and WES, for {sum(placed)} of {len(done)} runs"
    if node.selftest is None:
        mapped = [any(task.name == "fq2bam" for task in each.run.tasks) for each in done]
        told += f"; {sum(mapped)} by Parabricks"
        yield Check("node", all(placed) and all(mapped), "; ".join([told, *notes]))
        return
    yield Check("node", all(placed), "; ".join([told, *notes]))
    if counted is None or counted.report is None or counted.run.state is not RunState.COMPLETE:
        ended = None if counted is None else (counted.run.state, counted.run.error)
        yield Check(_NAME, False, f"no report: {ended}")
        return
    ok = counted.report["equal"] is True and counted.run.tags.get(PLACE) == "cuda"
    yield Check(_NAME, ok, summary(counted.report))


_ON_THE_CPU = {"WESEMU_NODE__DEFAULT": "cpu"}
"""So that the demo is the same where there are GPUs."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What was shown: `server` was its address, `seconds` all of it took."""

    fixture: Fixture
    checks: tuple[Check, ...]
    server: str
    seconds: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


async def perform(data: Path, show: Show, node: CudaNode | None = None) -> DemoResult:
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
        lambda: list(run_checks(data, fixture, done, exact=not parabricks))
    )
    if node is not None:
        checks += examine_node(node, done, counted)
    return DemoResult(fixture, tuple(checks), server, time.monotonic() - began)


def _set(data: Path) -> Fixture:
    """Reads in a bucket, their reference registered."""
    fixture = write_fixture(data / "buckets" / BUCKET, FixtureSettings())
    ReferenceStore(data / "references", data / "cache").add(REFERENCE, fixture.reference)
    return fixture
