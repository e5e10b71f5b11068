"""The workflow gpu-selftest in numba's simulator: it passes the linters, and runs under a lease."""

import asyncio
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import yaml
from support.cuda import need_numba_cuda
from support.engine_runs import follow, make_job

from wesemu.engines.lease_queue import Capacity
from wesemu.engines.leases import declare
from wesemu.engines.snakemake import SnakemakeEngine
from wesemu.runs.model import Resources
from wesemu.runs.ports import QueuePriority

FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "gpu-selftest"
SNAKEFILE = FOLDER / "workflow" / "Snakefile"
SCHEMA = FOLDER / "workflow" / "schemas" / "config.schema.yaml"
READ = "@r\nACGTA\n+\nIIII!\n"


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parents[1])}
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, check=False
    )


def test_it_is_clean_by_snakemakes_own_measures(tmp_path: Path) -> None:
    done = run(
        *("snakemake", "--lint", "-s", str(SNAKEFILE), "--directory", str(tmp_path)),
        *("--config", "reads=reads.fq"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("snakefmt", "--check", str(SNAKEFILE))
    assert done.returncode == 0, done.stderr


def test_every_key_is_documented() -> None:
    readme = (FOLDER / "config" / "README.md").read_text()
    keys = set(yaml.safe_load(SCHEMA.read_text())["properties"])
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == keys


async def test_it_runs_under_a_lease_and_sees_that_gpu_alone(tmp_path: Path) -> None:
    need_numba_cuda()
    await asyncio.to_thread(declare, tmp_path / "leases", Capacity(cores=1, devices=(3,)))
    names = ["schemas/config.schema.yaml", "envs/gpu.yaml"]
    job = make_job(tmp_path / "run", SNAKEFILE.read_text(), resources=Resources(cores=1, gpus=1))
    for name in names:
        target = job.workspace.attachments / name
        target.parent.mkdir()
        target.write_text((SNAKEFILE.parent / name).read_text())
    (tmp_path / "reads.fq").write_text(READ)
    job = replace(
        job,
        config={"reads": str(tmp_path / "reads.fq")},
        priority=QueuePriority(tmp_path / "leases", rank=2, age=1),
    )
    engine = SnakemakeEngine(environment={"NUMBA_ENABLE_CUDASIM": "1"})
    try:
        story = await follow(await engine.launch(job), seconds=120)
    finally:
        await engine.close()
    assert story.outcome.exit_code == 0, story.failures
    path = job.workspace.work / "results" / "gpu.json"
    told = json.loads(await asyncio.to_thread(path.read_text))
    assert (told["equal"], told["simulated"], told["visible_devices"]) == (True, True, "3")
    assert told["base_histogram"] == {"A": 2, "C": 1, "G": 1, "T": 1}
