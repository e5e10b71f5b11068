"""Real miniwdl runs through the engine."""

import asyncio
import itertools
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio
from support.library_engines import WDL, needs_miniwdl, play
from support.library_engines import make_job as make_any_job
from support.waiting import soon

from wesemu.engines.launch_spec import ContainerTool
from wesemu.engines.library_engine import WdlEngine
from wesemu.errors import InvalidRequest
from wesemu.runs.model import TaskState
from wesemu.runs.ports import Progress, RunStarted

pytestmark = [needs_miniwdl, pytest.mark.asyncio(loop_scope="module")]

TWO_TASKS = """
    version 1.1
    workflow two {
      input { File text }
      call upper { input: text }
      call count { input: text = upper.big }
      output {
        File big = upper.big
        File told = count.told
        Int lines = count.lines
      }
    }
    task upper {
      input { File text }
      command <<< tr a-z A-Z < ~{text} > big.txt; echo from upper >&2 >>>
      output { File big = "big.txt" }
      runtime { docker: "ubuntu:22.04" cpu: 1 memory: "1 GiB" }
    }
    task count {
      input { File text }
      command <<< wc -l < ~{text} >>>
      output {
        File told = stdout()
        Int lines = read_int(stdout())
      }
    }
"""

TASK = """
    version 1.0
    task one {
      input { String word = "x" }
      command <<<
        COMMAND
      >>>
      output { String told = read_string(stdout()) }
      runtime { maxRetries: RETRIES }
    }
"""


make_job = partial(make_any_job, name=WDL.file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[WdlEngine]:
    """Has one forkserver for the module."""
    engine = WdlEngine(WDL.version or "")
    yield engine
    await engine.close()


def task(command: str, retries: int = 0) -> str:
    return TASK.replace("COMMAND", command).replace("RETRIES", str(retries))


async def test_two_tasks_complete(engine: WdlEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", TWO_TASKS, {"two.text": "words.txt"})
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    assert set(story.outcome.outputs) == {
        "out/big/big.txt",
        "out/told/stdout.txt",
        "out/outputs.json",
    }
    assert not story.failures
    work = job.workspace.work
    assert (work / "out/big/big.txt").read_text() == "ONE\nTWO\n"
    assert json.loads((work / "out/outputs.json").read_text()) == {
        "two.big": "big/big.txt",
        "two.told": "told/stdout.txt",
        "two.lines": 2,
    }
    assert story.events[:2] == [RunStarted(2), Progress(0, 2)]
    assert story.events[-1] == Progress(2, 2)
    [upper] = story.named("upper")
    assert upper.state is TaskState.COMPLETE
    assert (upper.command or "").strip().startswith("tr a-z A-Z <")
    assert (upper.exit_code, upper.threads) == (0, 1)
    assert upper.started is not None
    assert upper.ended is not None
    assert upper.cpu_seconds is not None
    assert (tmp_path / "run" / str(upper.stderr)).read_text() == "from upper\n"


@pytest.mark.parametrize("version", WdlEngine.types["WDL"])
async def test_every_advertised_version_runs(
    engine: WdlEngine, tmp_path: Path, version: str
) -> None:
    workflow = """
        version VERSION
        workflow w {
          call t { input: word = "hello" }
          output { String told = t.told }
        }
        task t {
          input { String word }
          command { echo ~{word} }
          output { String told = read_string(stdout()) }
        }
    """
    if version == "draft-2":
        workflow = workflow.replace("version VERSION", "").replace("input { String word }", "")
        workflow = workflow.replace("command { echo ~{word} }", "String word command{echo ${word}}")
    job = make_job(tmp_path / "run", workflow.replace("VERSION", version))
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    assert json.loads((job.workspace.work / "out/outputs.json").read_text()) == {"w.told": "hello"}


async def test_failing_task_is_explained(engine: WdlEngine, tmp_path: Path) -> None:
    story = await play(engine, make_job(tmp_path / "run", task("echo no index >&2; exit 3")))
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert failure.message == "task one ended with exit status 3: no index"
    assert (failure.task, failure.exit_code) == ("one", 3)
    assert failure.stderr == "tasks/1-1/stderr"
    [told] = story.tasks.values()
    assert told.state is TaskState.EXECUTOR_ERROR


async def test_missing_tool_has_a_hint(engine: WdlEngine, tmp_path: Path) -> None:
    story = await play(engine, make_job(tmp_path / "run", task("no-such-tool")))
    [failure] = story.failures
    assert failure.exit_code == 127
    assert "no-such-tool was not found" in (failure.hint or "")


async def test_missing_output_names_the_task(engine: WdlEngine, tmp_path: Path) -> None:
    workflow = task("true").replace("String told = read_string(stdout())", 'File bam = "a.bam"')
    story = await play(engine, make_job(tmp_path / "run", workflow))
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert failure.task == "one"
    assert "a.bam" in failure.message
    assert str(tmp_path) not in failure.message


async def test_retries_are_attempts_with_the_same_inputs(engine: WdlEngine, tmp_path: Path) -> None:
    workflow = """
        version 1.0
        task flaky {
          input {
            File text
            String folder
          }
          command <<<
            [ -e ~{folder}/tried ] || { touch ~{folder}/tried; exit 5; }
            cat ~{text} > $PWD/copy.txt
          >>>
          output { File copy = "copy.txt" }
          runtime { maxRetries: 1 }
        }
    """
    config = {"text": "words.txt", "folder": str(tmp_path / "run" / "work")}
    job = make_job(tmp_path / "run", workflow, config)
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    assert not story.failures
    assert [(t.attempt, t.state, t.exit_code) for t in story.named("flaky")] == [
        (1, TaskState.EXECUTOR_ERROR, 5),
        (2, TaskState.COMPLETE, 0),
    ]
    assert (job.workspace.work / "out/copy/copy.txt").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("call upper {", "call upper [", "flow.wdl, line 4"),
        ("text = upper.big", "text = upper.small", "flow.wdl, line 5"),
        ("version 1.1", 'version 1.1\nimport "absent.wdl" as absent', "absent.wdl"),
    ],
)
async def test_broken_document_names_file_and_line(
    engine: WdlEngine, tmp_path: Path, old: str, new: str, words: str
) -> None:
    workflow = dedent(TWO_TASKS).replace(old, new)
    story = await play(engine, make_job(tmp_path / "run", workflow, {"two.text": "words.txt"}))
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert words in failure.message
    assert failure.file == "flow.wdl"
    assert failure.hint is not None
    assert str(tmp_path) not in failure.message
    assert not story.tasks


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "text"),
        ({"two.text": "absent.txt"}, "absent.txt"),
        ({"two.text": "words.txt", "two.other": 1}, "two.other"),
        ({"two.text": "https://example.org/words.txt"}, "is a URL"),
    ],
)
async def test_wrong_inputs_are_named(
    engine: WdlEngine, tmp_path: Path, config: Mapping[str, Any], words: str
) -> None:
    story = await play(engine, make_job(tmp_path / "run", TWO_TASKS, config))
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert words in failure.message
    assert "correct the parameters" in (failure.hint or "")
    assert str(tmp_path) not in failure.message


async def test_a_path_in_a_document_before_wdl_1_2_is_explained(
    engine: WdlEngine, tmp_path: Path
) -> None:
    workflow = """
        version 1.1
        workflow same {
          input { File text = "words.txt" }
          output { File same = text }
        }
    """
    story = await play(engine, make_job(tmp_path / "run", workflow, {}))
    [failure] = story.failures
    assert "words.txt" in failure.message
    assert "allow_any_input" not in failure.message
    assert "declare the file as an input" in (failure.hint or "")


async def test_scatter_and_subworkflow_have_names_of_their_own(
    engine: WdlEngine, tmp_path: Path
) -> None:
    workflow = """
        version 1.0
        import "inner.wdl" as inner
        workflow outer {
          scatter (word in ["a", "b"]) { call inner.say { input: word = word } }
          call inner.chain
          output {
            Array[File] told = say.told
            File deep = chain.told
          }
        }
    """
    inner = """
        version 1.0
        workflow chain {
          call say { input: word = "deep" }
          output { File told = say.told }
        }
        task say {
          input { String word }
          command { echo ~{word} }
          output { File told = stdout() }
        }
    """
    job = make_job(tmp_path / "run", workflow)
    (job.workspace.work / "inner.wdl").write_text(dedent(inner).lstrip())
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    names = {task.name for task in story.tasks.values()}
    assert "chain.say" in names
    assert len(names) == 3
    assert sorted(story.outcome.outputs) == [
        "out/deep/stdout.txt",
        "out/outputs.json",
        "out/told/0/stdout.txt",
        "out/told/1/stdout.txt",
    ]
    assert (job.workspace.work / "out/told/1/stdout.txt").read_text() == "b\n"


async def test_failure_ends_the_other_tasks(engine: WdlEngine, tmp_path: Path) -> None:
    workflow = """
        version 1.0
        workflow w {
          input { String folder }
          call slow { input: folder = folder }
          call bad { input: folder = folder }
        }
        task slow {
          input { String folder }
          command { touch ~{folder}/slow; sleep 300 }
        }
        task bad {
          input { String folder }
          command <<< until [ -e ~{folder}/slow ]; do sleep 0.01; done; exit 4 >>>
        }
    """
    job = make_job(tmp_path / "run", workflow, {"folder": str(tmp_path / "run" / "work")})
    story = await play(engine, job)
    assert story.outcome.exit_code == 1
    assert [failure.task for failure in story.failures] == ["bad"]
    assert [task.state for task in story.named("slow")] == [TaskState.CANCELED]


async def test_wide_task_waits_for_its_cores(engine: WdlEngine, tmp_path: Path) -> None:
    workflow = """
        version 1.0
        workflow w {
          scatter (n in range(3)) { call wide }
          output { Array[String] told = wide.told }
        }
        task wide {
          command { echo wide }
          output { String told = read_string(stdout()) }
          runtime { cpu: 64 }
        }
    """
    job = make_job(tmp_path / "run", workflow)
    story = await play(engine, job)
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
    tasks = sorted(story.tasks.values(), key=lambda task: str(task.started))
    assert [task.threads for task in tasks] == [2, 2, 2]
    for earlier, later in itertools.pairwise(tasks):
        assert earlier.ended is not None
        assert later.started is not None
        assert earlier.ended <= later.started


async def test_named_task_is_run(engine: WdlEngine, tmp_path: Path) -> None:
    config = {"text": "words.txt"}
    job = make_job(tmp_path / "run", TWO_TASKS, config, parameters={"task": "count"})
    story = await play(engine, job)
    assert {task.name for task in story.tasks.values()} == {"count"}
    job = make_job(tmp_path / "other", TWO_TASKS, config, parameters={"task": "absent"})
    story = await play(engine, job)
    assert "no task absent; its tasks: upper, count" in story.failures[0].message


async def test_settings_of_miniwdl_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIWDL__SCHEDULER__CONTAINER_BACKEND", "docker_swarm")
    monkeypatch.setenv("MINIWDL__TASK_RUNTIME__COMMAND_SHELL", "/bin/false")
    engine = WdlEngine(WDL.version or "")
    story = await play(engine, make_job(tmp_path / "run", task("echo hello"), name="--help"))
    assert story.outcome.exit_code == 0
    await engine.close()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cfg", "x", "not allowed"),
        ("--runtime-defaults", "x", "not allowed"),
        ("task", "a; rm", "letters"),
        ("keep_going", "perhaps", "flag"),
    ],
)
async def test_parameters_are_an_allow_list(
    engine: WdlEngine, name: str, value: str, words: str
) -> None:
    engine.check_parameters({"keep-going": "", "task": "count"})
    with pytest.raises(InvalidRequest, match=words) as refused:
        engine.check_parameters({name: value})
    assert refused.value.field == name


async def test_container_tool_is_used_where_there_is_one(tmp_path: Path) -> None:
    """A stand-in for podman tells what it was asked to run."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "podman").write_text('#!/bin/sh\n[ "$1" != run ] || { echo "$@" >&2; exit 5; }\n')
    (programs / "podman").chmod(0o755)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    engine = WdlEngine(WDL.version or "", containers="podman", environment=environment)
    workflow = task("true").replace("maxRetries: 0", 'docker: "tiny:1"')
    job = make_job(tmp_path / "run", workflow)
    story = await play(engine, job)
    [failure] = story.failures
    assert (failure.task, failure.exit_code) == ("one", 5)
    [log] = (job.workspace.work / ".wdl").rglob("podman.log.txt")
    assert "tiny:1" in log.read_text()
    await engine.close()


@pytest.mark.parametrize(
    ("tool", "command", "message", "advice"),
    [
        (
            "podman",
            "no-such-tool",
            "task one ended with exit status 127: .*no-such-tool: .*not found",
            r"the image tiny:1 is not available \(Error: no such host\), so the task runs on this "
            "machine; the tool no-such-tool was not found",
        ),
        (
            "podman",
            "exit 3",
            "task one ended with exit status 3$",
            r"the image tiny:1 is not available \(Error: no such host\)",
        ),
        (
            "apptainer",
            "true",
            "task one failed: the image tiny:1 is not available: Error: no such host",
            "^$",
        ),
    ],
)
async def test_a_failure_names_why_the_image_is_missing(
    tmp_path: Path, tool: ContainerTool, command: str, message: str, advice: str
) -> None:
    """With a stand-in that cannot pull. apptainer pulls when the task starts."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / tool).write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec echo stand-in 1\n'
        "echo Error: no such host >&2; exit 125\n"
    )
    (programs / tool).chmod(0o755)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    engine = WdlEngine(WDL.version or "", containers=tool, environment=environment)
    workflow = task(command).replace("maxRetries: 0", 'docker: "tiny:1"')
    story = await play(engine, make_job(tmp_path / "run", workflow))
    [failure] = story.failures
    assert re.match(message, failure.message), failure
    assert re.search(advice, failure.hint or ""), failure
    await engine.close()


@pytest.fixture
def slow_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """Return images, and a FIFO: the tool finds the image `slow` after a line in it."""
    from wesemu.engines.wdl.backend import Images

    os.mkfifo(gate := tmp_path / "gate")
    (tool := tmp_path / "podman").write_text(f'#!/bin/sh\n[ "$3" != slow ] || read line < {gate}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return Images("podman"), gate


async def test_images_do_not_wait_for_another_one(slow_image: tuple[Any, Path]) -> None:
    images, gate = slow_image
    slow = asyncio.create_task(asyncio.to_thread(images.obtain, "slow"))
    release = await asyncio.to_thread(gate.open, "w")  # when the tool looks for the image
    try:
        async with soon():
            assert await asyncio.to_thread(images.obtain, "other") is None
        assert not slow.done()
        await asyncio.to_thread(release.write, "\n")
    finally:
        await asyncio.to_thread(release.close)
    assert await slow is None
