"""No two tasks ever hold the same GPU, also after kills."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from support.engine_runs import follow, make_job, until
from support.leases import held_twice, read_holds

from wesemu.engines.execution import end_leftovers
from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import declare, list_tickets
from wesemu.engines.run_process import holder
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.model import Resources
from wesemu.runs.ports import LaunchRequest, QueuePriority

DEVICES = (0, 3, 5)
RUNS, TASKS = 10, 3

HOLD = """start=$EPOCHREALTIME; {wait};
            echo "gpu $CUDA_VISIBLE_DEVICES $start $EPOCHREALTIME" > {{output}}"""

NARROW_AND_WIDE = f"""
    shell.executable("bash")
    rule all:
        input: "a.gpu", "b.gpu", "wide.gpu"
    rule narrow:
        output: "{{name,[ab]}}.gpu"
        resources: gpu=1
        shell: '''{HOLD.format(wait="sleep 0.03")}'''
    rule wide:
        output: "wide.gpu"
        resources: nvidia_gpu=2
        shell: '''{HOLD.format(wait="sleep 0.03")}'''
"""

GATED = f"""
    shell.executable("bash")
    rule only:
        output: "only.gpu"
        resources: gpu=3
        shell: '''touch began; {HOLD.format(wait="until [ -e gate ]; do sleep 0.01; done")}'''
"""


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    declare(tmp_path / "leases", Capacity(cores=2 * RUNS, devices=DEVICES))
    return tmp_path / "leases"


def a_job(folder: Path, workflow: str, leases: Path, age: int) -> LaunchRequest:
    job = make_job(folder, workflow, resources=Resources(cores=TASKS, gpus=len(DEVICES)))
    return replace(job, priority=QueuePriority(leases, 2, age))


def holds(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in sorted(tmp_path.glob("*/work/*.gpu")))


def test_the_look_for_overlaps_finds_them() -> None:
    assert held_twice("gpu 0 1 2\ngpu 0,3 1.5 3\ngpu 3 3 4\n") == [("0", 1.5)]
    assert held_twice("gpu 0 1 2\ngpu 3 1 2\ngpu 0 2 3\n") == []


async def test_ten_runs_at_once_never_hold_a_gpu_twice(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    await engine.warm()
    jobs = [a_job(tmp_path / f"run{n}", NARROW_AND_WIDE, leases, n) for n in range(RUNS)]
    executions = [await engine.launch(job) for job in jobs]
    stories = await asyncio.gather(*(follow(each, seconds=120) for each in executions))
    assert [story.outcome.exit_code for story in stories] == [0] * RUNS
    text = await asyncio.to_thread(holds, tmp_path)
    seen = [devices for devices, _, _ in read_holds(text)]
    assert sorted(map(len, seen)) == [1] * 2 * RUNS + [2] * RUNS
    assert {device for devices in seen for device in devices} == set(map(str, DEVICES))
    assert held_twice(text) == []
    await until(lambda: not list_tickets(leases))


async def test_a_killed_run_gives_its_gpus_back_once_its_tools_are_gone(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    killed = a_job(tmp_path / "killed", GATED, leases, 1)
    await engine.launch(killed)
    await until((killed.workspace.work / "began").exists)
    waiting = a_job(tmp_path / "waiting", NARROW_AND_WIDE, leases, 2)
    execution = await engine.launch(waiting)
    await until(lambda: sum(not ticket.held for ticket in list_tickets(leases)) == TASKS)
    process = await asyncio.to_thread(holder, killed.workspace.lock)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: not process.alive)
    await asyncio.to_thread(end_leftovers, killed.workspace)
    story = await follow(execution)
    assert story.outcome.exit_code == 0
    text = await asyncio.to_thread(holds, tmp_path)
    assert len(read_holds(text)) == TASKS
    assert held_twice(text) == []
    await until(lambda: not list_tickets(leases))


async def test_a_run_without_a_share_of_the_gpus_gets_none_by_any_name(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    """node = cpu: no rule of it leases a GPU, whatever its resources are called."""
    job = a_job(tmp_path / "run", NARROW_AND_WIDE, leases, 1)
    job = replace(job, resources=Resources(cores=TASKS))
    story = await follow(await engine.launch(job))
    assert story.outcome.exit_code == 0
    text = await asyncio.to_thread(holds, tmp_path)
    assert text.count("gpu  ") == TASKS  # the variable is empty
