"""GPUs found by a double of NVML or declared, and the choice of those for tasks."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.nvml import Card, NvmlDouble

from wesemu.composition import choose_gpus
from wesemu.node import (
    Gpu,
    GpuProcess,
    GpuSettings,
    Inventory,
    NodeSettings,
    choose,
    has_driver,
    take_inventory,
)


def inventory(*cards: Card, **options: Any) -> Inventory:
    nvml = NvmlDouble(*cards, **options)
    found = take_inventory(lambda: nvml)
    assert nvml.open == 0
    return found


@pytest.mark.parametrize("old", [False, True])
def test_all_that_is_known_of_a_card(old: bool) -> None:
    busy = Card("NVIDIA H200", 143_771, 143_000, divided=False, processes=[(7, 512), (8, None)])
    found = inventory(busy, Card(divided=True), old=old)
    assert (found.driver, found.cuda, found.problem) == ("580.95.05", "13.0", None)
    first, second = found.gpus
    assert first == Gpu(
        index=0,
        name="NVIDIA H200",
        uuid="GPU-000-double",
        memory_mb=143_771,
        free_mb=143_000,
        driver="580.95.05",
        processes=(GpuProcess(7, 512), GpuProcess(8)),
    )
    assert (second.index, second.divided) == (1, True)
    assert str(first) == "GPU 0, NVIDIA H200, 143771 MiB"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (4, "permissions of /dev/nvidia"),
        (9, "modprobe nvidia"),
        (12, "libnvidia-ml.so.1"),
        (18, "different versions"),
        (999, "nvidia-smi"),
    ],
)
def test_a_problem_is_reported_with_its_cure(error: int, advice: str) -> None:
    found = inventory(Card(), error=error)
    assert found.gpus == ()
    assert found.problem is not None
    assert advice in found.problem


def test_a_lost_card_hides_no_other() -> None:
    found = inventory(Card(), Card(error=15), Card())
    assert [gpu.index for gpu in found.gpus] == [0, 2]
    assert found.problem is not None
    assert found.problem.startswith("GPU 1 does not answer")
    assert "restart the machine" in found.problem


def test_a_missing_package_is_named() -> None:
    def load() -> Any:
        raise ImportError("no pynvml")

    found = take_inventory(load)
    assert found.problem is not None
    assert 'pip install "wesemu[cuda]"' in found.problem


def test_the_real_library_fails_with_an_advice_where_there_is_no_driver() -> None:
    """The module's real names, against which the double is held."""
    pytest.importorskip("pynvml", reason="the extra cuda is not installed")
    if has_driver():
        pytest.skip("there is a driver")
    found = take_inventory()
    assert found.gpus == ()
    assert found.problem is not None
    assert "libnvidia-ml.so.1 is not there" in found.problem


def test_the_double_has_no_name_that_pynvml_lacks() -> None:
    pynvml = pytest.importorskip("pynvml", reason="the extra cuda is not installed")
    own = {"NOT_SUPPORTED", "open"}
    names = {name for name in dir(NvmlDouble()) if not name.startswith("_")} - own
    assert names <= set(dir(pynvml))
    assert pynvml.NVML_DEVICE_MIG_ENABLE == NvmlDouble.NVML_DEVICE_MIG_ENABLE
    assert pynvml.NVML_ERROR_GPU_IS_LOST == NvmlDouble.NVML_ERROR_GPU_IS_LOST
    assert pynvml.NVML_ERROR_NOT_SUPPORTED == NvmlDouble.NOT_SUPPORTED


TWO = inventory(Card(memory_mb=16_000), Card(memory_mb=80_000))


def indexes(gpus: tuple[Gpu, ...]) -> list[int]:
    return [gpu.index for gpu in gpus]


def test_auto_lends_what_is_found() -> None:
    chosen = choose("auto", TWO)
    assert (chosen.gpus, chosen.notes) == (TWO.gpus, ())


@pytest.mark.parametrize(
    ("visible", "lent"),
    [
        ("1", [1]),
        ("1,0", [0, 1]),
        ("GPU-111", [1]),
        ("", []),
        ("-1", []),
        ("0,nonsense,1", [0]),
        ("7", []),
    ],
)
def test_auto_lends_no_more_than_the_server_itself_may_see(visible: str, lent: list[int]) -> None:
    chosen = choose("auto", TWO, visible=visible)
    assert indexes(chosen.gpus) == lent
    hidden = [f"CUDA_VISIBLE_DEVICES={visible} hides {2 - len(lent)} GPUs from this server"]
    assert list(chosen.notes) == (hidden if len(lent) < 2 else [])


def test_what_is_declared_stands_and_is_completed_by_what_is_found() -> None:
    assert choose(2, Inventory()).gpus == (Gpu(0), Gpu(1))
    assert choose([1], TWO).gpus == (TWO.gpus[1],)
    [gpu] = choose([Gpu(0, name="declared", memory_mb=1)], TWO).gpus
    assert (gpu.name, gpu.memory_mb, gpu.uuid) == ("declared", 1, "GPU-000-double")


def test_a_declared_gpu_that_does_not_exist_is_reported() -> None:
    chosen = choose([0, 5], TWO)
    assert indexes(chosen.gpus) == [0, 5]
    assert chosen.notes == ("GPU 5 of the setting node.gpus is not there: this machine has 0, 1",)


@pytest.mark.parametrize("wanted", ["auto", [0, 1]])
def test_a_busy_gpu_is_reported_and_with_the_setting_not_leased(wanted: Any) -> None:
    found = inventory(Card(processes=[(4242, 100)]), Card())
    lent = choose(wanted, found)
    assert indexes(lent.gpus) == [0, 1]
    assert "used by others (pid 4242); tasks may use it, too" in lent.notes[0]
    spared = choose(wanted, found, lend_busy=False)
    assert indexes(spared.gpus) == [1]
    assert "used by others (pid 4242); tasks may not use it" in spared.notes[0]


def test_our_own_tasks_are_no_strangers() -> None:
    """After a restart of the server they still compute, under their leases."""
    found = inventory(Card(processes=[(4242, 100)]))
    chosen = choose("auto", found, lend_busy=False, ours={0})
    assert (indexes(chosen.gpus), chosen.notes) == ([0], ())


def test_a_divided_gpu_is_reported_and_not_leased() -> None:
    chosen = choose("auto", inventory(Card(divided=True), Card(divided=False)))
    assert indexes(chosen.gpus) == [1]
    assert "(MIG)" in chosen.notes[0]


def test_a_problem_is_reported() -> None:
    chosen = choose("auto", inventory(error=18))
    assert chosen.gpus == ()
    assert "different versions" in chosen.notes[0]


def never() -> Inventory:
    raise AssertionError("nobody should look")


def test_nobody_looks_where_it_is_not_wanted() -> None:
    assert choose_gpus(NodeSettings(gpus=0), look=never).gpus == ()
    assert choose_gpus(NodeSettings(executor="slurm"), look=never).gpus == ()


def test_tables_in_the_settings_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tables = [GpuSettings(index=2, name="A10G", memory_mb=24_000, driver="535.1")]
    chosen = choose_gpus(NodeSettings(gpus=tables), look=Inventory)
    assert chosen.gpus == (Gpu(2, name="A10G", memory_mb=24_000, driver="535.1"),)


def test_a_driver_is_seen_by_its_device(tmp_path: Path) -> None:
    assert not has_driver(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert has_driver(tmp_path)


def test_the_server_loads_no_gpu_library() -> None:
    """What is not there must not cost start-up time, nor be needed."""
    # what the libraries' own hooks load in every Python is not ours
    code = "import sys; before = {*sys.modules}; import wesemu.app; print({*sys.modules} - before)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded = set(ast.literal_eval(told))
    assert "wesemu.node" in loaded
    assert not loaded & {"pynvml", "numba", "numpy", "cuda"}
