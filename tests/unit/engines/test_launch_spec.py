"""engine.json: written by a server, read by run processes of this and later versions."""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.engine_runs import follow, make_job
from support.library_engines import CWL, WDL, Language, needs_cwltool, needs_miniwdl
from support.library_engines import make_job as make_library_job

from wesemu.engine_parameters import check_parameters
from wesemu.engines.execution import Launcher, start_runner, tools_environment
from wesemu.engines.launch_spec import (
    LaunchSpec,
    launch_spec,
    launch_spec_file,
    read_spec,
    write_spec,
)
from wesemu.engines.sandbox import Sandbox
from wesemu.engines.slurm import Cluster
from wesemu.engines.snakemake.hooks import INSTALLED
from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonObject, Resources
from wesemu.runs.ports import LaunchRequest, QueuePriority

RESOURCES: JsonObject = {"cores": 2, "memory_mb": 100, "gpus": 0, "least_gpus": 0}
SANDBOX: JsonObject = {
    "hidden": ["/data"],
    "readable": [],
    "writable": ["/scratch"],
    "network": False,
    "private_temporary": True,
    "program": "",
}


def old_snakemake(file: Path) -> JsonObject:
    """Return the file of a Snakemake run that version 0.1.0 wrote."""
    return {
        "engine": "snakemake",
        "version": INSTALLED,
        "mode": "cli",
        "python": sys.executable,
        "workflow_file": str(file),
        "resources": RESOURCES,
        "engine_parameters": {"--keep-going": "", "retries": "2"},
        "grace_seconds": 5.0,
        "configured": False,
        "leases": None,
        "executor": "local",
        "cluster": None,
        "sandbox": None,
    }


def old_library(file: Path, engine: str, version: str | None) -> JsonObject:
    """Return the file of a CWL or WDL run that version 0.1.0 wrote."""
    return {
        "engine": engine,
        "version": version,
        "workflow_file": str(file),
        "inputs": {},
        "resources": RESOURCES,
        "options": {"keep_going": True},
        "containers": None,
        "grace_seconds": 5.0,
        "sandbox": None,
        "fragment": "",
        "always_contained": False,
        "standing": None,
    }


def write_old(job: LaunchRequest, record: JsonObject) -> None:
    job.workspace.work.mkdir(exist_ok=True)
    job.workspace.tasks.mkdir()
    launch_spec_file(job.workspace).write_text(json.dumps(record))


def test_a_run_process_reads_what_the_server_wrote(tmp_path: Path) -> None:
    job = replace(
        make_job(tmp_path / "run", "", parameters={"-k": "", "Retries": "3"}),
        priority=QueuePriority(tmp_path / "leases", rank=1, age=7),
        fragment="main",
    )
    spec = launch_spec(job, engine="snakemake", version="9", mode="warm", grace_seconds=1.5)
    spec = replace(
        spec,
        inputs={"a": [1, None, {"b": "c"}]},
        executor="slurm",
        cluster=Cluster("short", "lab", ("--qos=low",), task_cores=4),
        sandbox=Sandbox(("/data",), ("/b",), ("/scratch",), network=False, program="/bin/bwrap"),
        containers="podman",
        always_contained=True,
    )
    write_spec(job.workspace, spec)
    assert read_spec(job.workspace) == spec
    assert spec.options == {"keep_going": True, "retries": 3}
    assert job.workspace.tasks.is_dir()


def test_parameters_that_the_engine_does_not_allow_are_not_written(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "", parameters={"shell-executable": "sh"})
    spec = launch_spec(job, engine="miniwdl", version="1", mode="local", grace_seconds=1)
    with pytest.raises(InvalidRequest, match="for miniwdl these are allowed"):
        write_spec(job.workspace, spec)
    assert not launch_spec_file(job.workspace).exists()


def test_members_have_the_same_meaning_in_a_file_of_an_earlier_version(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "")
    lease: JsonObject = {"folder": str(tmp_path), "rank": 1, "age": 7}
    old = old_library(tmp_path / "flow.cwl", "cwltool", "3")
    more: JsonObject = {"standing": lease, "containers": "docker", "sandbox": SANDBOX}
    write_old(job, {**old, **more, "inputs": {"x": 1}})
    assert read_spec(job.workspace) == LaunchSpec(
        engine="cwltool",
        version="3",
        mode="docker",
        workflow_file=tmp_path / "flow.cwl",
        resources=Resources(cores=2, memory_mb=100),
        grace_seconds=5.0,
        engine_parameters={"keep_going": "True"},
        inputs={"x": 1},
        priority=QueuePriority(tmp_path, rank=1, age=7),
        sandbox=Sandbox(("/data",), (), ("/scratch",), network=False, private_temporary=True),
        containers="docker",
    )
    assert read_spec(job.workspace).options == {"keep_going": True}
    launch_spec_file(job.workspace).write_text(json.dumps(old_snakemake(tmp_path / "Snakefile")))
    spec = read_spec(job.workspace)
    assert (spec.mode, spec.configured, spec.cluster) == ("cli", False, Cluster())
    options = check_parameters(spec.engine_parameters)
    assert (options.keep_going, options.retries) == (True, 2)


async def resume(job: LaunchRequest) -> None:
    environment = tools_environment({"PATH": os.environ["PATH"]})
    reply = await asyncio.to_thread(start_runner, sys.executable, job.workspace, environment)
    story = await follow(await Launcher(5.0).follow(job.workspace, reply))
    assert story.outcome.exit_code == 0, job.workspace.stderr.read_text()


async def test_a_snakemake_run_of_the_version_before_is_executed(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", "rule a:\n    output: 'a'\n    shell: 'touch {output}'\n")
    write_old(job, old_snakemake(job.workflow_file))
    await resume(job)
    assert (job.workspace.work / "a").exists()


TOOL = (
    "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: [touch, a]\ninputs: []\noutputs: []\n"
)
TASK = "version 1.0\ntask a { command <<< touch a >>> }\n"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        pytest.param(CWL, TOOL, marks=needs_cwltool, id="CWL"),
        pytest.param(WDL, TASK, marks=needs_miniwdl, id="WDL"),
    ],
)
async def test_a_library_run_of_the_version_before_is_executed(
    tmp_path: Path, language: Language, text: str
) -> None:
    job = make_library_job(tmp_path / "run", text, name=language.file)
    write_old(job, old_library(job.workflow_file, language.kind.name, language.version))
    await resume(job)
