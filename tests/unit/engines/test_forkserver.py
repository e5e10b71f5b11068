"""The forkserver of each engine: preloaded modules, spare processes, runs without it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from support.engine_runs import follow, until
from support.library_engines import LANGUAGES, Language, launch_gated, make_job, play

from wesemu.composition import PIPELINES_IMPORT
from wesemu.engines.library_engine import LibraryEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROBE = """
import psutil, sys, threading
from wesemu.engines.forkserver import one_thread
from wesemu.engines.forkserver import PreloadedModules, load
engine, *modules = sys.argv[1:]
with one_thread():
    load(engine)
    PreloadedModules(modules)
assert threading.active_count() == 1, threading.enumerate()
assert psutil.Process().num_threads() == 1
"""

CWL_PROBE = """
from cwltool import main, process
from wesemu.engines.cwl.worker import _keep_schemas
loaded = dict(process.SCHEMA_CACHE)
assert {"v1.0", "v1.1", "v1.2"} <= loaded.keys()
main.setup_schema(None, _keep_schemas)
assert {version: process.get_schema(version) for version in loaded} == loaded
"""


@pytest.mark.parametrize(
    ("engine", "library", "more"),
    [("snakemake", "snakemake", ""), ("cwltool", "cwltool", CWL_PROBE), ("miniwdl", "WDL", "")],
)
async def test_a_forkserver_has_one_thread(engine: str, library: str, more: str) -> None:
    pytest.importorskip(library)
    modules = PIPELINES_IMPORT if engine == "snakemake" else ()
    command = [sys.executable, "-P", "-c", PROBE + more, engine, *modules]
    done = await asyncio.to_thread(
        subprocess.run, command, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Language:
    found: Language = request.param
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(language: Language) -> AsyncIterator[LibraryEngine]:
    engine = language.engine()
    yield engine
    await engine.close()


async def test_a_run_outlives_its_forkserver_and_the_next_run_has_another(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    job, execution = await launch_gated(language, engine, tmp_path / "run")
    first = engine.forkserver
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: engine.forkserver is None)
    (job.workspace.work / "gate").touch()
    assert (await follow(execution)).outcome.exit_code == 0
    other, _ = await launch_gated(language, engine, tmp_path / "other")
    assert engine.forkserver not in (None, first)
    (other.workspace.work / "gate").touch()


async def test_a_spare_process_is_replaced_and_ends_with_its_forkserver(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    await engine.warm()
    assert engine.forkserver is not None
    forkserver = psutil.Process(engine.forkserver)

    def spare() -> list[psutil.Process]:
        """Return the spare process and its subreaper, if both exist."""
        found = forkserver.children(recursive=True)
        return found if len(found) == 2 else []

    first = await until(spare)
    for process in first:
        process.kill()
    job, execution = await launch_gated(language, engine, tmp_path / "run")
    (job.workspace.work / "gate").touch()
    assert (await follow(execution)).outcome.exit_code == 0
    second = await until(spare)
    assert not {*first} & {*second}
    forkserver.kill()
    await until(lambda: not any(process.is_running() for process in second))


async def test_a_run_leaves_nothing_in_the_forkserver(
    language: Language, engine: LibraryEngine, tmp_path: Path
) -> None:
    """Environment, working directory and task numbers of a run are those of its process."""
    forkserver = None
    for name in ("one", "two"):
        folder = tmp_path / name
        job = make_job(
            folder,
            language.scattered("echo $PWD $CUDA_VISIBLE_DEVICES"),
            {"numbers": ["1"]},
            name=language.file,
        )
        story = await play(engine, job)
        assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()
        [task] = story.tasks.values()
        assert (task.id, task.attempt) == ("1", 1)
        assert str(folder) in (job.workspace.root / str(task.stdout)).read_text()
        assert forkserver in (None, engine.forkserver)
        forkserver = engine.forkserver


async def test_a_run_starts_without_a_forkserver_that_does_not_start(
    language: Language, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *forkserver*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    engine = language.engine(python=str(python))
    job, execution = await launch_gated(language, engine, tmp_path / "run")
    assert engine.forkserver is None
    (job.workspace.work / "gate").touch()
    assert (await follow(execution)).outcome.exit_code == 0
    await engine.close()
