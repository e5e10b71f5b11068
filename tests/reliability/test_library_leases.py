"""Tasks of CWL and WDL runs take leases like all others, one for each task."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.engine_runs import DEADLINE_SECONDS, follow, started, tools, until
from support.leases import most_at_once, read_spans, release, take_node
from support.library_engines import CWL, LANGUAGES, Language, make_job, needs_cwltool, play
from support.waiting import soon

from wesemu.engines.event_log import history, last_tasks
from wesemu.engines.execution import DetachedExecution
from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import Lease, declare, list_tickets
from wesemu.engines.library_engine import LibraryEngine
from wesemu.engines.run_process import CANCELED, holder
from wesemu.runs.model import Resources, TaskState
from wesemu.runs.ports import LaunchRequest, QueuePriority, TaskChanged

NODE = Capacity(cores=2, memory_mb=1000, devices=(2, 5))
SILVER = 2

SPAN = "start=$EPOCHREALTIME; sleep 0.3; echo span %d $start $EPOCHREALTIME >> FOLDER/spans"
TOGETHER = (
    "touch FOLDER/here$0; for i in {1..1000}; do "
    "[ -e FOLDER/here0 -a -e FOLDER/here1 ] && exit 0; sleep 0.01; done; exit 1"
)
SMI = """#!/bin/sh
echo '<nvidia_smi_log><cuda_version>12.4</cuda_version><attached_gpus>2</attached_gpus>'
echo '</nvidia_smi_log>'
"""


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Language:
    found: Language = request.param
    return found


@pytest.fixture
async def engine(language: Language, tmp_path: Path) -> AsyncIterator[LibraryEngine]:
    """With a stand-in for nvidia-smi, which cwltool asks before a tool with CUDA."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(SMI)
    (programs / "nvidia-smi").chmod(0o755)
    engine = language.engine(environment={"PATH": f"{programs}:{os.environ['PATH']}"})
    yield engine
    await engine.close()


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    declare(tmp_path / "leases", NODE)
    return tmp_path / "leases"


def a_job(
    language: Language,
    folder: Path,
    leases: Path,
    command: str,
    *,
    numbers: int = 2,
    age: int = 1,
    **wants: Any,
) -> LaunchRequest:
    """A run of one scattered task that may use the whole node."""
    workflow = language.scattered(command.replace("FOLDER", str(folder.parent)), **wants)
    share = Resources(cores=NODE.cores, gpus=len(NODE.devices))
    config = {"numbers": [str(number) for number in range(numbers)]}
    job = make_job(folder, workflow, config, name=language.file, resources=share)
    return replace(job, priority=QueuePriority(leases, SILVER, age))


async def states(job: LaunchRequest) -> list[TaskState]:
    records = await asyncio.to_thread(history, job.workspace)
    return [task.state for task in last_tasks(records).values()]


async def launch_waiting(
    engine: LibraryEngine, job: LaunchRequest, leases: Path
) -> DetachedExecution:
    execution = await engine.launch(job)
    await until(lambda: any(not ticket.held for ticket in list_tickets(leases)))
    return execution


async def test_tasks_of_one_run_are_side_by_side(
    language: Language, engine: LibraryEngine, tmp_path: Path, leases: Path
) -> None:
    """Each waits for the other to have begun."""
    job = a_job(language, tmp_path / "run", leases, TOGETHER)
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    await until(lambda: not list_tickets(leases))


@pytest.mark.parametrize(("wants", "cores"), [({"cores": 2}, 2), ({"memory": 600}, 1)])
async def test_runs_share_cores_and_memory_task_by_task(
    language: Language,
    engine: LibraryEngine,
    tmp_path: Path,
    leases: Path,
    wants: Mapping[str, int],
    cores: int,
) -> None:
    """Tasks that fill the node, one after another, whichever run they belong to."""
    jobs = [
        a_job(language, tmp_path / f"run{n}", leases, SPAN % cores, age=n, **wants)
        for n in range(2)
    ]
    stories = await asyncio.gather(*(play(engine, job) for job in jobs))
    assert [story.outcome.exit_code for story in stories] == [0, 0]
    told = (tmp_path / "spans").read_text()
    assert len(read_spans(told)) == 4
    assert most_at_once(told) == cores


async def test_task_is_queued_until_it_is_leased_and_a_canceled_run_leaves_at_once(
    language: Language, engine: LibraryEngine, tmp_path: Path, leases: Path
) -> None:
    node = await take_node(leases, NODE.cores)
    job = a_job(language, tmp_path / "run", leases, "true", numbers=1)
    execution = await launch_waiting(engine, job, leases)
    assert await states(job) == [TaskState.QUEUED]
    async with soon():
        await execution.cancel()
    assert [ticket.held for ticket in await asyncio.to_thread(list_tickets, leases)] == [True]
    story = await follow(execution)
    assert story.outcome.exit_code == CANCELED
    assert [task.state for task in story.tasks.values()] == [TaskState.CANCELED]
    assert not story.failures
    await release(node)


async def test_run_begins_without_any_lease(
    language: Language, engine: LibraryEngine, tmp_path: Path, leases: Path
) -> None:
    """A run holds nothing between its tasks: a full node does not even keep it from failing."""
    node = await take_node(leases, NODE.cores)
    job = a_job(language, tmp_path / "run", leases, "true")
    job.workflow_file.write_text("this is not a workflow")
    story = await play(engine, job)
    assert story.outcome.exit_code == 1
    await release(node)


async def test_killed_run_gives_back_what_it_had(
    language: Language, engine: LibraryEngine, tmp_path: Path, leases: Path
) -> None:
    job = a_job(language, tmp_path / "run", leases, "sleep 300", numbers=1, cores=2)
    execution = await engine.launch(job)
    await started(execution, "each" if job.workflow_file.suffix == ".cwl" else "each-0")
    process = await asyncio.to_thread(holder, job.workspace.lock)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert (await execution.outcome()).crashed
    assert await tools(job) == []
    async with soon():
        await release(await take_node(leases, NODE.cores))


async def test_each_task_sees_the_gpu_of_its_lease(
    language: Language, engine: LibraryEngine, tmp_path: Path, leases: Path
) -> None:
    command = f"echo $CUDA_VISIBLE_DEVICES > FOLDER/gpu$0; {TOGETHER}"
    job = a_job(language, tmp_path / "run", leases, command, gpu=True)
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    assert {(tmp_path / f"gpu{n}").read_text() for n in range(2)} == {"2\n", "5\n"}


async def test_task_without_a_gpu_sees_none(
    language: Language, engine: LibraryEngine, tmp_path: Path, leases: Path
) -> None:
    command = "echo ${CUDA_VISIBLE_DEVICES-unset} > FOLDER/gpu"
    story = await play(engine, a_job(language, tmp_path / "run", leases, command, numbers=1))
    assert story.outcome.exit_code == 0
    assert (tmp_path / "gpu").read_text() == "\n"


WDL_WIDE_AND_BAD = """
    version 1.0
    workflow w {
      call wide
      call bad
    }
    task wide { command { true } runtime { cpu: 2 } }
    task bad { input { String x = "" } command { FAIL } }
"""
CWL_WIDE = """
    cwlVersion: v1.2
    class: Workflow
    inputs: {}
    outputs: {}
    steps:
      wide:
        in: {}
        out: []
        run:
          class: CommandLineTool
          requirements: {ResourceRequirement: {coresMin: 2, coresMax: 2}}
          baseCommand: ["true"]
          inputs: {}
          outputs: []
"""
CWL_WIDE_AND_BAD = (
    CWL_WIDE
    + """\
      bad:
        in: {}
        out: []
        run:
          class: CommandLineTool
          requirements: {ResourceRequirement: {coresMin: 1, coresMax: 1}}
          baseCommand: [sh, -c, "FAIL"]
          inputs: {}
          outputs: []
"""
)
WIDE_AND_BAD = {"flow.wdl": WDL_WIDE_AND_BAD, "flow.cwl": CWL_WIDE_AND_BAD}


SHARE = Resources(cores=3, memory_mb=2000)
"""Of the run; cwltool counts the memory of its steps, too, and would take what is free just now."""


async def take_roomier_node(leases: Path) -> Lease:
    """Two cores of three: a wide task that waits leaves one free for others to pass it."""
    await asyncio.to_thread(declare, leases, replace(NODE, cores=3))
    return await take_node(leases, 2)


def until_somebody_waits(leases: Path) -> str:
    return f"until ls {leases} | grep -q '^waits'; do sleep 0.01; done"


async def launch_wide_and_bad(
    language: Language, engine: LibraryEngine, folder: Path, leases: Path, **parameters: str
) -> DetachedExecution:
    """A run whose task `bad` fails once `wide` waits for its two cores."""
    fail = f"{until_somebody_waits(leases)}; exit 4"
    workflow = WIDE_AND_BAD[language.file].replace("FAIL", fail)
    job = make_job(folder, workflow, name=language.file, resources=SHARE, parameters=parameters)
    return await engine.launch(replace(job, priority=QueuePriority(leases, 0, 1)))


async def test_failed_run_does_not_wait_for_leases_of_needless_tasks(
    language: Language, engine: LibraryEngine, tmp_path: Path, leases: Path
) -> None:
    """The wide task could never start: two cores are taken for as long as the test runs."""
    taken = await take_roomier_node(leases)
    story = await follow(await launch_wide_and_bad(language, engine, tmp_path / "run", leases))
    assert story.outcome.exit_code == 1
    assert [failure.task for failure in story.failures] == ["bad"]
    assert [task.state for task in story.named("wide")] == [TaskState.CANCELED]
    await release(taken)


CWL_WIDE_AND_BROKEN = (
    CWL_WIDE
    + """\
      gate:
        in: {}
        out: [opened]
        run:
          class: CommandLineTool
          requirements: {ResourceRequirement: {coresMin: 1, coresMax: 1}}
          baseCommand: [sh, -c, "GATE"]
          inputs: {}
          outputs: {opened: stdout}
      bad:
        in: {opened: gate/opened}
        out: []
        run: BROKEN
"""
)
CANNOT_BE_EVALUATED = """
    {class: ExpressionTool, expression: $(inputs.opened.nothing),
     inputs: {opened: File}, outputs: {}}
"""
CANNOT_BE_MADE = """
    {class: CommandLineTool, baseCommand: "true", arguments: [$(inputs.opened.nothing)],
     inputs: {opened: File}, outputs: {}}
"""
CANNOT_BE_PREPARED = """
    {class: CommandLineTool, baseCommand: "true", inputs: {opened: File}, outputs: {},
     requirements: {InitialWorkDirRequirement: {listing: [
         {entryname: x, entry: "1"}, {entryname: x, entry: "2"}]}}}
"""


@needs_cwltool
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(CANNOT_BE_EVALUATED, id="evaluated"),
        pytest.param(CANNOT_BE_MADE, id="made"),
        pytest.param(CANNOT_BE_PREPARED, id="prepared"),
    ],
)
async def test_cwl_step_that_fails_without_a_process_makes_others_needless_too(
    tmp_path: Path, leases: Path, broken: str
) -> None:
    engine = CWL.engine()
    taken = await take_roomier_node(leases)
    workflow = CWL_WIDE_AND_BROKEN.replace("GATE", until_somebody_waits(leases))
    workflow = workflow.replace("BROKEN", " ".join(broken.split()))
    job = make_job(tmp_path / "run", workflow, name=CWL.file, resources=SHARE)
    story = await play(engine, replace(job, priority=QueuePriority(leases, 0, 1)))
    assert story.outcome.exit_code == 1
    assert len(story.failures) == 1
    assert [task.state for task in story.named("wide")] == [TaskState.CANCELED]
    await release(taken)
    await engine.close()


@needs_cwltool
async def test_cwl_run_that_keeps_going_waits_for_its_other_steps(
    tmp_path: Path, leases: Path
) -> None:
    engine = CWL.engine()
    taken = await take_roomier_node(leases)
    execution = await launch_wide_and_bad(CWL, engine, tmp_path / "run", leases, keep_going="true")
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for event in execution.events():
            match event:
                case TaskChanged(task=task) if task.state is TaskState.EXECUTOR_ERROR:
                    break
    await release(taken)
    story = await follow(execution)
    assert story.outcome.exit_code == 1
    assert [task.state for task in story.named("wide")] == [TaskState.COMPLETE]
    await engine.close()
