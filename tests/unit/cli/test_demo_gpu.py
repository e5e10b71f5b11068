"""`wesemu demo --node cuda`: how it uses the GPUs and Parabricks of the machine."""

import json
from pathlib import Path

import pytest
from support.nvml import Card, NvmlDouble
from support.parabricks import IMAGE, Doubles

from wesemu.cli import gpu
from wesemu.cli.gpu import cuda_node
from wesemu.demo.run import CudaNode
from wesemu.errors import SystemFault
from wesemu.node import Inventory, NodeSettings, take_inventory
from wesemu.settings import ParabricksSettings, Settings


@pytest.fixture(autouse=True)
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    """All cards can be seen; of Parabricks there is what a test installs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "find_spec", lambda name: name)
    return Doubles(tmp_path / "doubles", monkeypatch)


def found(*cards: Card, **parabricks: str) -> CudaNode:
    settings = Settings(
        node=NodeSettings(gpus="auto"), parabricks=ParabricksSettings.model_validate(parabricks)
    )
    return cuda_node(settings, lambda: take_inventory(lambda: NvmlDouble(*cards)))


def runtime(node: CudaNode) -> str:
    return str(json.loads(node.settings["WESEMU_PARABRICKS"])["runtime"])


H200 = Card("NVIDIA H200", 143_771, 143_000)


def test_parabricks_is_used_natively_and_in_docker(doubles: Doubles) -> None:
    doubles.install("docker")
    assert found(H200, image=IMAGE).selftest is None
    doubles.install("pbrun")
    node = found(H200)
    assert (node.selftest, runtime(node)) == (None, "auto")
    given = json.loads(node.settings["WESEMU_NODE"])
    assert given == {"gpus": "auto", "lend_busy_gpus": True, "default": "cuda"}


def test_a_parabricks_that_cannot_run_here_is_reported_and_not_used(
    doubles: Doubles, capsys: pytest.CaptureFixture[str]
) -> None:
    doubles.install("pbrun")
    doubles.set("DOCKER_DOUBLE_SMI", "")
    node = found(Card("NVIDIA T400", 4_096, 4_000))
    assert runtime(node) == "none"
    assert node.selftest is not None
    assert node.selftest.reads == 100_000
    assert "4096 MiB; Parabricks needs 16 GB" in capsys.readouterr().err


def test_an_image_that_is_not_there_is_no_parabricks(doubles: Doubles) -> None:
    doubles.install("docker")
    assert found(H200, image="nvcr.io/nvidia/clara/clara-parabricks:9.9").selftest is not None


def test_the_image_is_found_from_another_folder(
    doubles: Doubles, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubles.install("apptainer")
    monkeypatch.chdir(doubles.folder)
    given = json.loads(found(H200, image=doubles.image.name).settings["WESEMU_PARABRICKS"])
    assert given["image"] == str(doubles.image)


def test_without_a_gpu_the_reason_and_a_remedy_are_reported() -> None:
    with pytest.raises(SystemFault, match=r"no GPU: NVML .*restart the machine.*on the CPU"):
        cuda_node(Settings(), lambda: take_inventory(lambda: NvmlDouble(error=18)))
    with pytest.raises(SystemFault, match=r"divided into instances.*`wesemu doctor --gpu`"):
        found(Card("NVIDIA H100", 81_559, 81_000, divided=True))
    with pytest.raises(SystemFault, match=r"there is no NVIDIA driver"):
        cuda_node(Settings(), Inventory)
    with pytest.raises(SystemFault, match=r"the setting node.gpus allows none"):
        cuda_node(Settings(node=NodeSettings(gpus=0)), Inventory)


def test_the_demo_s_tasks_are_this_machine_s_whatever_the_executor() -> None:
    settings = Settings(node=NodeSettings(executor="slurm"))
    node = cuda_node(settings, lambda: take_inventory(lambda: NvmlDouble(H200)))
    assert "executor" not in json.loads(node.settings["WESEMU_NODE"])


def test_with_nothing_that_would_use_the_gpu_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    with pytest.raises(SystemFault, match=r'pip install "wesemu\[cuda\]"'):
        found(H200)
