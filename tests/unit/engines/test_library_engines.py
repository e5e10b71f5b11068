"""The common behaviour of the CWL and WDL engines, with real cwltool and miniwdl."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.engine_runs import follow, started, tools
from support.library_engines import LANGUAGES, Language, launch_gated, make_job, play, run_of
from support.waiting import soon

from wesemu.engines.library_engine import LibraryEngine
from wesemu.engines.run_process import holder
from wesemu.runs.model import TaskState
from wesemu.runs.ports import Progress

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Language:
    found: Language = request.param
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(language: Language) -> AsyncIterator[LibraryEngine]:
    """Whose tools have to end by SIGTERM: SIGKILL does not come while a test waits."""
    engine = language.engine(grace_seconds=3600.0)
    yield engine
    await engine.close()


async def test_cancel_ends_the_tools_without_killing_them(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    job, execution = await launch_gated(language, engine, tmp_path / "run")
    async with soon():
        await execution.cancel()
    assert await tools(job) == []
    story = await follow(execution)
    assert story.outcome.exit_code == 143
    assert [task.state for task in story.named("second")] == [TaskState.CANCELED]
    assert [task.state for task in story.named("first")] == [TaskState.COMPLETE]
    await execution.cancel()
    assert (await execution.outcome()).exit_code == 143


async def test_cancel_before_the_first_tool_is_at_once(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    job = make_job(
        tmp_path / "run", language.gated, {"folder": str(tmp_path / "run/work")}, name=language.file
    )
    execution = await engine.launch(job)
    async with soon():
        await asyncio.gather(execution.cancel(), execution.cancel())
    story = await follow(execution)
    assert story.outcome.exit_code == 143
    assert not story.failures


async def test_new_engine_attaches_and_sees_all_events(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    job, _ = await launch_gated(language, engine, tmp_path / "run")
    await engine.close()
    successor = language.engine()
    execution = await successor.attach(run_of(job), job.workspace)
    assert execution is not None
    assert (await started(execution, "first")).attempt == 1
    (job.workspace.work / "gate").touch()
    story = await follow(execution)
    assert story.outcome.exit_code == 0
    assert story.outcome.outputs == (language.gated_output, "out/outputs.json")
    ended = await successor.attach(run_of(job), job.workspace)
    assert ended is not None
    assert await follow(ended) == story
    await successor.close()


async def test_killed_run_is_resumed_from_finished_tasks(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    job, execution = await launch_gated(language, engine, tmp_path / "run")
    process = await asyncio.to_thread(holder, job.workspace.lock)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert (await execution.outcome()).crashed
    assert await tools(job) == []
    assert await engine.attach(run_of(job), job.workspace) is None
    (job.workspace.work / "gate").touch()
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    assert (job.workspace.work / "first.count").read_text() == "x\n"
    assert (job.workspace.work / "second.count").read_text() == "x\nx\n"
    assert (job.workspace.work / language.gated_output).read_text() == "first\n"
    assert [(t.attempt, t.state) for t in story.named("second")] == [
        (1, TaskState.CANCELED),
        (2, TaskState.COMPLETE),
    ]
    assert story.events[-1] == Progress(2, 2)


async def test_odd_letters_in_the_data_directory_are_harmless_or_named(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    unusable = {"CWL": "a[1]", "WDL": "the $HOME"}[next(iter(language.kind.types))]
    for name, code in (("the user's {é} & b", 0), (unusable, 1)):
        job = make_job(
            tmp_path / name / "run",
            language.scattered("test $0 = 1"),
            {"numbers": ["1"]},
            name=language.file,
        )
        story = await play(engine, job)
        assert story.outcome.exit_code == code
        told = [failure.message for failure in story.failures]
        assert [("--data" in message) for message in told] == [True] * code
