"""Every known failure of pbrun in real runs on a node with GPUs, by a stand-in for pbrun.

Each run ends with the hint in error.json, and publishes nothing."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from support.engine_runs import end_runs
from support.parabricks import Doubles

from wesemu.app import RUNS, create_app
from wesemu.genomics.parabricks.failures import CURES
from wesemu.runs.model import LOCAL_OWNER, Run, RunRequest, RunState
from wesemu.runs.service import RunService
from wesemu.settings import Settings

TESTDATA = Path(__file__).resolve().parents[2] / "testdata" / "diploid"
KINDS = ("driver", "no_gpu", "disk_full", "index", "host_memory", "crash", "other")


@pytest.fixture
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    found = Doubles(tmp_path / "doubles", monkeypatch)
    found.install("pbrun")
    found.set("PBRUN_DOUBLE_FAILURE", "by sample")
    return found


@pytest.fixture
def gpu_settings(tmp_path: Path, doubles: Doubles) -> Settings:
    """Two cores, two GPUs."""
    data = tmp_path / "data"
    fill(data / "buckets" / "genes")
    return Settings.model_validate(
        {"data": data, "node": {"cores": 2, "memory_mb": 200_000, "gpus": [0, 1], "runs": 2}}
    )


@pytest.fixture
async def runs(gpu_settings: Settings) -> AsyncIterator[RunService]:
    data = gpu_settings.data
    app = await create_app(gpu_settings)
    runner = web.AppRunner(app)
    await runner.setup()
    yield app[RUNS]
    await runner.cleanup()
    await asyncio.to_thread(end_runs, data / "runs")


def fill(bucket: Path) -> None:
    bucket.mkdir(parents=True)
    for name in ("reads_1.fq.gz", "reads_2.fq.gz", "reference.fa"):
        shutil.copy(TESTDATA / name, bucket / name)


async def ended(runs: RunService, sample: str) -> Run:
    lane = {mate: f"oss://genes/reads_{n}.fq.gz" for mate, n in (("first", 1), ("second", 2))}
    params = {
        "reads": [lane],
        "reference": "oss://genes/reference.fa",
        "sample": sample,
        "bam": f"oss://genes/{sample}.bam",
    }
    run = await runs.submit(LOCAL_OWNER, RunRequest(workflow_url="mapping", params=params))
    return [seen async for seen in runs.follow(LOCAL_OWNER, run.id)][-1]


async def test_every_known_failure_ends_with_its_cure(
    runs: RunService, tmp_path: Path, doubles: Doubles
) -> None:
    async with asyncio.timeout(120):
        found = await asyncio.gather(*(ended(runs, kind) for kind in KINDS))
    for kind, run in zip(KINDS, found, strict=True):
        assert run.state is RunState.EXECUTOR_ERROR
        error = json.loads((tmp_path / "data/runs" / run.id / "error.json").read_text())
        assert error["hint"] == CURES[kind], kind
        assert error["message"].startswith("pbrun fq2bam ended with exit status")
        assert error["task"] == "fq2bam"
        assert error["stderr"].endswith("fq2bam.log")
        assert error["exit_code"] == {"host_memory": 137, "crash": 139}.get(
            kind, error["exit_code"]
        )
        assert not (tmp_path / f"data/buckets/genes/{kind}.bam").exists()
    # no attempt beyond the first, and each had one of the two cards
    assert len(doubles.calls) == len(KINDS)
    assert {tuple(call["gpus"]) for call in doubles.calls} <= {("0",), ("1",)}


async def test_a_full_card_is_tried_once_more_with_low_memory(
    runs: RunService, tmp_path: Path, doubles: Doubles
) -> None:
    async with asyncio.timeout(120):
        run, never = await asyncio.gather(
            ended(runs, "gpu_memory"), ended(runs, "gpu_memory_always")
        )
    assert run.state is RunState.COMPLETE
    assert (tmp_path / "data/buckets/genes/gpu_memory.bam").exists()
    error = json.loads((tmp_path / "data/runs" / never.id / "error.json").read_text())
    assert error["hint"] == CURES["gpu_memory"]
    flags = sorted("--low-memory" in call["words"] for call in doubles.calls)
    assert flags == [False, False, True, True]
