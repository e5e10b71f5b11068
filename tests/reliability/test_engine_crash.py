"""Kills of the server, run processes and workers: runs continue or are resumed."""

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pytest
from support import engine_runs
from support.engine_runs import THREE_RULES, follow, make_job, started, tools, until

from wesemu.engines.event_log import history, last_tasks
from wesemu.engines.execution import DetachedExecution
from wesemu.engines.processes import identify
from wesemu.engines.run_process import holder, is_held
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.model import LOCAL_OWNER, Resources, Run, RunId, RunRequest, RunState, TaskState
from wesemu.runs.ports import LaunchRequest
from wesemu.runs.run_directory import Workspace
from wesemu.runs.sla import ServiceLevel

GATED = """
    rule all:
        input: "second"
    rule first:
        output: "first"
        shell: "echo x >> first.count; touch {output}"
    rule second:
        input: "first"
        output: "second"
        shell: "echo x >> second.count; echo partial > {output}; "
               "until [ -e gate ]; do sleep 0.01; done; echo whole > {output}"
"""


def run_of(run_id: str) -> Run:
    return Run(
        id=RunId(run_id),
        sequence=1,
        handle="abcde",
        owner=LOCAL_OWNER,
        state=RunState.RUNNING,
        workflow="",
        service_level=next(iter(ServiceLevel)),
        request=RunRequest("Snakefile"),
        resources=Resources(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def launch_gated(
    engine: SnakemakeEngine, folder: Path
) -> tuple[LaunchRequest, DetachedExecution]:
    """Launched, and its second task at its gate, which the history tells, too."""
    job = make_job(folder, GATED)
    execution = await engine.launch(job)
    second = job.workspace.work / "second"
    await until(lambda: second.exists() and second.read_text() == "partial\n")
    await until(lambda: _second_has_started(job))
    return job, execution


def _second_has_started(job: LaunchRequest) -> bool:
    tasks = last_tasks(history(job.workspace)).values()
    return any(task.name == "second" and task.state is TaskState.RUNNING for task in tasks)


async def kill_run(job: LaunchRequest) -> None:
    """kill -9 of the run's own process."""
    process = await asyncio.to_thread(holder, job.workspace.lock)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


async def test_killed_run_is_resumed_from_finished_work(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    job, execution = await launch_gated(any_engine, tmp_path / "run")
    await kill_run(job)
    outcome = await execution.outcome()
    assert outcome.crashed
    assert await tools(job) == []
    assert await any_engine.attach(run_of(job.run_id), job.workspace) is None
    (job.workspace.work / "gate").touch()
    story = await follow(await any_engine.launch(job))
    assert story.outcome.exit_code == 0
    assert story.outcome.outputs == ("second",)
    assert (job.workspace.work / "second").read_text() == "whole\n"
    assert (job.workspace.work / "first.count").read_text() == "x\n"
    assert (job.workspace.work / "second.count").read_text() == "x\nx\n"
    assert [(t.attempt, t.state) for t in story.named("second")] == [
        (1, TaskState.CANCELED),
        (2, TaskState.COMPLETE),
    ]
    assert [(t.attempt, t.state) for t in story.named("first")] == [(1, TaskState.COMPLETE)]


async def test_tools_of_a_crash_that_nobody_saw_are_ended_on_attach(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    job, _ = await launch_gated(any_engine, tmp_path / "run")
    await any_engine.close()
    await kill_run(job)
    await until(lambda: not is_held(job.workspace.lock))
    successor = SnakemakeEngine(any_engine.mode)
    assert await successor.attach(run_of(job.run_id), job.workspace) is None
    assert await tools(job) == []
    await successor.close()


async def test_an_end_that_only_the_history_tells_is_not_run_again(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    """As on a disk that had no room for the file exit_code."""
    job = make_job(tmp_path / "run", THREE_RULES)
    await follow(await any_engine.launch(job))
    job.workspace.exit_code.unlink()
    execution = await any_engine.attach(run_of(job.run_id), job.workspace)
    assert execution is not None
    assert (await follow(execution)).outcome.exit_code == 0


async def test_new_engine_attaches_and_sees_all_events(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    """As after a kill -9 of the server: its engine has gone, the run has not."""
    job, _ = await launch_gated(any_engine, tmp_path / "run")
    await any_engine.close()
    successor = SnakemakeEngine(any_engine.mode)
    execution = await successor.attach(run_of(job.run_id), job.workspace)
    assert execution is not None
    assert (await started(execution, "first")).attempt == 1
    (job.workspace.work / "gate").touch()
    story = await follow(execution)
    assert story.outcome.exit_code == 0
    assert {task.name for task in story.tasks.values()} == {"first", "second"}
    ended = await successor.attach(run_of(job.run_id), job.workspace)
    assert ended is not None
    again = await follow(ended)
    assert again == story
    await successor.close()


SERVER = """
import asyncio, pathlib, sys
from support.engine_runs import make_job
from wesemu.engines.snakemake import SnakemakeEngine

async def serve():
    engine = SnakemakeEngine(sys.argv[2])
    await engine.launch(make_job(pathlib.Path(sys.argv[1]), sys.stdin.read()))
    print(engine.forkserver or 0, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


async def test_run_outlives_a_killed_server(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    """kill -9 of the server: its forkserver ends by itself, the run goes on."""
    support = str(Path(engine_runs.__file__).parents[1])
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(tmp_path / "run"), any_engine.mode),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": support},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(dedent(GATED).encode())
    server.stdin.close()
    forkserver = int(await server.stdout.readline())
    server.kill()
    await server.wait()
    await until(lambda: not forkserver or identify(forkserver) is None)
    workspace = Workspace(tmp_path / "run")
    execution = await any_engine.attach(run_of(workspace.root.name), workspace)
    assert execution is not None
    assert not execution.ended
    await until(workspace.work.exists)
    (workspace.work / "gate").touch()
    story = await follow(execution)
    assert story.outcome.exit_code == 0
    assert story.outcome.outputs == ("second",)


async def test_run_outlives_its_forkserver(tmp_path: Path) -> None:
    engine = SnakemakeEngine()
    job, execution = await launch_gated(engine, tmp_path / "one")
    first = engine.forkserver
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: engine.forkserver is None)
    second = make_job(tmp_path / "two", 'rule a:\n    shell: "true"')
    other = await follow(await engine.launch(second))
    assert other.outcome.exit_code == 0
    assert engine.forkserver not in (None, first)
    (job.workspace.work / "gate").touch()
    assert (await follow(execution)).outcome.exit_code == 0
    await engine.close()


async def test_a_running_run_is_not_launched_twice(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    job, _ = await launch_gated(any_engine, tmp_path / "run")
    successor = SnakemakeEngine(any_engine.mode)
    second = await successor.launch(job)
    (job.workspace.work / "gate").touch()
    story = await follow(second)
    assert story.outcome.exit_code == 0
    assert (job.workspace.work / "second.count").read_text() == "x\n"
    await successor.close()


async def test_killed_snakemake_is_a_failure_not_a_crash(tmp_path: Path) -> None:
    """The worker dies (say, of lack of memory): its parent ends the tools and says so."""
    engine = SnakemakeEngine()
    workflow = """
        rule a:
            output: "a"
            shell: "kill -9 $PPID; sleep 300"
    """
    job = make_job(tmp_path / "run", workflow)
    story = await follow(await engine.launch(job))
    assert story.outcome.exit_code == 137
    assert not story.outcome.crashed
    assert "Snakemake itself was ended by signal 9" in story.failures[0].message
    assert [task.state for task in story.tasks.values()] == [TaskState.CANCELED]
    assert await tools(job) == []
    await engine.close()


async def test_forkserver_ends_with_its_server(tmp_path: Path) -> None:
    """Closing the socket is all that a killed server does."""
    engine = SnakemakeEngine()
    await engine.warm()
    pid = engine.forkserver
    assert pid is not None
    await engine.close()
    assert engine.forkserver is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_relaunch_after_success_runs_nothing_again(tmp_path: Path) -> None:
    engine = SnakemakeEngine()
    job, execution = await launch_gated(engine, tmp_path / "run")
    (job.workspace.work / "gate").touch()
    assert (await follow(execution)).outcome.exit_code == 0
    story = await follow(await engine.launch(job))
    assert story.outcome.exit_code == 0
    assert story.outcome.outputs == ("second",)
    assert (job.workspace.work / "second.count").read_text() == "x\n"
    await engine.close()


async def test_tools_are_ended_before_the_server_when_memory_runs_out(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    job = make_job(
        tmp_path / "run",
        """
        rule a:
            output: "a"
            shell: "cat /proc/self/oom_score_adj > a; until [ -e gate ]; do sleep 0.01; done"
        """,
    )
    execution = await any_engine.launch(job)
    await until(lambda: (job.workspace.work / "a").exists())
    process = await asyncio.to_thread(holder, job.workspace.lock)
    assert process is not None
    own = Path(f"/proc/{process.pid}/oom_score_adj").read_text()
    (job.workspace.work / "gate").touch()
    assert (await follow(execution)).outcome.exit_code == 0
    assert own == Path("/proc/self/oom_score_adj").read_text()
    assert int((job.workspace.work / "a").read_text()) >= max(500, int(own))


async def test_a_daemon_without_environment_dies_with_its_run(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    """It left its session, its group and its environment, and nobody follows the run."""
    daemon = "env -i setsid sh -c 'echo $$ > pid; cd /; exec sleep 301 <&- >&- 2>&-'"
    job = make_job(
        tmp_path / "run",
        f"""
        rule a:
            output: "a"
            shell: "{daemon} & until [ -e gate ]; do sleep 0.01; done"
        """,
    )
    await any_engine.launch(job)
    pid = int(await until(lambda: _text(job.workspace.work / "pid")))
    await any_engine.close()
    await kill_run(job)
    await until(lambda: identify(pid) is None)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
