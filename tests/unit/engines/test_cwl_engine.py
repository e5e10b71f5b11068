"""Real cwltool runs through the engine."""

import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio
from support.engine_runs import tools, until
from support.library_engines import CWL, needs_cwltool, play
from support.library_engines import make_job as make_any_job

from wesemu.engines.library_engine import CwlEngine
from wesemu.errors import InvalidRequest
from wesemu.runs.model import Resources, TaskState
from wesemu.runs.ports import Progress, RunStarted

pytestmark = [needs_cwltool, pytest.mark.asyncio(loop_scope="module")]

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


make_job = partial(make_any_job, name=CWL.file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[CwlEngine]:
    """Has one forkserver for the module."""
    engine = CwlEngine(CWL.version or "")
    yield engine
    await engine.close()


def shell(command: str) -> str:
    return SHELL.replace("COMMAND", command)


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
    assert "parameter" in failure.hint
    assert failure.file != ".inputs.json"
    assert str(tmp_path) not in failure.message


async def test_cancel_of_a_stubborn_tool_takes_the_grace(tmp_path: Path) -> None:
    engine = CwlEngine(CWL.version or "", grace_seconds=0.2)
    command = "trap : TERM; touch $(inputs.folder)/on; while :; do sleep 0.1; done"
    folder = str(tmp_path / "run" / "work")
    job = make_job(tmp_path / "run", shell(command), {"folder": folder})
    execution = await engine.launch(job)
    await until((job.workspace.work / "on").exists)
    await execution.cancel()
    assert await tools(job) == []
    assert (await execution.outcome()).exit_code == 143
    await engine.close()


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
    job = make_job(
        tmp_path / "run", workflow, {"words": ["a", "a", "b"]}, resources=Resources(cores=cores)
    )
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
    engine = CwlEngine(CWL.version or "", containers="podman", environment=environment)
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
    job = make_job(tmp_path / "run", workflow, parameters=parameters, resources=Resources(cores=1))
    story = await play(engine, job)
    assert story.outcome.exit_code == 1
    states = {task.name: task.state for task in story.tasks.values()}
    assert states == {"bad": TaskState.EXECUTOR_ERROR, "good": TaskState.COMPLETE}


async def test_killed_worker_is_a_failure_not_a_crash(engine: CwlEngine, tmp_path: Path) -> None:
    """cwltool itself dies (say, of lack of memory): the run's process ends the tools."""
    story = await play(engine, make_job(tmp_path / "run", shell("kill -9 $PPID; sleep 300")))
    assert story.outcome.exit_code == 137
    assert not story.outcome.crashed
    assert "cwltool itself was ended by signal 9" in story.failures[0].message
    assert [task.state for task in story.tasks.values()] == [TaskState.CANCELED]
