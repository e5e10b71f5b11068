"""Several real runs on one node: leases never exceed it, and every task gets its turn."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from support.engine_fixtures import running
from support.engine_runs import Story, follow, make_job, tools, until
from support.leases import most_at_once, read_spans, release, take_node
from support.waiting import soon

from wesemu.engines.event_log import history, last_tasks
from wesemu.engines.execution import DetachedExecution
from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import declare, list_tickets
from wesemu.engines.run_process import CANCELED
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.model import Resources, TaskState
from wesemu.runs.ports import LaunchRequest, QueuePriority

NODE = Capacity(cores=2, memory_mb=1000, devices=(2, 5))
SILVER = 2

SPAN = """start=$EPOCHREALTIME; sleep {params.seconds};
            echo "span {threads} $start $EPOCHREALTIME" > {output}"""

NARROW_AND_WIDE = f"""
    shell.executable("bash")
    rule all:
        input: "wide.span"
    rule narrow:
        output: "narrow.span"
        shell: '''start=$EPOCHREALTIME; MEET
            echo "span {{threads}} $start $EPOCHREALTIME" > {{output}}'''
    rule wide:
        input: "narrow.span"
        output: "wide.span"
        threads: 64
        params: seconds=0.1
        shell: '''{SPAN}'''
"""

ONE_RULE = """
    rule only:
        output: "out.txt"
        shell: "touch {output}"
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def engine(module_engine: SnakemakeEngine) -> SnakemakeEngine:
    return module_engine


@pytest_asyncio.fixture(loop_scope="module")
async def cli_engine() -> AsyncIterator[SnakemakeEngine]:
    async with running("cli") as engine:
        yield engine


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    declare(tmp_path / "leases", NODE)
    return tmp_path / "leases"


def a_job(folder: Path, workflow: str, leases: Path, *, age: int = 1) -> LaunchRequest:
    """A run that may use the whole node."""
    resources = Resources(cores=NODE.cores, gpus=len(NODE.devices))
    job = make_job(folder, workflow, resources=resources)
    return replace(job, priority=QueuePriority(leases, SILVER, age))


async def launch_waiting(
    engine: SnakemakeEngine, job: LaunchRequest, leases: Path
) -> DetachedExecution:
    """Launched, and its first task in the queue."""
    execution = await engine.launch(job)
    await until(lambda: any(not ticket.held for ticket in list_tickets(leases)))
    return execution


async def finish(engine: SnakemakeEngine, *jobs: LaunchRequest) -> list[Story]:
    executions = [await engine.launch(job) for job in jobs]
    return await asyncio.gather(*map(follow, executions))


def spans(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in tmp_path.glob("*/work/*.span"))


def meeting(folder: Path, mine: int, other: int) -> str:
    """Shell that is done once both have begun, and fails where that does not happen."""
    wait = f"until [ -e {folder}/here{other} ]; do sleep 0.01; done"
    return f'touch {folder}/here{mine}; timeout 60 sh -c "{wait}"'


async def test_wide_and_narrow_runs_share_the_node(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    """The narrow tasks of the two oldest runs, which go before all others, wait for each other;
    a wide one has the node for itself."""
    await engine.warm()
    meetings = [meeting(tmp_path, 0, 1), meeting(tmp_path, 1, 0), "true", "true"]
    jobs = [
        a_job(tmp_path / f"run{n}", NARROW_AND_WIDE.replace("MEET", meet), leases, age=n)
        for n, meet in enumerate(meetings)
    ]
    stories = await finish(engine, *jobs)
    assert [story.outcome.exit_code for story in stories] == [0, 0, 0, 0]
    text = spans(tmp_path)
    assert sorted(cores for cores, _, _ in read_spans(text)) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert most_at_once(text) == NODE.cores
    await until(lambda: not list_tickets(leases))


async def test_task_runs_only_once_it_is_leased(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    node = await take_node(leases, NODE.cores)
    job = a_job(tmp_path / "run", ONE_RULE, leases)
    execution = await launch_waiting(engine, job, leases)
    [task] = last_tasks(await asyncio.to_thread(history, job.workspace)).values()
    assert task.state is TaskState.QUEUED
    assert task.started is None
    released = time.time()
    await release(node)
    story = await follow(execution)
    [task] = story.named("only")
    assert task.state is TaskState.COMPLETE
    assert task.started is not None
    assert task.started.timestamp() >= released
    assert task.details.ready is not None
    assert task.details.ready.timestamp() <= released
    assert (task.details.cores, task.details.devices) == (1, ())


async def test_canceled_run_leaves_the_queue_at_once(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    node = await take_node(leases, NODE.cores)
    job = a_job(tmp_path / "run", ONE_RULE, leases)
    execution = await launch_waiting(engine, job, leases)
    async with soon():
        await execution.cancel()
    left = await asyncio.to_thread(list_tickets, leases)
    assert [ticket.held for ticket in left] == [True]
    story = await follow(execution)
    assert story.outcome.exit_code == CANCELED
    assert {task.state for task in story.tasks.values()} == {TaskState.CANCELED}
    assert not story.failures
    await release(node)


PIPE = """
    rule all:
        input: "out.txt"
    rule make:
        output: pipe("stream")
        shell: "seq 1000 > {output}"
    rule count:
        input: "stream"
        output: "out.txt"
        shell: "wc -l < {input} > {output}"
"""


async def test_runs_with_pipes_do_not_wait_for_each_other(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    """One lease for each end would leave both runs with one core and half a pipe."""
    jobs = [a_job(tmp_path / f"run{n}", PIPE, leases, age=n) for n in range(3)]
    stories = await finish(engine, *jobs)
    assert [story.outcome.exit_code for story in stories] == [0, 0, 0]
    assert [(job.workspace.work / "out.txt").read_text() for job in jobs] == ["1000\n"] * 3
    await until(lambda: not list_tickets(leases))


SERVICE = """
    rule all:
        input: "out.txt"
    rule serve:
        output: service("socket")
        shell: "touch {output}; sleep 300"
    rule ask:
        input: "socket"
        output: "out.txt"
        shell: "touch {output}"
"""


async def test_failing_user_of_a_service_ends_it(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    workflow = SERVICE.replace('"touch {output}"', '"exit 3"')
    [story] = await finish(engine, a_job(tmp_path / "run", workflow, leases))
    assert story.outcome.exit_code == 1
    assert story.failures[0].task == "ask"
    await until(lambda: not list_tickets(leases))


@pytest.mark.parametrize(
    ("served", "code"), [("sleep 0.2; touch {output}; sleep 300", 0), ("sleep 300", 1)]
)
async def test_service_of_a_command_line_run(
    cli_engine: SnakemakeEngine, tmp_path: Path, served: str, code: int
) -> None:
    """Its user waits for its file, and a service that never makes one keeps no run alive."""
    job = make_job(tmp_path / "run", SERVICE.replace("touch {output}; sleep 300", served))
    [story] = await finish(cli_engine, job)
    assert story.outcome.exit_code == code
    assert [failure.task for failure in story.failures] == (["ask", "serve"] if code else [])
    assert await tools(job) == []


async def test_service_and_its_user_have_one_lease(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    jobs = [a_job(tmp_path / f"run{n}", SERVICE, leases, age=n) for n in range(2)]
    stories = await finish(engine, *jobs)
    assert [story.outcome.exit_code for story in stories] == [0, 0]
    await until(lambda: not list_tickets(leases))


LOCAL = """
    localrules: all, link
    rule all:
        input: "linked"
    rule link:
        output: "linked"
        shell: "touch {output}"
"""


async def test_local_rules_take_no_lease(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    node = await take_node(leases, NODE.cores)
    [story] = await finish(engine, a_job(tmp_path / "run", LOCAL, leases))
    assert story.outcome.exit_code == 0
    assert story.named("link")[0].state is TaskState.COMPLETE
    await release(node)


MEMORY = f"""
    shell.executable("bash")
    rule all:
        input: "a.span", "b.span", "c.span"
    rule each:
        output: "{{name}}.span"
        params: seconds=0.1
        resources: mem_mb=lambda wildcards: dict(a=600, b=600, c=99999)[wildcards.name]
        shell: '''{SPAN}'''
"""


async def test_memory_is_counted_and_too_much_means_all_of_it(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    [story] = await finish(engine, a_job(tmp_path / "run", MEMORY, leases))
    assert story.outcome.exit_code == 0
    assert len(read_spans(spans(tmp_path))) == 3
    assert most_at_once(spans(tmp_path)) == 1


DEVICES = """
    rule all:
        input: "shell1.txt", "shell2.txt", "script.txt", "run.txt", "cpu.txt", "inner.txt"
    rule shells:
        output: "shell{n,[0-9]}.txt"
        resources: gpu=1
        shell: "printf '%s' \\"$CUDA_VISIBLE_DEVICES\\" > {output}; touch seen{wildcards.n};"
               "until [ -e seen1 -a -e seen2 ]; do sleep 0.01; done"
    rule script:
        output: "script.txt"
        resources: gpu=2
        script: "show.py"
    rule run:
        output: "run.txt"
        resources: gpu=2
        run:
            import os, pathlib
            pathlib.Path(output[0]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    rule inner:
        output: "inner.txt"
        resources: gpu=1
        run: shell("printf '%s' \\"$CUDA_VISIBLE_DEVICES\\" > {output}")
    rule cpu:
        output: "cpu.txt"
        shell: "printf '<%s>' \\"$CUDA_VISIBLE_DEVICES\\" > {output}"
"""

SHOW = """
    import os, pathlib
    pathlib.Path(snakemake.output[0]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
"""


async def test_tasks_see_the_gpus_of_their_lease(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    job = a_job(tmp_path / "run", DEVICES, leases)
    (job.workspace.attachments / "show.py").write_text("\n".join(map(str.strip, SHOW.split("\n"))))
    [story] = await finish(engine, job)
    assert story.outcome.exit_code == 0
    seen = {path.stem: path.read_text() for path in job.workspace.work.glob("*.txt")}
    assert {seen["shell1"], seen["shell2"]} == {"2", "5"}
    assert seen["script"] == seen["run"] == "2,5"
    assert seen["inner"] in ("2", "5")
    assert seen["cpu"] == "<>"


async def test_python_of_a_workflow_with_envvars_sees_its_gpus_and_the_runs_tmp(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    workflow = """
        envvars: "CUDA_VISIBLE_DEVICES"
        rule run:
            output: "out.txt"
            resources: gpu=2
            run:
                import os, pathlib
                seen = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "TMPDIR")]
                pathlib.Path(output[0]).write_text(" ".join(seen))
    """
    job = a_job(tmp_path / "run", workflow, leases)
    [story] = await finish(engine, job)
    assert story.outcome.exit_code == 0
    assert (job.workspace.work / "out.txt").read_text() == f"2,5 {tmp_path}/run/tmp"


async def test_failing_tasks_give_back_before_they_are_retried(
    engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    workflow = """
        rule flaky:
            output: "out.txt"
            threads: 2
            retries: 2
            shell: "[ -e twice ] && touch {output}; [ -e once ] && touch twice; touch once; "
                   "[ -e {output} ]"
    """
    [story] = await finish(engine, a_job(tmp_path / "run", workflow, leases))
    assert [(task.attempt, task.state) for task in story.named("flaky")] == [
        (1, TaskState.EXECUTOR_ERROR),
        (2, TaskState.EXECUTOR_ERROR),
        (3, TaskState.COMPLETE),
    ]
    await until(lambda: not list_tickets(leases))


async def test_command_line_run_has_one_lease(
    cli_engine: SnakemakeEngine, tmp_path: Path, leases: Path
) -> None:
    node = await take_node(leases, NODE.cores)
    job = a_job(tmp_path / "run", ONE_RULE, leases)
    execution = await launch_waiting(cli_engine, job, leases)
    assert not last_tasks(await asyncio.to_thread(history, job.workspace))
    await release(node)
    story = await follow(execution)
    assert story.outcome.exit_code == 0
    waiting = a_job(tmp_path / "canceled", ONE_RULE, leases)
    node = await take_node(leases, NODE.cores)
    execution = await launch_waiting(cli_engine, waiting, leases)
    await execution.cancel()
    assert (await execution.outcome()).exit_code == CANCELED
    await release(node)
