"""What this machine offers: found, or declared in the settings."""

import pytest

from wesemu.engines.tickets import devices_environment
from wesemu.nodes import detect
from wesemu.runs.model import Resources
from wesemu.settings import Settings


def test_what_is_declared_stands() -> None:
    node = detect(8, 64_000, gpus=[1, 3], runs=5)
    assert node.resources == Resources(cores=8, memory_mb=64_000, gpus=2)
    assert (node.devices, node.runs) == ((1, 3), 5)


def test_what_is_not_declared_is_found() -> None:
    node = detect()
    assert node.cores >= 1
    assert node.memory_mb > 0
    assert node.devices == ()


def test_a_number_of_gpus_means_the_first_ones() -> None:
    assert detect(gpus=2).devices == (0, 1)


@pytest.mark.parametrize(
    ("cores", "memory_mb", "runs"), [(1, 64_000, 4), (16, 64_000, 32), (16, 1024, 4), (4, 100, 1)]
)
def test_active_runs_follow_from_cores_and_memory(cores: int, memory_mb: int, runs: int) -> None:
    assert detect(cores, memory_mb).runs == runs


@pytest.mark.parametrize(("text", "gpus"), [("2", 2), ("[0, 3]", [0, 3])])
def test_gpus_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, gpus: int | list[int]
) -> None:
    monkeypatch.setenv("WESEMU_NODE__GPUS", text)
    assert Settings().node.gpus == gpus


def test_a_task_without_gpus_is_told_that_there_are_none() -> None:
    assert devices_environment([]) == {"CUDA_VISIBLE_DEVICES": ""}
