"""`wesemu doctor --gpu`: what is found, what is missing, and what to do."""

from pathlib import Path

import pytest
from inventory_double import Card, NvmlDouble

from wesemu.cli.doctor import Finding
from wesemu.cli.doctor_gpu import examine_gpus, selftest
from wesemu.gpus import Inventory, take_inventory
from wesemu.settings import NodeSettings
from wesemu.wiring.core import pipelines_folder


@pytest.fixture(autouse=True)
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def looking(*cards: Card, error: int | None = None) -> Inventory:
    return take_inventory(lambda: NvmlDouble(*cards, error=error))


def findings(settings: NodeSettings, *cards: Card, error: int | None = None) -> list[Finding]:
    return list(examine_gpus(settings, lambda: looking(*cards, error=error)))


def test_each_gpu_is_told() -> None:
    driver, gpu = findings(NodeSettings(), Card("NVIDIA H200", 143_771, 143_000))
    assert driver == Finding("GPU driver", "580.95.05, CUDA up to 13.0", "NVML")
    assert gpu == Finding("GPU 0", "NVIDIA H200, 143771 MiB, 143000 free", "GPU-000-double")


def test_what_is_not_lent_is_told_and_none_at_all_is_missing() -> None:
    settings = NodeSettings(lend_busy_gpus=False)
    _, note, none = findings(settings, Card(processes=[(4242, 5)]))
    assert "used by others (pid 4242); it is not lent" in note.found
    assert note.ok
    assert none == Finding("GPUs", "none is lent", "node.gpus", ok=False)


def test_a_gpu_that_our_own_tasks_use_is_no_strangers() -> None:
    busy = looking(Card("A10G", 100, 50, processes=[(4242, 5)]))
    _, gpu = examine_gpus(NodeSettings(lend_busy_gpus=False), lambda: busy, ours={0})
    assert gpu.found == "A10G, 100 MiB, 50 free, 1 processes, leased now"


def test_a_broken_driver_is_told_once_with_its_cure() -> None:
    driver, none = findings(NodeSettings(), error=18)
    assert (driver.ok, none.ok) == (False, False)
    assert "restart the machine" in driver.source


def test_a_declared_gpu_says_that_it_was_declared() -> None:
    settings = NodeSettings(gpus=1)
    driver, gpu = findings(settings, error=12)
    assert not driver.ok
    assert gpu == Finding("GPU 0", "of unknown kind", "declared in node.gpus")


def test_the_self_test_is_not_done_without_a_gpu_and_says_what_to_do() -> None:
    for settings in (NodeSettings(), NodeSettings(gpus=2)):
        [told] = selftest(settings, pipelines_folder(), lambda: looking(error=12))
        assert not told.ok
        assert told.found.startswith("not tried: there is no GPU")
        assert "install NVIDIA's driver" in told.source


def test_a_simulated_self_test_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole workflow runs, on numba's simulator: told as such, and not as a GPU that works."""
    pytest.importorskip("numba.cuda", reason="the extra cuda is not installed")
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    looks = selftest(NodeSettings(), pipelines_folder(), lambda: looking(Card()), reads=20)
    [told] = looks
    assert told.name == "self-test GPU 0"
    assert told.found.startswith("SIMULATED, no GPU: 3,000 bases, figures equal to the CPU's")
    assert not told.ok


def test_a_self_test_that_fails_tells_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The driver's library tells of a card that CUDA then does not find."""
    pytest.importorskip("numba.cuda", reason="the extra cuda is not installed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    missing = 99  # no machine has this one
    looks = selftest(
        NodeSettings(gpus=[missing]),
        pipelines_folder(),
        lambda: looking(*[Card()] * (missing + 1)),
        reads=20,
    )
    [told] = looks
    assert not told.ok
    assert "CUDA finds no GPU here (CUDA_VISIBLE_DEVICES='99')" in told.found
