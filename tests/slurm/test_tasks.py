"""Each kind of rule as a job of Slurm, by the engine alone."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.engine_runs import follow, make_job, until
from support.waiting import soon

from wesemu.engines.execution import DetachedExecution
from wesemu.engines.run_process import CANCELED, holder
from wesemu.engines.slurm import Cluster, jobs_below
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.errors import EngineFault
from wesemu.runs.model import TaskState
from wesemu.runs.ports import LaunchRequest

pytestmark = pytest.mark.slurm

Queue = Callable[[], Awaitable[list[str]]]

KINDS = """
    localrules: here
    rule all:
        input: "shell", "script", "run", "sink", "here", "gpu"
    rule shell:
        output: "shell"
        threads: 64
        resources: mem_mb=300, runtime=7
        shell: "env > {output}; squeue -h -j $SLURM_JOB_ID -o '%C %m %l' >> {output}"
    rule script:
        output: "script"
        script: "env.py"
    rule run:
        output: "run"
        run:
            import os, pathlib
            pathlib.Path(output[0]).write_text(os.environ["SLURM_JOB_ID"])
    rule source:
        output: pipe("stream")
        shell: "echo $SLURM_JOB_ID > {output}"
    rule sink:
        input: "stream"
        output: "sink"
        shell: "cat {input} > {output}; echo $SLURM_JOB_ID >> {output}"
    rule here:
        output: "here"
        shell: "echo ${{SLURM_JOB_ID:-no job}} > {output}"
    rule gpu:
        output: "gpu"
        resources: gpu=1
        shell: "echo devices $CUDA_VISIBLE_DEVICES > {output}"
"""
ENV_SCRIPT = """
    import os, pathlib
    pathlib.Path(snakemake.output[0]).write_text(os.environ["SLURM_JOB_ID"])
"""
SLOW = {
    "shell": 'shell: "echo partial > {output}; touch ready; sleep 300"',
    "run": 'run: open(output[0], "w").close(); open("ready", "w").close(); '
    "import time; time.sleep(300)",
    "deaf": "shell: \"trap '' TERM; echo partial > {output}; touch ready; "
    'while :; do sleep 1; done"',
    "daemon": 'shell: "setsid sleep 300 & echo partial > {output}; touch ready; sleep 300"',
}


@pytest.fixture
async def engine() -> AsyncIterator[SnakemakeEngine]:
    engine = SnakemakeEngine(executor="slurm", cluster=Cluster(partition="main"))
    yield engine
    await engine.close()


@pytest.fixture
async def mild_engine() -> AsyncIterator[SnakemakeEngine]:
    """Slurm has to end the jobs: the grace period does not end while a test waits."""
    cluster = Cluster(partition="main")
    engine = SnakemakeEngine(executor="slurm", cluster=cluster, grace_seconds=3600.0)
    yield engine
    await engine.close()


async def test_every_kind_of_rule_is_a_job(engine: SnakemakeEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", KINDS, scripts={"env.py": ENV_SCRIPT})
    story = await follow(await engine.launch(job))
    assert story.failures == []
    assert story.outcome.exit_code == 0
    made = {path.name: path.read_text() for path in job.workspace.work.iterdir() if path.is_file()}
    variables = dict(line.split("=", 1) for line in made["shell"].splitlines() if "=" in line)
    assert variables["SLURM_JOB_PARTITION"] == "main"
    assert variables["SLURM_JOB_NAME"].startswith("run/shell-")
    assert variables["CUDA_VISIBLE_DEVICES"] == ""
    assert made["shell"].splitlines()[-1] == "2 300M 7:00"  # two cores: the run's share
    numbers = [variables["SLURM_JOB_ID"], made["script"], made["run"], *made["sink"].split()]
    assert all(number.isdigit() for number in numbers)
    assert len(set(numbers)) == 4  # the two ends of the pipe share one
    assert made["here"] == "no job\n"
    assert made["gpu"] == "devices 0\n"
    [shell] = story.named("shell")
    usage = json.loads((job.workspace.tasks / f"{shell.id}-1" / "usage.json").read_text())
    assert usage["slurm_job"] == variables["SLURM_JOB_ID"]
    assert usage["node"] == variables["SLURMD_NODENAME"]


async def launch_slow(
    engine: SnakemakeEngine, folder: Path, rule: str = SLOW["shell"]
) -> tuple[LaunchRequest, DetachedExecution]:
    workflow = f"rule slow:\n    output: 'out.txt'\n    {rule}\n"
    job = make_job(folder, workflow)
    execution = await engine.launch(job)
    await until((job.workspace.work / "ready").exists)
    return job, execution


@pytest.mark.parametrize("kind", SLOW)
async def test_cancel_ends_the_jobs(
    mild_engine: SnakemakeEngine, tmp_path: Path, kind: str, queue: Queue
) -> None:
    job, execution = await launch_slow(mild_engine, tmp_path / "run", SLOW[kind])
    assert len(await queue()) == 1
    async with soon():
        await execution.cancel()
    assert await queue() == []
    assert not (job.workspace.work / "out.txt").exists()
    story = await follow(execution)
    assert story.outcome.exit_code == CANCELED
    assert [task.state for task in story.named("slow")] == [TaskState.CANCELED]


PIPE = """
    rule all:
        input: "out.txt"
    rule slow:
        output: pipe("stream")
        shell: "yes > {output}"
    rule sink:
        input: "stream"
        output: "out.txt"
        shell: "touch ready; cat {input} > /dev/null"
"""
FILLED = """
    rule all:
        input: "one", "two"
    rule task:
        output: "{name}"
        threads: 4
        shell: "touch ready; sleep 300"
"""


@pytest.mark.parametrize("workflow", [PIPE, FILLED], ids=["pipe", "waits in the queue"])
async def test_cancel_of_several_tasks(
    mild_engine: SnakemakeEngine, tmp_path: Path, workflow: str, queue: Queue
) -> None:
    job = make_job(tmp_path / "run", workflow)
    execution = await mild_engine.launch(job)
    await until((job.workspace.work / "ready").exists)
    async with soon():
        await execution.cancel()
    assert await queue() == []
    assert (await execution.outcome()).exit_code == CANCELED


async def test_jobs_of_a_killed_run_are_canceled_before_it_is_resumed(
    engine: SnakemakeEngine, tmp_path: Path, queue: Queue
) -> None:
    job, execution = await launch_slow(engine, tmp_path / "run")
    process = await asyncio.to_thread(holder, job.workspace.lock)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert (await execution.outcome()).crashed
    assert await queue() == []
    again = await engine.launch(job)
    await until(lambda: len(jobs_below(job.workspace.work)) == 1)
    await again.cancel()
    assert await queue() == []
    states = [(task.attempt, task.state) for task in (await follow(again)).named("slow")]
    assert states == [(1, TaskState.CANCELED), (2, TaskState.CANCELED)]


async def test_a_refused_task_says_what_to_do(engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        rule refused:
            output: "out.txt"
            resources: slurm_partition="nowhere"
            shell: "touch {output}"
    """
    story = await follow(await engine.launch(make_job(tmp_path / "run", workflow)))
    [failure] = story.failures
    assert failure.task == "refused"
    assert "Invalid partition name specified" in failure.message
    assert failure.hint == "correct node.slurm_partition, or the rule's slurm_partition"
    assert failure.stderr is not None
    assert (tmp_path / "run" / failure.stderr).name == "srun"


async def test_a_refused_pipe_says_what_to_do(engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = PIPE.replace("shell:", "resources: mem_mb=99999999\n        shell:")
    story = await follow(await engine.launch(make_job(tmp_path / "run", workflow)))
    [failure] = story.failures
    assert "Requested node configuration is not available" in failure.message
    assert failure.hint == "no node of the partition is so large; ask for less"


async def test_an_unknown_partition_is_reported_at_launch(tmp_path: Path) -> None:
    engine = SnakemakeEngine(executor="slurm", cluster=Cluster(partition="nowhere"))
    with pytest.raises(EngineFault, match="no nodes in the partition 'nowhere'"):
        await engine.launch(make_job(tmp_path / "run", PIPE))
    await engine.close()
