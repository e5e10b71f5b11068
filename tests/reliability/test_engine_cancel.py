"""Canceled runs: tools are ended and partial outputs removed, for every kind of rule."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.engine_runs import follow, make_job, started, tools, until
from support.waiting import soon

from wesemu.engines.run_process import CANCELED
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.model import TaskState

NEVER_SECONDS = 3600.0

KINDS = {
    "shell": """
        rule slow:
            output: "out.txt"
            shell: "echo partial > {output}; touch ready; sleep 300; echo never"
    """,
    "script": """
        rule slow:
            output: "out.txt"
            script: "slow.py"
    """,
    "run": """
        rule slow:
            output: "out.txt"
            run:
                import pathlib, time
                pathlib.Path(output[0]).write_text("partial")
                pathlib.Path("ready").touch()
                time.sleep(300)
    """,
    "shell inside run": """
        rule slow:
            output: "out.txt"
            run:
                shell("echo partial > {output}; touch ready; sleep 300")
    """,
    "pipe": """
        rule all:
            input: "out.txt"
        rule slow:
            output: pipe("stream")
            shell: "yes > {output}"
        rule sink:
            input: "stream"
            output: "out.txt"
            shell: "echo partial > {output}; touch ready; cat {input} > /dev/null; sleep 300"
    """,
    "service": """
        rule all:
            input: "out.txt"
        rule serve:
            output: service("socket")
            shell: "touch {output}; sleep 300"
        rule slow:
            input: "socket"
            output: "out.txt"
            shell: "echo partial > {output}; touch ready; sleep 300"
    """,
    "service that never comes": """
        rule all:
            input: "out.txt"
        rule slow:
            output: service("socket")
            shell: "touch ready; sleep 300"
        rule ask:
            input: "socket"
            output: "out.txt"
            shell: "touch {output}"
    """,
    "checkpoint": """
        checkpoint slow:
            output: "out.txt"
            shell: "echo partial > {output}; touch ready; sleep 300"
    """,
    "shadow": """
        rule slow:
            output: "out.txt"
            shadow: "minimal"
            params: here=os.getcwd()
            shell: "echo partial > {output}; touch {params.here}/ready; sleep 300"
    """,
    "daemon": """
        rule slow:
            output: "out.txt"
            shell: "setsid sleep 301 & echo partial > {output}; touch ready; sleep 300"
    """,
    "stopped": """
        rule slow:
            output: "out.txt"
            shell: "echo partial > {output}; touch ready; kill -STOP $$; sleep 300"
    """,
    "retries": """
        rule slow:
            output: "out.txt"
            retries: 5
            shell: "echo partial > {output}; touch ready; sleep 300"
    """,
}

SLOW_SCRIPT = """
    import pathlib, time
    pathlib.Path(snakemake.output[0]).write_text("partial")
    pathlib.Path("ready").touch()
    time.sleep(300)
"""


@pytest.fixture
async def mild_engine() -> AsyncIterator[SnakemakeEngine]:
    """Whose tools have to end by SIGTERM: SIGKILL does not come while the test waits."""
    engine = SnakemakeEngine(grace_seconds=NEVER_SECONDS)
    yield engine
    await engine.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_ends_tools_and_removes_partial_outputs(
    mild_engine: SnakemakeEngine, tmp_path: Path, kind: str
) -> None:
    job = make_job(tmp_path / "run", KINDS[kind], scripts={"slow.py": SLOW_SCRIPT})
    execution = await mild_engine.launch(job)
    task = await started(execution, "slow")
    await until((job.workspace.work / "ready").exists)
    async with soon():
        await execution.cancel()
    assert await tools(job) == []
    assert not (job.workspace.work / "out.txt").exists()
    story = await follow(execution)
    assert story.outcome.exit_code == CANCELED
    assert not story.outcome.crashed
    assert story.tasks[task.id, 1].state is TaskState.CANCELED
    assert len(story.named("slow")) == 1
    assert not story.failures


async def test_cancel_of_the_command_line(tmp_path: Path) -> None:
    engine = SnakemakeEngine("cli")
    job = make_job(tmp_path / "run", KINDS["shell"])
    execution = await engine.launch(job)
    await until((job.workspace.work / "ready").exists)
    await execution.cancel()
    assert await tools(job) == []
    assert not (job.workspace.work / "out.txt").exists()
    story = await follow(execution)
    assert story.outcome.exit_code == CANCELED
    assert [task.state for task in story.named("slow")] == [TaskState.CANCELED]
    await engine.close()


async def test_tools_that_ignore_sigterm_are_killed(tmp_path: Path) -> None:
    engine = SnakemakeEngine(grace_seconds=0.5)
    workflow = """
        rule slow:
            output: "out.txt"
            shell: "trap '' TERM; echo partial > {output}; touch ready; while :; do sleep 1; done"
    """
    job = make_job(tmp_path / "run", workflow)
    execution = await engine.launch(job)
    await until((job.workspace.work / "ready").exists)
    await execution.cancel()
    assert await tools(job) == []
    assert not (job.workspace.work / "out.txt").exists()
    assert (await execution.outcome()).exit_code == CANCELED
    await engine.close()


async def test_cancel_while_the_workflow_is_planned(
    mild_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    """The Snakefile itself hangs; there are no tasks yet."""
    workflow = """
        import pathlib, time
        pathlib.Path("ready").touch()
        time.sleep(300)
    """
    job = make_job(tmp_path / "run", workflow)
    execution = await mild_engine.launch(job)
    await until((job.workspace.work / "ready").exists)
    async with soon():
        await execution.cancel()
    assert (await execution.outcome()).exit_code == CANCELED


async def test_cancel_right_after_the_launch_and_twice(
    engine: SnakemakeEngine, tmp_path: Path
) -> None:
    job = make_job(tmp_path / "run", KINDS["shell"])
    execution = await engine.launch(job)
    await asyncio.gather(execution.cancel(), execution.cancel())
    assert (await execution.outcome()).exit_code == CANCELED
    await execution.cancel()


async def test_nothing_outlives_a_completed_run(engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        rule a:
            output: "a"
            shell: "setsid sleep 300 > /dev/null 2>&1 & touch {output}"
    """
    job = make_job(tmp_path / "run", workflow)
    story = await follow(await engine.launch(job))
    assert story.outcome.exit_code == 0
    assert await tools(job) == []
