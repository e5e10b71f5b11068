"""Kills of every process at random moments: accepted runs end once, and nothing is left.

There are a few kills by default, and a hundred with `KILLS=100`. `KILLS_SEED=N` selects other
moments.
"""

import asyncio
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from wesemu.client import AsyncClient, ClientError
from wesemu.engines.processes import MARK
from wesemu.engines.run_process import holder, is_held
from wesemu.runs.model import RunState

STEP = (
    "exec 9> busy; flock -n 9 || echo {output} >> twice;"
    " cat {input} > {output}; sleep 0.1; echo {output} >> {output}"
)
WORKFLOW = "rule all:\n    input: 'c.txt'\n" + "".join(
    f"rule {name}:\n    input: '{source}'\n    output: '{name}.txt'\n    shell: '{STEP}'\n"
    for name, source in (("a", "seed.txt"), ("b", "a.txt"), ("c", "b.txt"))
)
KILLS = int(os.environ.get("KILLS", "8"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
VICTIMS = ("server", "stop", "recovery", "publishing", "run", "worker", "forkserver", "subreaper")
END_SECONDS = 300
WAIT_SECONDS = 15

pytestmark = pytest.mark.kills


@dataclass
class Siege:
    """A server over one data directory, and what is known of its runs."""

    serve: object
    folder: Path
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    server: object = None
    acknowledged: list[str] = field(default_factory=list)
    launches: dict[str, int] = field(default_factory=dict)
    """Of runs that were seen complete."""
    struck: set[str] = field(default_factory=set)

    @property
    def runs(self) -> Path:
        return self.folder / "data" / "runs"

    async def begin(self) -> None:
        if self.server is None:
            self.server = await asyncio.to_thread(self.serve)

    async def submit(self) -> None:
        sent = [(name, self.folder / name) for name in ("Snakefile", "seed.txt")]
        try:
            async with AsyncClient(self.server.url) as client:
                run = await client.wes.submit("Snakefile", {}, attachments=sent)
        except ClientError:
            return  # not acknowledged
        self.acknowledged.append(run)

    async def look(self) -> None:
        """Note how often runs were launched that are complete."""
        async with AsyncClient(self.server.url) as client:
            for line in await client.wes.runs():
                if line.state is RunState.COMPLETE:
                    launched = launches(self.runs / line.id)
                    assert self.launches.setdefault(line.id, launched) == launched

    async def strike(self, victim: str) -> bool:
        """Whether there was such a process."""
        await self.begin()
        submitting = asyncio.create_task(self.submit())
        await asyncio.sleep(self.chance.uniform(0.0, 1.2))
        if victim in ("run", "worker", "subreaper"):
            struck = await asyncio.to_thread(self.kill_of_a_run, victim)
        elif victim == "forkserver":
            struck = await asyncio.to_thread(kill_forkserver, self.server.process.pid)
        else:
            if victim == "publishing":
                await self.until_publishing()
            elif victim == "recovery":
                await self.end_server()
                await self.begin()
                await asyncio.sleep(self.chance.uniform(0.0, 0.3))
            elif victim == "stop":
                self.server.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(self.chance.uniform(0.0, 0.6))
            await self.end_server()
            struck = True
        await submitting
        return struck

    async def end_server(self) -> None:
        self.server.process.kill()
        await asyncio.to_thread(self.server.process.wait)
        self.server = None

    async def until_publishing(self) -> None:
        for _ in range(300):
            if any(self.runs.glob("*/publishing")):
                return
            await asyncio.sleep(0.01)

    def kill_of_a_run(self, victim: str) -> bool:
        """One that was not struck before: a run is resumed once by a server."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if self.kill_now(victim):
                return True
            time.sleep(0.01)
        return False

    def kill_now(self, victim: str) -> bool:
        for run in sorted(self.runs.glob("*/run.lock")):
            process = holder(run) if is_held(run) else None
            if process is None or run.parent.name in self.struck:
                continue
            try:
                own = psutil.Process(process.pid)
                kin = {"run": [own], "subreaper": [own.parent()], "worker": own.children()}[victim]
                kin[0].kill()
            except (psutil.Error, IndexError, AttributeError):
                continue
            self.struck.add(run.parent.name)
            return True
        return False


def kill_forkserver(server: int) -> bool:
    for child in psutil.Process(server).children():
        if any("forkserver" in word for word in child.cmdline()):
            child.kill()
            return True
    return False


def launches(run: Path) -> int:
    return (run / "events.jsonl").read_text().count('"event":"launched"')


def left(folder: Path) -> list[str]:
    """The processes of runs below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(folder)):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


async def test_nothing_is_lost_nothing_runs_twice_nothing_is_left(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    (tmp_path / "seed.txt").write_text("seed\n")
    siege = Siege(serve, tmp_path)
    kills = dict.fromkeys(VICTIMS, 0)
    for number in range(2 * KILLS):
        if sum(kills.values()) >= KILLS:
            break
        victim = VICTIMS[number % len(VICTIMS)]
        kills[victim] += await siege.strike(victim)
        await siege.begin()
        await siege.look()
    with capsys.disabled():
        sys.stderr.write(f"kills: {kills}; runs: {len(siege.acknowledged)}\n")
    async with asyncio.timeout(END_SECONDS), AsyncClient(siege.server.url) as client:
        known = [line.id for line in await client.wes.runs()]
        assert set(siege.acknowledged) <= set(known)
        for run in known:
            async for detail in client.wes.follow(run):
                state = detail.state
            assert state is RunState.COMPLETE, detail.raw
    await siege.look()
    siege.server.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(siege.server.process.wait, 60) == 0
    for run in known:
        work = siege.runs / run / "work"
        assert not (work / "twice").exists()
        assert (work / "c.txt").read_text().split() == ["seed", "a.txt", "b.txt", "c.txt"]
    assert left(tmp_path) == []
    assert not list((tmp_path / "data").rglob("*.part"))
    assert sum(kills.values()) >= min(KILLS, 6)
