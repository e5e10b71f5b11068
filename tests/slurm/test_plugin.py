"""`node.executor = "slurm-plugin"`: Snakemake's own plugin on real daemons.

The plugin need not be in this environment, where every start of Snakemake would import it: the
variable SNAKEMAKE_SLURM_PLUGIN may name a folder that `pip install --target` has put it into.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.engine_runs import follow, make_job, until

from wesemu.engines.run_process import CANCELED
from wesemu.engines.slurm import Cluster
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.engines.snakemake.cli_worker import plugin_installed
from wesemu.runs.model import TaskState

pytestmark = pytest.mark.slurm

Queue = Callable[[], Awaitable[list[str]]]

GOOD_AND_BAD = """
    rule all:
        input: "good", "bad"
    rule good:
        output: "good"
        shell: "squeue -h -j $SLURM_JOB_ID -o %j > {output}"
    rule bad:
        output: "bad"
        shell: "echo 'no such index' >&2; exit 3"
"""
SLOW = """
    rule slow:
        output: "out.txt"
        shell: "echo partial > {output}; touch ready; sleep 300"
"""


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SnakemakeEngine]:
    folder = os.environ.get("SNAKEMAKE_SLURM_PLUGIN")
    if folder:
        monkeypatch.syspath_prepend(folder)
    if not plugin_installed("slurm"):
        pytest.skip("no snakemake-executor-plugin-slurm (SNAKEMAKE_SLURM_PLUGIN may name it)")
    engine = SnakemakeEngine(
        executor="slurm-plugin",
        cluster=Cluster(partition="main", options=("--nice=5",)),
        environment={"PYTHONPATH": folder} if folder else None,
    )
    yield engine
    await engine.close()


async def test_jobs_of_the_plugin_end_well_and_badly(
    engine: SnakemakeEngine, tmp_path: Path, queue: Queue
) -> None:
    job = make_job(tmp_path / "run-1", GOOD_AND_BAD, parameters={"keep_going": "true"})
    story = await follow(await engine.launch(job), seconds=90)
    assert story.outcome.exit_code == 1
    assert [task.state for task in story.named("good")] == [TaskState.COMPLETE]
    assert (job.workspace.work / "good").read_text().startswith("run-1_")
    [failure] = story.failures
    assert (failure.task, failure.exit_code) == ("bad", 3)
    assert failure.message == "rule bad ended: no such index"
    assert failure.stderr is not None
    assert "no such index" in (job.workspace.root / failure.stderr).read_text()
    assert await queue() == []


async def test_cancel_reaches_the_plugins_jobs(
    engine: SnakemakeEngine, tmp_path: Path, queue: Queue
) -> None:
    job = make_job(tmp_path / "run-2", SLOW)
    execution = await engine.launch(job)
    await until((job.workspace.work / "ready").exists)
    canceling = asyncio.create_task(execution.cancel())
    await until(lambda: not (job.workspace.work / "out.txt").exists())
    await canceling
    assert await queue() == []
    assert (await execution.outcome()).exit_code == CANCELED
