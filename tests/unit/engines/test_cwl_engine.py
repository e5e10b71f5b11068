"""Real cwltool runs through the engine."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from engine_support import Story, follow, started, tools, until

from wesemu.engines.cwl import CwlEngine, probe
from wesemu.engines.lock import holder
from wesemu.errors import InvalidRequest
from wesemu.runs.model import (
    LOCAL_OWNER,
    Resources,
    Run,
    RunId,
    RunRequest,
    RunState,
    TaskState,
)
from wesemu.runs.ports import Job, Progress, RunStarted
from wesemu.runs.workspace import Workspace
from wesemu.sla import ServiceLevel

FOUND = probe()
pytestmark = pytest.mark.skipif(not FOUND.usable, reason=FOUND.reason or "")

TWO_STEPS = """
    cwlVersion: v1.2
    class: Workflow
    inputs: {text: File}
    outputs:
      count: {type: File, outputSource: count/n}
      capitals: {type: File, outputSource: upper/big}
    steps:
      upper:
        in: {text: text}
        out: [big]
        run:
          class: CommandLineTool
          baseCommand: [tr, a-z, A-Z]
          stdin: $(inputs.text.path)
          stdout: big.txt
          inputs: {text: File}
          outputs: {big: stdout}
      count:
        in: {big: upper/big}
        out: [n]
        run:
          class: CommandLineTool
          baseCommand: [wc, -l]
          stdin: $(inputs.big.path)
          stdout: n.txt
          inputs: {big: File}
          outputs: {n: stdout}
"""

SHELL = """
    cwlVersion: v1.2
    class: CommandLineTool
    baseCommand: [sh, -c]
    arguments: ['COMMAND']
    inputs: {folder: string?}
    outputs: {}
"""

GATED = """
    cwlVersion: v1.2
    class: Workflow
    inputs: {folder: string}
    outputs:
      second: {type: File, outputSource: second/made}
    steps:
      first:
        in: {folder: folder}
        out: [made]
        run:
          class: CommandLineTool
          baseCommand: [sh, -c, 'echo x >> $0/first.count; echo first']
          inputs: {folder: {type: string, inputBinding: {}}}
          outputs: {made: stdout}
          stdout: first.txt
      second:
        in: {folder: folder, made: first/made}
        out: [made]
        run:
          class: CommandLineTool
          baseCommand:
            - sh
            - -c
            - 'echo x >> $0/second.count; until [ -e $0/gate ]; do sleep 0.01; done; cat $1'
          inputs:
            folder: {type: string, inputBinding: {position: 1}}
            made: {type: File, inputBinding: {position: 2}}
          outputs: {made: stdout}
          stdout: second.txt
"""


@pytest.fixture
async def engine() -> AsyncIterator[CwlEngine]:
    engine = CwlEngine(FOUND.version or "")
    yield engine
    await engine.close()


def make_job(
    folder: Path,
    workflow: str,
    config: Mapping[str, Any] | None = None,
    *,
    name: str = "flow.cwl",
    parameters: Mapping[str, str] | None = None,
    cores: int = 2,
) -> Job:
    """A run directory as the planner leaves it, with `words.txt` attached."""
    workspace = Workspace(folder)
    workspace.work.mkdir(parents=True)
    (workspace.work / name).write_text(dedent(workflow))
    (workspace.work / "words.txt").write_text("one\ntwo\n")
    return Job(
        run_id=folder.name,
        workspace=workspace,
        workflow_file=workspace.work / name,
        config=dict(config or {}),
        resources=Resources(cores=cores),
        engine_parameters=parameters or {},
    )


async def play(engine: CwlEngine, job: Job) -> Story:
    return await follow(await engine.launch(job))


def shell(command: str) -> str:
    return SHELL.replace("COMMAND", command)


async def launch_gated(engine: CwlEngine, folder: Path) -> tuple[Job, Any]:
    job = make_job(folder, GATED, {"folder": str(folder / "work")})
    execution = await engine.launch(job)
    await until((job.workspace.work / "second.count").exists)
    return job, execution


def run_of(job: Job) -> Run:
    return Run(
        id=RunId(job.run_id),
        sequence=1,
        handle="abcde",
        owner=LOCAL_OWNER,
        state=RunState.RUNNING,
        workflow="",
        service_level=ServiceLevel.SILVER,
        request=RunRequest("flow.cwl", "CWL"),
        resources=Resources(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def test_two_steps_complete(engine: CwlEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", TWO_STEPS, {"text": {"class": "File", "path": "words.txt"}})
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    assert story.outcome.outputs == ("out/big.txt", "out/n.txt", "out/outputs.json")
    assert not story.failures
    work = job.workspace.work
    assert (work / "out/n.txt").read_text().strip() == "2"
    assert (work / "out/big.txt").read_text() == "ONE\nTWO\n"
    told = json.loads((work / "out/outputs.json").read_text())
    assert told["count"]["path"] == "n.txt"
    assert told["count"]["checksum"].startswith("sha1$")
    assert story.events[:2] == [RunStarted(2), Progress(0, 2)]
    assert story.events[-1] == Progress(2, 2)
    [count] = story.named("count")
    assert count.state is TaskState.COMPLETE
    assert count.command == "wc -l"
    assert count.exit_code == 0
    assert count.threads == 1
    assert count.started is not None
    assert count.ended is not None
    assert count.cpu_seconds is not None


async def test_task_has_its_own_streams(engine: CwlEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", shell("echo told; echo complained >&2"))
    story = await play(engine, job)
    [task] = story.tasks.values()
    assert (tmp_path / "run" / str(task.stdout)).read_text() == "told\n"
    assert (tmp_path / "run" / str(task.stderr)).read_text() == "complained\n"


@pytest.mark.parametrize("version", CwlEngine.types["CWL"])
async def test_every_advertised_version_runs(
    engine: CwlEngine, tmp_path: Path, version: str
) -> None:
    workflow = TWO_STEPS.replace("v1.2", version)
    job = make_job(tmp_path / "run", workflow, {"text": {"class": "File", "path": "words.txt"}})
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()


async def test_failing_step_is_explained(engine: CwlEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", shell("echo cannot read the index >&2; exit 3"))
    story = await play(engine, job)
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert failure.message == "task flow.cwl ended with exit status 3: cannot read the index"
    assert failure.task == "flow.cwl"
    assert failure.exit_code == 3
    assert failure.stderr == "tasks/1-1/stderr"
    [task] = story.tasks.values()
    assert task.state is TaskState.EXECUTOR_ERROR


async def test_standard_error_that_is_an_output_is_the_log_too(
    engine: CwlEngine, tmp_path: Path
) -> None:
    workflow = dedent(shell("echo lost index >&2; exit 3")) + "stderr: log.txt\n"
    story = await play(engine, make_job(tmp_path / "run", workflow))
    assert story.failures[0].message.endswith("lost index")


async def test_missing_tool_has_a_hint(engine: CwlEngine, tmp_path: Path) -> None:
    workflow = SHELL.replace("[sh, -c]", "no-such-tool")
    story = await play(engine, make_job(tmp_path / "run", workflow))
    [failure] = story.failures
    assert failure.exit_code == 127
    assert failure.hint is not None
    assert "no-such-tool was not found" in failure.hint


async def test_missing_output_fails_its_task(engine: CwlEngine, tmp_path: Path) -> None:
    outputs = "outputs: {bam: {type: File, outputBinding: {glob: a.bam}}}"
    workflow = shell("true").replace("outputs: {}", outputs)
    story = await play(engine, make_job(tmp_path / "run", workflow))
    assert story.outcome.exit_code == 1
    [task] = story.tasks.values()
    assert task.state is TaskState.EXECUTOR_ERROR
    assert "a.bam" in story.failures[0].message
    assert str(tmp_path) not in story.failures[0].message


async def test_syntax_error_names_the_file_and_runs_nothing(
    engine: CwlEngine, tmp_path: Path
) -> None:
    story = await play(
        engine, make_job(tmp_path / "run", TWO_STEPS.replace("File, out", "Fil, out"))
    )
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert failure.file == "flow.cwl"
    assert "flow.cwl:6:" in failure.message
    assert str(tmp_path) not in failure.message
    assert not story.tasks


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "text"),
        ({"text": {"class": "File", "path": "absent.txt"}}, "absent.txt"),
        ({"text": 7}, "text"),
    ],
)
async def test_wrong_inputs_are_named(
    engine: CwlEngine, tmp_path: Path, config: Mapping[str, Any], words: str
) -> None:
    story = await play(engine, make_job(tmp_path / "run", TWO_STEPS, config))
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert words in failure.message
    assert failure.hint is not None
    assert "workflow_params" in failure.hint
    assert failure.file != ".inputs.json"
    assert str(tmp_path) not in failure.message


async def test_cancel_ends_the_tools_within_a_second(engine: CwlEngine, tmp_path: Path) -> None:
    job, execution = await launch_gated(engine, tmp_path / "run")
    begun = time.monotonic()
    await execution.cancel()
    assert time.monotonic() - begun < 1
    assert await tools(job) == []
    story = await follow(execution)
    assert story.outcome.exit_code == 143
    assert [task.state for task in story.named("second")] == [TaskState.CANCELED]
    assert [task.state for task in story.named("first")] == [TaskState.COMPLETE]


async def test_cancel_of_a_stubborn_tool_takes_the_grace(tmp_path: Path) -> None:
    engine = CwlEngine(FOUND.version or "", grace_seconds=0.2)
    command = "trap : TERM; touch $(inputs.folder)/on; while :; do sleep 0.1; done"
    folder = str(tmp_path / "run" / "work")
    job = make_job(tmp_path / "run", shell(command), {"folder": folder})
    execution = await engine.launch(job)
    await until((job.workspace.work / "on").exists)
    await execution.cancel()
    assert await tools(job) == []
    assert (await execution.outcome()).exit_code == 143
    await engine.close()


async def test_new_engine_attaches_and_sees_all_events(engine: CwlEngine, tmp_path: Path) -> None:
    job, _ = await launch_gated(engine, tmp_path / "run")
    await engine.close()
    successor = CwlEngine(engine.version)
    execution = await successor.attach(run_of(job), job.workspace)
    assert execution is not None
    assert (await started(execution, "first")).attempt == 1
    (job.workspace.work / "gate").touch()
    story = await follow(execution)
    assert story.outcome.exit_code == 0
    assert story.outcome.outputs == ("out/second.txt", "out/outputs.json")
    ended = await successor.attach(run_of(job), job.workspace)
    assert ended is not None
    assert await follow(ended) == story
    await successor.close()


async def test_killed_run_is_resumed_from_finished_steps(engine: CwlEngine, tmp_path: Path) -> None:
    job, execution = await launch_gated(engine, tmp_path / "run")
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
    assert (job.workspace.work / "out/second.txt").read_text() == "first\n"
    assert [(t.attempt, t.state) for t in story.named("second")] == [
        (1, TaskState.CANCELED),
        (2, TaskState.COMPLETE),
    ]
    assert story.events[-1] == Progress(2, 2)


@pytest.mark.parametrize("cores", [1, 2])
async def test_scatter_over_equal_values_runs_each(
    engine: CwlEngine, tmp_path: Path, cores: int
) -> None:
    """Two of the jobs have one cache entry, with two cores at the same time."""
    workflow = """
        cwlVersion: v1.2
        class: Workflow
        requirements: {ScatterFeatureRequirement: {}}
        inputs: {words: 'string[]'}
        outputs:
          told: {type: 'File[]', outputSource: say/told}
        steps:
          say:
            scatter: word
            in: {word: words}
            out: [told]
            run:
              class: CommandLineTool
              baseCommand: [sh, -c, 'sleep 0.2; echo $0']
              inputs: {word: {type: string, inputBinding: {}}}
              outputs: {told: stdout}
              stdout: told.txt
    """
    job = make_job(tmp_path / "run", workflow, {"words": ["a", "a", "b"]}, cores=cores)
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    assert story.outcome.outputs[:3] == ("out/told.txt", "out/told_2.txt", "out/told_3.txt")
    texts = [(job.workspace.work / path).read_text() for path in story.outcome.outputs[:3]]
    assert texts == ["a\n", "a\n", "b\n"]


async def test_step_that_asks_for_more_than_its_share_gets_the_share(
    engine: CwlEngine, tmp_path: Path
) -> None:
    workflow = dedent(shell("echo $(runtime.cores)"))
    workflow += "requirements: {ResourceRequirement: {coresMin: 64, ramMin: 9999999}}\n"
    job = make_job(tmp_path / "run", workflow)
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    [task] = story.tasks.values()
    assert task.threads == 2
    assert (tmp_path / "run" / str(task.stdout)).read_text() == "2\n"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")
async def test_javascript_expressions_run(engine: CwlEngine, tmp_path: Path) -> None:
    workflow = dedent(shell("echo ${return 6 * 7;}"))
    workflow += "requirements: {InlineJavascriptRequirement: {}}\n"
    job = make_job(tmp_path / "run", workflow)
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    [task] = story.tasks.values()
    assert (tmp_path / "run" / str(task.stdout)).read_text() == "42\n"


async def test_required_container_without_containers_has_a_hint(
    engine: CwlEngine, tmp_path: Path
) -> None:
    workflow = dedent(shell("true")) + "requirements: {DockerRequirement: {dockerPull: a}}\n"
    story = await play(engine, make_job(tmp_path / "run", workflow))
    assert story.outcome.exit_code == 1
    assert "DockerRequirement to hints" in (story.failures[0].hint or "")


async def test_container_tool_is_used_where_there_is_one(tmp_path: Path) -> None:
    """A stand-in for podman tells what it was asked to run."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "podman").write_text(
        '#!/bin/sh\n[ "$1" != run ] || { echo "$@" >&2; exit 5; }\necho "[{}]"\n'
    )
    (programs / "podman").chmod(0o755)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    engine = CwlEngine(FOUND.version or "", containers="podman", environment=environment)
    workflow = dedent(shell("true")) + "hints: {DockerRequirement: {dockerPull: tiny:1}}\n"
    story = await play(engine, make_job(tmp_path / "run", workflow))
    [failure] = story.failures
    assert failure.exit_code == 5
    assert "tiny:1 sh -c true" in (tmp_path / "run" / str(failure.stderr)).read_text()
    await engine.close()


async def test_nothing_sent_becomes_an_option(engine: CwlEngine, tmp_path: Path) -> None:
    """Neither the workflow's name nor an input's."""
    config = {"--validate": True, "text": {"class": "File", "path": "words.txt"}}
    story = await play(engine, make_job(tmp_path / "run", TWO_STEPS, config, name="--help"))
    assert {task.name for task in story.tasks.values()} == {"upper", "count"}
    assert story.outcome.exit_code == 0


@pytest.mark.parametrize("name", ["outdir", "--no-container", "enable-dev", "parallel"])
async def test_parameters_are_an_allow_list(engine: CwlEngine, name: str) -> None:
    engine.check_parameters({"--keep-going": "true"})
    with pytest.raises(InvalidRequest, match="not allowed") as refused:
        engine.check_parameters({name: "x"})
    assert refused.value.field == name


async def test_keep_going_finishes_what_does_not_depend(engine: CwlEngine, tmp_path: Path) -> None:
    workflow = """
        cwlVersion: v1.2
        class: Workflow
        inputs: {}
        outputs: {}
        steps:
          bad:
            in: {}
            out: []
            run: {class: CommandLineTool, baseCommand: ['false'], inputs: {}, outputs: {}}
          good:
            in: {}
            out: []
            run: {class: CommandLineTool, baseCommand: ['true'], inputs: {}, outputs: {}}
    """
    parameters = {"keep_going": "true"}
    job = make_job(tmp_path / "run", workflow, parameters=parameters, cores=1)
    story = await play(engine, job)
    assert story.outcome.exit_code == 1
    states = {task.name: task.state for task in story.tasks.values()}
    assert states == {"bad": TaskState.EXECUTOR_ERROR, "good": TaskState.COMPLETE}


async def test_cancel_before_the_first_tool_is_at_once(engine: CwlEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", TWO_STEPS, {"text": {"class": "File", "path": "words.txt"}})
    execution = await engine.launch(job)
    begun = time.monotonic()
    await execution.cancel()
    assert time.monotonic() - begun < 1
    story = await follow(execution)
    assert story.outcome.exit_code == 143
    assert not story.failures


async def test_killed_worker_is_a_failure_not_a_crash(engine: CwlEngine, tmp_path: Path) -> None:
    """cwltool itself dies (say, of lack of memory): the run's process ends the tools."""
    story = await play(engine, make_job(tmp_path / "run", shell("kill -9 $PPID; sleep 300")))
    assert story.outcome.exit_code == 137
    assert not story.outcome.crashed
    assert "cwltool itself was ended by signal 9" in story.failures[0].message
    assert [task.state for task in story.tasks.values()] == [TaskState.CANCELED]
