"""Dry runs by the real engines: the plan, refusals, and no leftovers."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from support.engine_runs import THREE_RULES, make_job, until
from unit.engines.test_cwl_engine import TWO_STEPS
from unit.engines.test_wdl_engine import TWO_TASKS

from wesemu.engines import dry_run
from wesemu.engines.dry_run import ColdPlan, DryRuns
from wesemu.engines.launch_spec import Mode, launch_spec, launch_spec_file, write_spec
from wesemu.engines.library_engine import CwlEngine, WdlEngine, probe_cwl, probe_wdl
from wesemu.engines.processes import identify, marked
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.errors import EngineFault, InvalidRequest
from wesemu.runs.model import LARGEST, Graph, PlannedTask, Resources, graph_of
from wesemu.runs.ports import LaunchRequest
from wesemu.runs.run_directory import Workspace

CWL, WDL = probe_cwl(), probe_wdl()
needs_cwl = pytest.mark.skipif(not CWL.usable, reason=CWL.reason or "")
needs_wdl = pytest.mark.skipif(not WDL.usable, reason=WDL.reason or "")


@pytest.fixture
async def snakemake() -> AsyncIterator[SnakemakeEngine]:
    engine = SnakemakeEngine()
    yield engine
    await engine.close()


@pytest.fixture(params=["warm", "cli"])
async def any_snakemake(request: pytest.FixtureRequest) -> AsyncIterator[SnakemakeEngine]:
    engine = SnakemakeEngine(request.param)
    yield engine
    await engine.close()


@pytest.fixture
async def cwl() -> AsyncIterator[CwlEngine]:
    engine = CwlEngine(str(CWL.version))
    yield engine
    await engine.close()


@pytest.fixture
async def wdl() -> AsyncIterator[WdlEngine]:
    engine = WdlEngine(str(WDL.version))
    yield engine
    await engine.close()


def brief(graph: Graph) -> list[tuple[str, list[str]]]:
    """Each task's name, and the names of those that it needs."""
    names = {task.id: task.name for task in graph.tasks}
    return [(task.name, [names[one] for one in task.after]) for task in graph.tasks]


async def test_snakemake_tells_its_jobs(any_snakemake: SnakemakeEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", THREE_RULES)
    graph = await any_snakemake.dry_run(job)
    assert (any_snakemake.forkserver is None) == (any_snakemake.mode == "cli")
    assert graph is not None
    assert brief(graph) == [("a", []), ("b", ["a"]), ("c", ["b"])]
    assert graph.counts == {"a": 1, "b": 1, "c": 1}
    assert graph.complete
    _, b, c = graph.tasks
    assert (b.wildcards, b.inputs, b.outputs) == ({"name": "x"}, ("a.txt",), ("x.b.txt",))
    assert (b.threads, c.threads) == (1, 2)
    assert not list(job.workspace.work.glob("*.txt"))


async def test_a_checkpoint_may_bring_more(snakemake: SnakemakeEngine, tmp_path: Path) -> None:
    """And the engine parameters count."""
    workflow = """
        rule all:
            input: "b.txt"
        checkpoint a:
            output: "a.txt"
            shell: "touch {output}"
        rule b:
            input: lambda wildcards: checkpoints.a.get().output
            output: "b.txt"
            shell: "touch {output}"
    """
    job = make_job(tmp_path / "run", workflow, parameters={"until": "a"})
    graph = await snakemake.dry_run(job)
    assert graph is not None
    assert (graph.counts, graph.complete) == ({"a": 1}, False)


@pytest.mark.parametrize(
    ("workflow", "told"),
    [
        ("rule a:\n    input: 'none.txt'\n    output: 'x'\n    shell: 'true'\n", r"none\.txt"),
        ("rule a:\n    output: 'x'\n    shell: 'echo {unknown}'\n", "unknown"),
        ("rule a\n", "line 1"),
    ],
)
async def test_what_cannot_be_planned_says_why(
    snakemake: SnakemakeEngine, tmp_path: Path, workflow: str, told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told) as refused:
        await snakemake.dry_run(make_job(tmp_path / "run", workflow))
    assert str(tmp_path) not in refused.value.message


NEVER_ENDS = """
    import os, time
    if os.fork() == 0:
        os.setsid()
        with open("daemon.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("daemon.new", "daemon.pid")
    time.sleep(600)
"""


async def test_a_snakefile_that_never_ends_is_ended_with_all_it_started(
    any_snakemake: SnakemakeEngine, tmp_path: Path
) -> None:
    """Daemons in sessions of their own, too."""
    job = make_job(tmp_path / "run", NEVER_ENDS)
    planning = asyncio.create_task(any_snakemake.dry_run(job))
    note = job.workspace.work / "daemon.pid"
    daemon = int(await until(lambda: note.read_text() if note.exists() else None))
    planning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await planning
    assert await asyncio.to_thread(identify, daemon) is None
    assert await asyncio.to_thread(marked, job.workspace.root) == []


async def test_a_process_that_starts_during_a_cancel_is_ended_and_reaped(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    command = ["sleep", "600"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    async def fork(root: Path) -> ColdPlan:
        begun.set()
        await go_on.wait()
        return ColdPlan(process)

    dry_runs = DryRuns(sys.executable, {}, fork=fork)
    planning = asyncio.create_task(dry_runs.perform(Workspace(tmp_path)))
    await begun.wait()
    planning.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await planning
    assert process.stdin is not None
    assert (process.returncode, process.stdin.closed) == (-signal.SIGKILL, True)


@pytest.mark.parametrize("mode", ["warm", "cli"])
async def test_a_home_that_cannot_be_created_is_not_needed(tmp_path: Path, mode: Mode) -> None:
    """As with `docker run --user 12345`; Snakemake would create its cache there."""
    (tmp_path / "file").touch()
    nowhere = {"HOME": str(tmp_path / "file" / "home"), "XDG_CACHE_HOME": ""}
    engine = SnakemakeEngine(mode=mode, environment=nowhere)
    graph = await engine.dry_run(make_job(tmp_path / "run", THREE_RULES))
    assert graph is not None
    assert graph.counts == {"a": 1, "b": 1, "c": 1}
    await engine.close()


async def test_planning_is_given_a_time(tmp_path: Path) -> None:
    engine = SnakemakeEngine()
    job = make_job(tmp_path / "run", NEVER_ENDS)
    engine._dry_runs = DryRuns(sys.executable, dict(os.environ), seconds=0.0)
    with pytest.raises(InvalidRequest, match="within 0 s"):
        await engine.dry_run(job)
    assert await asyncio.to_thread(marked, job.workspace.root) == []
    await engine.close()


async def test_a_dry_run_ends_with_its_server(tmp_path: Path) -> None:
    engine = SnakemakeEngine()
    job = make_job(tmp_path / "run", "import time; time.sleep(600)\n")
    await asyncio.to_thread(engine._write_spec, job, "cli", engine._cluster)

    def lose_server() -> int:
        process = engine._dry_runs._spawn(job.workspace, None)
        assert process.stdin is not None
        process.stdin.close()
        return process.wait(timeout=60)

    assert await asyncio.to_thread(lose_server) == -signal.SIGKILL
    await engine.close()


async def test_a_dry_run_ends_with_its_forkserver(
    snakemake: SnakemakeEngine, tmp_path: Path
) -> None:
    """It fails then, and the daemon that it has started is ended as well."""
    job = make_job(tmp_path / "run", NEVER_ENDS)
    planning = asyncio.create_task(snakemake.dry_run(job))
    note = job.workspace.work / "daemon.pid"
    daemon = int(await until(lambda: note.read_text() if note.exists() else None))
    assert snakemake.forkserver is not None
    os.kill(snakemake.forkserver, signal.SIGKILL)
    with pytest.raises(EngineFault, match="ended without a result"):
        await planning
    await until(lambda: identify(daemon) is None)


async def test_a_process_without_a_result_is_a_fault(unknown_engine: Workspace) -> None:
    with pytest.raises(EngineFault, match="there is no engine 'nowhere'"):
        await DryRuns(sys.executable, dict(os.environ)).perform(unknown_engine)


@pytest.mark.parametrize("text", ["[]", '{"graph": 1}', '{"failure": {"message": 1}}', "{}"])
def test_a_result_that_the_workflow_has_written_is_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "rehearsal.json").write_text(text)
    with pytest.raises(EngineFault, match="ended without a result"):
        dry_run._read(Workspace(tmp_path))


@pytest.fixture
def unknown_engine(tmp_path: Path) -> Workspace:
    job = make_job(tmp_path / "run", "")
    spec = launch_spec(job, engine="snakemake", version="9", mode="cli", grace_seconds=1)
    write_spec(job.workspace, spec)
    file = launch_spec_file(job.workspace)
    file.write_text(file.read_text().replace('"snakemake"', '"nowhere"'))
    return job.workspace


def hosted_job(folder: Path, name: str, text: str, inputs: Mapping[str, Any]) -> LaunchRequest:
    workspace = Workspace(folder)
    workspace.work.mkdir(parents=True)
    (workspace.work / name).write_text(dedent(text))
    (workspace.work / "words.txt").write_text("a\n")
    return LaunchRequest(
        run_id="run",
        workspace=workspace,
        workflow_file=workspace.work / name,
        config=dict(inputs),
        resources=Resources(cores=2),
    )


CWL_FILE = {"text": {"class": "File", "path": "words.txt"}}


@needs_cwl
async def test_cwltool_tells_its_steps(cwl: CwlEngine, tmp_path: Path) -> None:
    graph = await cwl.dry_run(hosted_job(tmp_path, "two.cwl", TWO_STEPS, CWL_FILE))
    assert brief(graph) == [("upper", []), ("count", ["upper"])]
    assert graph.complete
    assert not (tmp_path / "work" / "out").exists()


@needs_cwl
@pytest.mark.parametrize(
    ("changed", "inputs", "told"),
    [
        ({}, {}, "text"),
        ({}, {"text": {"class": "File", "path": "none.txt"}}, r"none\.txt"),
        ({"upper/big": "upper/small"}, CWL_FILE, "small"),
    ],
)
async def test_cwltool_says_what_is_wrong(
    cwl: CwlEngine, tmp_path: Path, changed: dict[str, str], inputs: dict[str, Any], told: str
) -> None:
    text = TWO_STEPS
    for old, new in changed.items():
        text = text.replace(old, new)
    with pytest.raises(InvalidRequest, match=told):
        await cwl.dry_run(hosted_job(tmp_path, "two.cwl", text, inputs))


@needs_wdl
async def test_miniwdl_tells_its_calls(wdl: WdlEngine, tmp_path: Path) -> None:
    graph = await wdl.dry_run(hosted_job(tmp_path, "w.wdl", TWO_TASKS, {"text": "words.txt"}))
    assert graph.counts == {"upper": 1, "count": 1}
    assert graph.complete


@needs_wdl
@pytest.mark.parametrize(
    ("changed", "inputs", "told"),
    [
        ({}, {"text": "none.txt"}, r"none\.txt"),
        ({"upper.big": "upper.small"}, {"text": "words.txt"}, "small"),
    ],
)
async def test_miniwdl_says_what_is_wrong(
    wdl: WdlEngine, tmp_path: Path, changed: dict[str, str], inputs: dict[str, Any], told: str
) -> None:
    text = TWO_TASKS
    for old, new in changed.items():
        text = text.replace(old, new)
    with pytest.raises(InvalidRequest, match=told):
        await wdl.dry_run(hosted_job(tmp_path, "w.wdl", text, inputs))


@needs_wdl
async def test_a_scatter_may_bring_more(wdl: WdlEngine, tmp_path: Path) -> None:
    text = """
        version 1.0
        workflow w {
          scatter (i in [1, 2]) { call t }
        }
        task t { command { true } }
    """
    graph = await wdl.dry_run(hosted_job(tmp_path, "w.wdl", text, {}))
    assert (graph.counts, graph.complete) == ({"t": 1}, False)


def test_of_a_large_graph_the_first_tasks_are_listed_and_all_are_counted() -> None:
    graph = graph_of([PlannedTask(str(n), "ab"[n % 2]) for n in range(2 * LARGEST)])
    assert len(graph.tasks) == LARGEST
    assert (graph.counts, graph.total) == ({"a": LARGEST, "b": LARGEST}, 2 * LARGEST)


def test_files_are_called_as_the_caller_calls_them() -> None:
    files = ("/data/a.fa", "/data/a.fa.fai", "/data/a.fasta", "/data/d/b", "out")
    graph = graph_of([PlannedTask("1", "x", inputs=files)])
    [task] = graph.renamed({"/data/a.fa": "oss://b/a.fa", "/data/d": "oss://b/d"}).tasks
    assert task.inputs == (
        "oss://b/a.fa", "oss://b/a.fa.fai", "/data/a.fasta", "oss://b/d/b", "out",
    )  # fmt: skip
