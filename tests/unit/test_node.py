"""The resources of this machine: detected, or from the settings."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from wesemu.engines.lease_queue import devices_environment
from wesemu.node import Gpu, GpuSettings, cpu_quota, detect
from wesemu.runs.model import Resources
from wesemu.settings import Settings


def test_what_is_declared_stands() -> None:
    node = detect(8, 64_000, gpus=[Gpu(1), Gpu(3)], runs=5)
    assert node.resources == Resources(cores=8, memory_mb=64_000, gpus=2)
    assert (node.devices, node.runs) == ((1, 3), 5)


def test_what_is_not_declared_is_found() -> None:
    node = detect()
    assert node.cores >= 1
    assert node.memory_mb > 0
    assert node.devices == ()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_the_quota_of_a_container_limits_the_cores(
    tmp_path: Path, files: Mapping[str, str], cores: int | None
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("cores", "memory_mb", "runs"), [(1, 64_000, 4), (16, 64_000, 32), (16, 1024, 4), (4, 100, 1)]
)
def test_active_runs_follow_from_cores_and_memory(cores: int, memory_mb: int, runs: int) -> None:
    assert detect(cores, memory_mb).runs == runs


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("auto", "auto"),
        ("2", 2),
        ("[0, 3]", [0, 3]),
        ('[{"index": 0, "memory_mb": 16000}]', [GpuSettings(index=0, memory_mb=16000)]),
    ],
)
def test_gpus_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, gpus: object) -> None:
    monkeypatch.setenv("WESEMU_NODE__GPUS", text)
    assert Settings().node.gpus == gpus


def test_a_task_without_gpus_sees_none() -> None:
    assert devices_environment([])["CUDA_VISIBLE_DEVICES"] == ""


def test_a_task_counts_its_gpus_as_nvidia_smi_does() -> None:
    """CUDA's own order is by speed: index 1 would be another card in a box with two kinds."""
    told = devices_environment([1, 3])
    assert told == {"CUDA_VISIBLE_DEVICES": "1,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_the_memory_that_every_gpu_has() -> None:
    cards = [Gpu(0, memory_mb=16_000, driver="580.1"), Gpu(1, memory_mb=80_000)]
    assert detect(gpus=cards).gpu_memory_mb == 16_000
    assert detect(gpus=cards).gpu_driver == "580.1"
    assert detect(gpus=[*cards, Gpu(2)]).gpu_memory_mb is None
    assert detect().gpu_memory_mb is None


@pytest.mark.parametrize("gpus", ["[0, 0]", '[{"index": 1}, {"index": 1}]', "-1", "all"])
def test_gpus_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    monkeypatch.setenv("WESEMU_NODE__GPUS", gpus)
    with pytest.raises(ValueError, match="gpus"):
        Settings()
