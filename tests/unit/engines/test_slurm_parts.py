"""Command lines for Slurm, and its output, without Slurm."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.engine_runs import make_job

from wesemu.engines import slurm_task
from wesemu.engines.failures import is_refusal, slurm_hint
from wesemu.engines.slurm import (
    Cluster,
    SlurmResources,
    end_jobs,
    has_accounting,
    job_environment,
    largest_node,
    salloc_argv,
    srun_argv,
    step_argv,
)
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.engines.snakemake.cli_worker import job_log, plugin_argv, plugin_resources, read_job_log
from wesemu.errors import EngineFault
from wesemu.node import NodeSettings

STDERR = Path("/data/runs/r1/tasks/3-1/stderr")
LAB = Cluster("long", "lab7", ("--qos=normal", "--mem-per-cpu=4G"))

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a command on PATH that writes its words into a file and then does as told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, script: str) -> Path:
        told = tmp_path / f"{name}.words"
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "$@" >> {told}\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return told

    return make


def test_srun_for_a_task_that_asks_for_nothing() -> None:
    assert srun_argv(Cluster(), SlurmResources(), name="r1/map-3-1", stderr=STDERR) == [
        "srun",
        "--job-name=r1/map-3-1",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=1",
        "--export=ALL",
        "--input=none",
        "--open-mode=append",
        "--error=/data/runs/r1/tasks/3-1/stderr",
    ]


def test_srun_for_a_task_that_asks_for_much() -> None:
    """The rule's account and memory win over the administrator's."""
    asked = {"slurm_account": "other", "runtime": "90", "gpu_model": "a100", "tmpdir": "/tmp"}
    need = SlurmResources(cores=8, memory_mb=16_000, gpus=2, requested=asked)
    assert srun_argv(LAB, need, name="r1/map-3-1", stderr=Path("/100%/stderr")) == [
        "srun",
        "--qos=normal",
        "--job-name=r1/map-3-1",
        "--partition=long",
        "--account=other",
        "--time=90",
        "--mem=16000M",
        "--gres=gpu:a100:2",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=8",
        "--export=ALL",
        "--input=none",
        "--open-mode=append",
        "--error=/100%%/stderr",
    ]


def test_tasks_of_a_pipe_are_steps_of_one_allocation() -> None:
    assert salloc_argv(LAB, SlurmResources(cores=3), name="r1/group-4") == [
        "salloc",
        "--qos=normal",
        "--mem-per-cpu=4G",
        "--job-name=r1/group-4",
        "--partition=long",
        "--account=lab7",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=3",
        "--no-shell",
    ]
    assert step_argv("42", SlurmResources(cores=0), stderr=STDERR)[:6] == [
        "srun",
        "--jobid=42",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=1",
    ]


def test_a_job_of_the_server_itself_does_not_reach_its_tasks() -> None:
    seen = {"SLURM_JOB_ID": "7", "SLURM_CONF": "/etc/x", "PATH": "/bin", "SLURMD_NODENAME": "n"}
    assert job_environment(seen) == {"SLURM_CONF": "/etc/x", "PATH": "/bin", "SLURMD_NODENAME": "n"}


@pytest.mark.parametrize("option", ["-p", "partition=x", "", "--;"])
def test_options_are_whole_words(option: str) -> None:
    with pytest.raises(ValidationError):
        NodeSettings(slurm_options=[option])


def test_the_plugin_gets_the_options_of_the_cluster() -> None:
    cluster = Cluster("long", "", ("--qos=normal", "--nice=5"), task_cores=32, accounting=False)
    words = plugin_argv("slurm-plugin", cluster, "0b1f.e", 64)
    assert words[:4] == ["--executor", "slurm", "--jobs", "64"]
    assert words[words.index("--slurm-jobname-prefix") + 1] == "0b1f-e"
    assert words[-5:] == [
        *("--slurm-status-command", "squeue", "--max-threads", "32", "--slurm-no-account")
    ]
    assert plugin_resources(cluster) == [
        "slurm_partition='long'",
        "slurm_extra='--qos=normal --nice=5'",
    ]


def test_a_job_log_of_the_plugin_tells_the_exit_status(tmp_path: Path) -> None:
    log = tmp_path / "work/.snakemake/slurm_logs/rule_map/50.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "Shell command: map\nno such index\nRuleException:\n"
        "Command 'map' returned non-zero exit status 3.\nWorkflowError:\nAt least one job failed.\n"
    )
    assert job_log(["/elsewhere/slurm_logs/1.log", "logs/map.log", str(log)], tmp_path) == str(
        log.relative_to(tmp_path)
    )
    assert read_job_log(log) == (3, "no such index")


def test_the_largest_node_is_asked_for(fake: Fake) -> None:
    words = fake("sinfo", "printf '16\\n64\\n16\\n'")
    assert largest_node("long") == 64
    assert words.read_text() == "-h -N -o %c --partition=long\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Unable to contact slurm controller' >&2; exit 1", "does not answer: Unable to"),
        ("exit 0", "no nodes in the partition 'long'"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_reported(fake: Fake, script: str, message: str) -> None:
    fake("sinfo", script)
    with pytest.raises(EngineFault, match=message):
        largest_node("long")


def test_missing_commands_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineFault, match="sinfo is not on PATH"):
        largest_node("")


@pytest.mark.parametrize(
    ("kind", "found"), [("accounting_storage/none", False), ("accounting_storage/slurmdbd", True)]
)
def test_accounting_is_asked_for(fake: Fake, kind: str, found: bool) -> None:
    fake("scontrol", f"echo 'AccountingStorageType   = {kind}'")
    assert has_accounting() is found


def test_only_jobs_of_the_run_are_ended(fake: Fake, tmp_path: Path) -> None:
    """Steps are killed before their jobs are canceled; what is ending already is left alone."""
    work = tmp_path / "a run" / "work"
    lines = [f"11 R {work}", f"12 PD {work}/sub", f"13 R {work}2", f"14 CG {work}", "15 R /"]
    listed = "\n".join(lines)
    queue = fake(
        "squeue",
        f'case "$*" in *--steps*) printf "11.0\\n11.extern\\n";; *) echo "{listed}";; esac',
    )
    canceled = fake("scancel", "")
    assert end_jobs(work) == ["11", "12"]
    assert queue.read_text().splitlines()[1] == "--noheader --steps --jobs=11,12 --format=%i"
    assert canceled.read_text().splitlines() == ["--quiet --signal=KILL 11.0", "--quiet 11 12"]


def test_nothing_is_canceled_where_there_is_nothing(fake: Fake, tmp_path: Path) -> None:
    fake("squeue", "")
    canceled = fake("scancel", "")
    assert end_jobs(tmp_path) == []
    assert not canceled.exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            "slurmstepd-n1: error: *** STEP 5.0 ON n1 CANCELLED AT X DUE TO TIME LIMIT ***",
            "runtime",
        ),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=5.0.", "mem_mb"),
        (
            "srun: error: Unable to allocate resources: Invalid partition name specified",
            "partition",
        ),
        ("srun: error: Unable to allocate resources: Invalid account or account/part", "account"),
        ("srun: error: Unable to contact slurm controller (connect failure)", "slurmctld"),
        ("salloc: error: Requested node configuration is not available", "ask for less"),
        ("wesemu: the node n1 cannot write to the run directory: x", "shared"),
    ],
)
def test_complaints_have_hints(words: str, hint: str) -> None:
    assert hint in (slurm_hint(f"reading the index\n{words}\n") or "")


def test_words_of_tools_have_none() -> None:
    assert slurm_hint("bwa: Invalid partition CANCELLED AT DUE TO TIME LIMIT") is None


def test_refusals_and_ends_are_distinguished() -> None:
    assert is_refusal("srun: error: Unable to allocate resources: Invalid qos specification")
    assert not is_refusal("srun: error: n1: task 0: Exited with exit code 3")


def run_task(report: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", slurm_task.__file__, report, "/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={"SLURMD_NODENAME": "n7", "SLURM_JOB_ID": "42", "PATH": os.environ["PATH"]},
    )


def test_a_task_tells_where_it_ran_and_what_it_used(tmp_path: Path) -> None:
    report = tmp_path / "node.json"
    done = run_task(report, f"cat {report}; echo devices $CUDA_VISIBLE_DEVICES.; exit 3")
    assert done.returncode == 3
    before, devices = done.stdout.splitlines()
    assert devices == "devices ."
    assert set(json.loads(before)) == {"node", "job", "started"}
    facts = json.loads(report.read_text())
    assert (facts["node"], facts["job"]) == ("n7", "42")
    assert facts["cpu_seconds"] >= 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE])
def test_a_task_ended_by_a_signal_tells_it(tmp_path: Path, number: signal.Signals) -> None:
    report = tmp_path / "node.json"
    assert run_task(report, f"kill -{number.value} $$").returncode == 128 + number
    assert "cpu_seconds" in json.loads(report.read_text())


def test_a_task_that_cannot_see_the_run_directory_runs_nothing(tmp_path: Path) -> None:
    done = run_task(tmp_path / "nowhere" / "node.json", f"touch {tmp_path}/ran")
    assert done.returncode == 121
    assert "the node n7 cannot write to the run directory" in done.stderr
    assert not (tmp_path / "ran").exists()


async def test_srun_needs_the_warm_mode(tmp_path: Path) -> None:
    engine = SnakemakeEngine("cli", executor="slurm")
    job = make_job(tmp_path / "run", "rule a:\n    shell: 'true'")
    with pytest.raises(EngineFault, match=r"needs engine\.snakemake"):
        await engine.launch(job)
    await engine.close()


async def test_warming_asks_slurm_until_it_has_answered_and_launches_ask_anew(
    fake: Fake, tmp_path: Path
) -> None:
    """A server warms its engine before each launch."""
    engine = SnakemakeEngine(executor="slurm")
    asked = fake("sinfo", "exit 1")
    for _ in range(2):
        with pytest.raises(EngineFault, match="Slurm does not answer"):
            await engine.warm()
    assert len(asked.read_text().splitlines()) == 2
    asked.unlink()
    fake("sinfo", "echo 2")
    for _ in range(2):
        await engine.warm()
    assert len(asked.read_text().splitlines()) == 1
    fake("sinfo", "exit 1")
    with pytest.raises(EngineFault, match="Slurm does not answer"):
        await engine.launch(make_job(tmp_path / "run", "rule a:\n    shell: 'true'"))
    assert len(asked.read_text().splitlines()) == 2
    await engine.close()
