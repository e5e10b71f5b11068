"""`node.executor = "plugin:NAME"`: a real executor plugin of Snakemake, with a local submit script.

The plugin need not be in this environment, where every start of Snakemake would import it: the
variable SNAKEMAKE_CLUSTER_GENERIC_PLUGIN may name a folder of `pip install --target`.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.engine_runs import follow, make_job, until

from wesemu.engines.run_process import CANCELED
from wesemu.engines.slurm import Cluster
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.engines.snakemake.cli_worker import plugin_installed
from wesemu.errors import EngineFault
from wesemu.runs.model import TaskState

SUBMIT = """#!/bin/sh
setsid sh "$1" >"$1.log" 2>&1 </dev/null &
echo $! | tee -a "$0.jobs"
"""
CANCEL = """#!/bin/sh
echo "$@" >>"$0.jobs"
for job; do kill -KILL -- "-$job"; done
"""
GOOD_AND_BAD = """
    rule all:
        input: "good", "bad"
    rule good:
        output: "good"
        threads: 2
        shell: "ps -o pgid= -p $$ > {output}"
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
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SnakemakeEngine]:
    folder = os.environ.get("SNAKEMAKE_CLUSTER_GENERIC_PLUGIN")
    if folder:
        monkeypatch.syspath_prepend(folder)
    if not plugin_installed("cluster-generic"):
        pytest.skip("no snakemake-executor-plugin-cluster-generic")
    for name, text in {"submit": SUBMIT, "cancel": CANCEL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    options = (
        f"--cluster-generic-submit-cmd={tmp_path}/submit",
        f"--cluster-generic-cancel-cmd={tmp_path}/cancel",
        "--seconds-between-status-checks=1",
    )
    engine = SnakemakeEngine(
        executor="plugin:cluster-generic",
        cluster=Cluster(plugin_options=options),
        environment={"PYTHONPATH": folder} if folder else None,
    )
    yield engine
    await engine.close()


def jobs_of(script: Path) -> list[str]:
    """The process groups of the jobs that a script has submitted or canceled."""
    return script.with_suffix(".jobs").read_text().split()


async def test_jobs_are_submitted_and_end_well_and_badly(
    engine: SnakemakeEngine, tmp_path: Path
) -> None:
    job = make_job(tmp_path / "run-1", GOOD_AND_BAD, parameters={"keep_going": "true"})
    story = await follow(await engine.launch(job), seconds=90)
    assert story.outcome.exit_code == 1
    assert [task.state for task in story.named("good")] == [TaskState.COMPLETE]
    assert [task.state for task in story.named("bad")] == [TaskState.EXECUTOR_ERROR]
    assert [failure.task for failure in story.failures] == ["bad"]
    assert (job.workspace.work / "good").read_text().strip() in jobs_of(tmp_path / "submit")
    assert len(jobs_of(tmp_path / "submit")) == 2


async def test_cancel_reaches_the_jobs(engine: SnakemakeEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run-2", SLOW)
    execution = await engine.launch(job)
    await until((job.workspace.work / "ready").exists)
    await execution.cancel()
    assert (await execution.outcome()).exit_code == CANCELED
    assert jobs_of(tmp_path / "cancel") == jobs_of(tmp_path / "submit")


async def test_a_plugin_that_is_not_installed_is_named(tmp_path: Path) -> None:
    engine = SnakemakeEngine(executor="plugin:not-there")
    with pytest.raises(EngineFault, match="pip install snakemake-executor-plugin-not-there"):
        await engine.launch(make_job(tmp_path / "run", SLOW))
    await engine.close()
