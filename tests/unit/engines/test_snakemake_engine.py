"""Real workflows by the engine, in the modes `warm` and `cli`."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from support.engine_fixtures import running
from support.engine_runs import THREE_RULES, Story, follow, make_job
from support.waiting import soon

from wesemu.engines.event_log import history
from wesemu.engines.launch_spec import read_spec
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.engines.snakemake.cli_worker import command_line
from wesemu.errors import EngineFault, InvalidRequest
from wesemu.runs.model import JsonValue, Resources, TaskState
from wesemu.runs.ports import Progress, RunStarted, TaskChanged
from wesemu.runs.run_directory import Workspace

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def engine(module_engine: SnakemakeEngine) -> SnakemakeEngine:
    return module_engine


@pytest_asyncio.fixture(loop_scope="module", params=["warm", "cli"])
async def any_engine(
    request: pytest.FixtureRequest, module_engine: SnakemakeEngine
) -> AsyncIterator[SnakemakeEngine]:
    if request.param == "warm":
        yield module_engine
    else:
        async with running("cli") as engine:
            yield engine


async def play(engine: SnakemakeEngine, folder: Path, workflow: str, **options: object) -> Story:
    job = make_job(folder, workflow, **options)  # type: ignore[arg-type]
    return await follow(await engine.launch(job))


async def test_three_rules_complete(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    story = await play(any_engine, tmp_path / "run", THREE_RULES)
    assert story.outcome.exit_code == 0
    assert story.outcome.outputs == ("c.txt",)
    assert not story.failures
    assert (tmp_path / "run/work/c.txt").read_text() == "one\none\n"
    assert {task.name: task.state for task in story.tasks.values()} == dict.fromkeys(
        "abc", TaskState.COMPLETE
    )
    [b] = story.named("b")
    assert b.wildcards == {"name": "x"}
    assert b.command is not None
    assert b.command.startswith("cat a.txt a.txt > x.b.txt")
    assert b.exit_code == 0
    assert b.started is not None
    assert b.ended is not None
    assert b.started <= b.ended
    [c] = story.named("c")
    assert c.threads == 2
    progress = [event for event in story.events if isinstance(event, Progress)]
    assert progress[-1].done == progress[-1].total


async def test_warm_run_tells_every_detail(engine: SnakemakeEngine, tmp_path: Path) -> None:
    story = await play(engine, tmp_path / "run", THREE_RULES)
    first = [event.task for event in story.events[:3] if isinstance(event, TaskChanged)]
    assert {task.name for task in first} == set("abc")
    assert {task.state for task in first} == {TaskState.QUEUED}
    ids = {task.name: task.id for task in first}
    assert {task.name: task.details.after for task in first} == {
        "a": (),
        "b": (ids["a"],),
        "c": (ids["b"],),
    }
    assert story.events[3:5] == [RunStarted(total=3), Progress(done=0, total=3)]
    [b] = story.named("b")
    assert b.stdout is not None
    assert b.stderr is not None
    assert (tmp_path / "run" / b.stdout).read_text() == "to stdout\n"
    assert (tmp_path / "run" / b.stderr).read_text() == "to stderr\n"
    assert b.cpu_seconds is not None
    assert b.details.ready is not None
    assert b.started is not None
    assert b.details.ready <= b.started
    [a] = story.named("a")
    assert (b.details.inputs, b.details.outputs) == (("a.txt",), ("x.b.txt",))
    assert (a.details.after, b.details.after) == ((), (a.id,))
    assert b.details.written_bytes is not None
    folder = tmp_path / "run" / "tasks" / f"{b.id}-1"
    assert sorted(path.name for path in folder.iterdir()) == [
        "cmd",
        "stderr",
        "stdout",
        "usage.json",
    ]
    assert (folder / "cmd").read_text().startswith("cat a.txt a.txt > x.b.txt")


async def test_failing_rule_is_explained(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        rule map:
            output: "{sample}.bam"
            shell: "echo 'cannot read the index' >&2; exit 3"
        rule all:
            default_target: True
            input: "s1.bam"
    """
    story = await play(any_engine, tmp_path / "run", workflow)
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert failure.task == "map"
    assert failure.exit_code == 3
    assert "rule map (sample=s1) ended with exit status 3" in failure.message
    assert failure.stderr is not None
    assert "cannot read the index" in (tmp_path / "run" / failure.stderr).read_text()
    [task] = story.tasks.values()
    assert (task.state, task.exit_code) == (TaskState.EXECUTOR_ERROR, 3)


async def test_message_ends_with_the_tools_last_words(
    engine: SnakemakeEngine, tmp_path: Path
) -> None:
    workflow = """
        rule map:
            output: "a.bam"
            log: "map.log"
            shell: "echo 'index is broken' > {log}; exit 1"
    """
    story = await play(engine, tmp_path / "run", workflow)
    [failure] = story.failures
    assert failure.message == "rule map ended with exit status 1: index is broken"
    assert failure.stderr == "work/map.log"


async def test_missing_tool_and_lack_of_memory_have_hints(
    engine: SnakemakeEngine, tmp_path: Path
) -> None:
    workflow = """
        rule all:
            input: "a", "b"
        rule a:
            output: "a"
            shell: "no-such-tool > {output}"
        rule b:
            output: "b"
            shell: "kill -9 $$"
    """
    story = await play(engine, tmp_path / "run", workflow, parameters={"keep_going": "true"})
    told = {failure.task: failure for failure in story.failures}
    assert told["a"].exit_code == 127
    assert "no-such-tool was not found" in (told["a"].hint or "")
    assert told["b"].exit_code == 137
    assert "memory" in (told["b"].hint or "")


async def test_tasks_that_never_ran_are_canceled(engine: SnakemakeEngine, tmp_path: Path) -> None:
    story = await play(engine, tmp_path / "run", THREE_RULES.replace("echo one", "false; echo"))
    assert [task.state for task in story.named("a")] == [TaskState.EXECUTOR_ERROR]
    assert [task.state for task in story.named("c")] == [TaskState.CANCELED]


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        ('rule a:\n    output: "a"\n    shell: "true" "\n', "in Snakefile, line 3"),
        ('x = 1\nrule a:\n    utput: "a"\n', "in Snakefile, line 3"),
        ('rule a:\n    output: "a"\n    shell: "true"\n\nprint(nothing)\n', "in Snakefile, line 5"),
        ("x = 1\nif x\n    y = 2\n", "in Snakefile, line 2"),
    ],
)
async def test_broken_snakefile_names_file_and_line(
    engine: SnakemakeEngine, tmp_path: Path, workflow: str, message: str
) -> None:
    story = await play(engine, tmp_path / "run", workflow)
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert message in failure.message
    assert failure.file == "Snakefile"
    assert str(tmp_path) not in failure.message


async def test_broken_snakefile_fails_by_command_line_too(tmp_path: Path) -> None:
    engine = SnakemakeEngine(mode="cli")
    story = await play(engine, tmp_path / "run", "rule a:\n    utput: 'a'\n")
    assert story.outcome.exit_code == 1
    assert "line 2" in story.failures[0].message


async def test_missing_input_is_named(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        rule a:
            input: "absent.fq"
            output: "a"
            shell: "touch {output}"
    """
    story = await play(any_engine, tmp_path / "run", workflow)
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert "absent.fq" in failure.message
    assert "attach the files" in str(failure.hint)


async def test_error_in_a_run_block_is_reported(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    workflow = """
        rule a:
            output: "a"
            run:
                raise ValueError("bad depth")
    """
    story = await play(any_engine, tmp_path / "run", workflow)
    [failure] = story.failures
    assert failure.task == "a"
    assert "ValueError in" in failure.message
    assert "line 5" in failure.message
    assert "bad depth" in failure.message
    assert str(tmp_path) not in failure.message


async def test_missing_output_fails_its_task(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        rule a:
            output: "a", "b c.txt"
            shell: "true"
    """
    story = await play(any_engine, tmp_path / "run", workflow)
    assert story.outcome.exit_code == 1
    [failure] = story.failures
    assert failure.message == "rule a succeeded, but did not create a, b c.txt"
    assert "output:" in (failure.hint or "")
    assert failure.task == "a"
    assert [task.state for task in story.named("a")] == [TaskState.EXECUTOR_ERROR]


async def test_the_guilty_end_of_a_pipe_is_blamed(engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        rule all:
            input: "out.txt"
        rule source:
            output: pipe("stream")
            shell: "yes > {output}"
        rule sink:
            input: "stream"
            output: "out.txt"
            shell: "head -c 1 {input}; exit 9"
    """
    story = await play(engine, tmp_path / "run", workflow)
    assert story.failures[0].task == "sink"
    assert story.failures[0].exit_code == 9
    assert [task.state for task in story.named("sink")] == [TaskState.EXECUTOR_ERROR]


async def test_retries_are_attempts_of_their_own(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    workflow = """
        rule flaky:
            output: "a"
            shell: "[ -e tried ] || {{ touch tried; exit 5; }}; touch {output}"
    """
    story = await play(any_engine, tmp_path / "run", workflow, parameters={"retries": "2"})
    assert story.outcome.exit_code == 0
    assert not story.failures
    assert [(t.attempt, t.state, t.exit_code) for t in story.named("flaky")] == [
        (1, TaskState.EXECUTOR_ERROR, 5),
        (2, TaskState.COMPLETE, 0),
    ]


async def test_run_script_checkpoint_and_pipe(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        def parts(wildcards):
            folder = checkpoints.split.get().output[0]
            return expand(folder + "/{n}.up", n=sorted(glob_wildcards(folder + "/{n}.txt").n))
        rule all:
            input: "sum.txt", "piped.txt"
        checkpoint split:
            output: directory("parts")
            run:
                import os
                os.makedirs(output[0])
                for n in range(3):
                    with open(f"{output[0]}/{n}.txt", "w") as file:
                        file.write(f"part {n}")
                shell("echo from the shell of run")
        rule up:
            input: "parts/{n}.txt"
            output: "parts/{n}.up"
            script: "up.py"
        rule sum:
            input: parts
            output: "sum.txt"
            shell: "cat {input} > {output}"
        rule source:
            output: pipe("stream")
            shell: "seq 5 > {output}"
        rule sink:
            input: "stream"
            output: "piped.txt"
            shell: "wc -l < {input} > {output}"
    """
    scripts = {
        "up.py": """
            with open(snakemake.input[0]) as source, open(snakemake.output[0], "w") as target:
                target.write(source.read().upper() + snakemake.config["sample"])
        """
    }
    story = await play(any_engine, tmp_path / "run", workflow, scripts=scripts)
    assert story.outcome.exit_code == 0, story.failures
    assert (tmp_path / "run/work/sum.txt").read_text() == "PART 0s1PART 1s1PART 2s1"
    assert (tmp_path / "run/work/piped.txt").read_text().strip() == "5"
    assert {"sum.txt", "piped.txt"} <= set(story.outcome.outputs)
    assert "stream" not in story.outcome.outputs
    assert len(story.named("up")) == 3
    assert {task.state for task in story.tasks.values()} == {TaskState.COMPLETE}


async def test_failing_run_block_is_explained(engine: SnakemakeEngine, tmp_path: Path) -> None:
    workflow = """
        rule a:
            output: "a"
            run:
                raise ValueError("no reads in lane 4")
    """
    story = await play(engine, tmp_path / "run", workflow)
    [failure] = story.failures
    assert failure.task == "a"
    assert failure.exit_code == 1
    assert failure.stderr is not None
    assert "no reads in lane 4" in (tmp_path / "run" / failure.stderr).read_text()


async def test_two_runs_at_once(engine: SnakemakeEngine, tmp_path: Path) -> None:
    """Each has its own directory, configuration and events; and they overlap."""
    workflow = """
        rule a:
            output: "a"
            shell: "touch ../../{config[sample]}.here; "
                   "until [ -e ../../both ]; do sleep 0.01; done; echo $PWD > {output}"
    """
    jobs = [make_job(tmp_path / name, workflow) for name in ("one", "two")]
    for job in jobs:
        job.config["sample"] = job.run_id
    executions = await asyncio.gather(*(engine.launch(job) for job in jobs))
    following = [asyncio.create_task(follow(execution)) for execution in executions]
    async with soon():
        while not all((tmp_path / f"{name}.here").exists() for name in ("one", "two")):
            await asyncio.sleep(0.01)
    (tmp_path / "both").touch()
    stories = await asyncio.gather(*following)
    assert [story.outcome.exit_code for story in stories] == [0, 0]
    for name in ("one", "two"):
        assert (tmp_path / name / "work/a").read_text().strip() == str(tmp_path / name / "work")


async def test_rules_get_no_more_than_the_run_has(
    any_engine: SnakemakeEngine, tmp_path: Path
) -> None:
    workflow = """
        rule a:
            output: "a"
            threads: 8
            resources: mem_mb=4000, gpu=1
            shell: "echo {threads} {resources.mem_mb} {resources.gpu} > {output}"
    """
    share = Resources(cores=2, memory_mb=1000)
    story = await play(any_engine, tmp_path / "run", workflow, resources=share)
    assert story.outcome.exit_code == 0
    assert (tmp_path / "run/work/a").read_text() == "2 1000 0\n"


async def test_tools_see_no_settings_and_no_gpu(
    any_engine: SnakemakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WESEMU_AUTH__AGS_KEYS", "secret")
    engine = SnakemakeEngine(mode=any_engine.mode, environment={"REFERENCES": "/r"})
    story = await play(
        engine, tmp_path / "run", 'rule a:\n    output: "a"\n    shell: "env > {output}"\n'
    )
    await engine.close()
    assert story.outcome.exit_code == 0
    environment = (tmp_path / "run/work/a").read_text().splitlines()
    assert "WESEMU_AUTH__AGS_KEYS=secret" not in environment
    assert "REFERENCES=/r" in environment
    assert "CUDA_VISIBLE_DEVICES=" in environment
    assert not any("plugin_path" in line for line in environment)


async def test_targets_and_configuration(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    story = await play(
        any_engine,
        tmp_path / "run",
        THREE_RULES,
        parameters={"--targets": "y.b.txt", "default-resources": "mem_mb=100"},
    )
    assert story.outcome.exit_code == 0
    assert story.outcome.outputs == ("y.b.txt",)
    assert not (tmp_path / "run/work/c.txt").exists()


async def test_modules_imported_ahead_are_those_that_lie_there(tmp_path: Path) -> None:
    """Those that a workflow imports may change while the server runs, and with it."""
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead/__init__.py").touch()
    (tmp_path / "ahead/words.py").write_text("from ahead.more import WORD\n")
    engine = SnakemakeEngine(
        environment={"PYTHONPATH": str(tmp_path)}, modules=["ahead.words", "ahead.unknown"]
    )
    workflow = """
        from ahead.words import WORD
        rule a:
            output: WORD
            shell: "touch {output}"
    """
    told = []
    for number, text in enumerate(("WORD = 'a'\n", "WORD = 'a'\n", "WORD = 'other'\n")):
        (tmp_path / "ahead/more.py").write_text(text)
        story = await play(engine, tmp_path / f"run{number}", workflow)
        told += story.outcome.outputs
    assert told == ["a", "a", "other"]
    await engine.close()


async def test_refused_parameters_start_nothing(engine: SnakemakeEngine, tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", THREE_RULES, parameters={"--snakefile": "/etc/passwd"})
    with pytest.raises(InvalidRequest, match="snakefile") as caught:
        await engine.launch(job)
    assert caught.value.field == "--snakefile"
    assert not job.workspace.events.exists()


async def test_untested_version_falls_back_to_the_command_line(tmp_path: Path) -> None:
    engine = SnakemakeEngine(version="9.99.0")
    assert engine.mode == "cli"
    await engine.warm()
    assert engine.forkserver is None


async def test_a_forkserver_that_does_not_start_tells_why(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('no yaml here')\n")
    engine = SnakemakeEngine(environment={"PYTHONPATH": str(tmp_path)})
    try:
        with pytest.raises(EngineFault, match="while it was starting: ImportError: no yaml here"):
            await engine.warm()
    finally:
        await engine.close()


NUMPY = """
import os, threading
if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


PANDAS = """
class Nothing:
    pass

def __getattr__(name):
    return Nothing
"""


async def test_a_numpy_that_starts_threads_leaves_the_engine_warm(tmp_path: Path) -> None:
    """Snakemake imports numpy where it is there, as with the extra `reports`; here a stand-in
    that shows its threads, and one of pandas, which would need the real numpy. The run sees the
    environment as it was, and a task its own threads."""
    (tmp_path / "numpy.py").write_text(NUMPY)
    (tmp_path / "pandas.py").write_text(PANDAS)
    engine = SnakemakeEngine(environment={"PYTHONPATH": str(tmp_path), "OPENBLAS_NUM_THREADS": "3"})
    workflow = """
        import os
        rule threads:
            output: "out"
            threads: 2
            params: run=os.environ["OPENBLAS_NUM_THREADS"]
            shell: "echo {params.run} $OPENBLAS_NUM_THREADS > {output}"
    """
    try:
        await engine.warm()
        assert engine.forkserver is not None
        story = await play(engine, tmp_path / "run", workflow)
    finally:
        await engine.close()
    assert story.outcome.exit_code == 0
    assert (tmp_path / "run/work/out").read_text() == "3 2\n"


async def test_relative_run_directory(
    any_engine: SnakemakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    story = await play(any_engine, Path("run"), THREE_RULES)
    assert story.outcome.exit_code == 0
    assert (tmp_path / "run/work/c.txt").exists()


async def test_every_record_is_documented(any_engine: SnakemakeEngine, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/run-directory.md").read_text()
    failing = THREE_RULES.replace("echo one", "false; echo")
    for name, workflow in (("good", THREE_RULES), ("bad", failing)):
        await play(any_engine, tmp_path / name, workflow)
        for record in await asyncio.to_thread(history, Workspace(tmp_path / name)):
            names = [f"| `{record['event']}` |", *(f"`{member}`" for member in record)]
            names += [f"`{member}`" for member in _members(record.get("task"))]
            names += [f"`{member}`" for member in _members(record.get("failure"))]
            assert [each for each in names if each not in page] == []
        for path in (tmp_path / name).iterdir():
            assert path.name in page


def _members(value: JsonValue) -> list[str]:
    return list(value) if isinstance(value, dict) else []


async def test_workflow_types(engine: SnakemakeEngine) -> None:
    assert engine.workflow_types == {"SMK": (engine.version,)}
    assert engine.version.startswith("9.")


WITH_CONDA = """
    rule a:
        output: "a.txt"
        conda: "env.yaml"
        shell: "touch {output}"
"""


async def test_deployment_is_passed_to_snakemake(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "conda"
    stand_in.write_text("#!/bin/sh\necho 'no environments here' >&2\nexit 9\n")
    stand_in.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    engine = SnakemakeEngine(deployment=["conda"], environment={"PATH": path})
    env = {"env.yaml": "dependencies: []\n"}
    try:
        own = make_job(tmp_path / "own", WITH_CONDA, scripts=env)
        story = await follow(await engine.launch(replace(own, untrusted=True)))
        assert story.outcome.exit_code == 1
        assert "conda" in story.failures[0].message.lower()
        spec = await asyncio.to_thread(read_spec, own.workspace)
        assert (spec.mode, spec.deployment) == ("cli", ["conda"])
        assert "--software-deployment-method" not in command_line(
            own.workspace, replace(spec, deployment=None)
        )
    finally:
        await engine.close()
