"""`wesemu doctor --gpu`: findings and advice."""

from pathlib import Path

import pytest
from support.cuda import need_cuda_libraries, need_numba_cuda
from support.nvml import Card, NvmlDouble
from support.parabricks import IMAGE, Doubles

from wesemu.cli.doctor import HealthCheck
from wesemu.cli.gpu import check_gpus, check_parabricks, run_selftests
from wesemu.core import pipelines_folder
from wesemu.node import Inventory, NodeSettings, take_inventory
from wesemu.settings import ParabricksSettings


@pytest.fixture(autouse=True)
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def looking(*cards: Card, error: int | None = None) -> Inventory:
    return take_inventory(lambda: NvmlDouble(*cards, error=error))


def findings(settings: NodeSettings, *cards: Card, error: int | None = None) -> list[HealthCheck]:
    return list(check_gpus(settings, lambda: looking(*cards, error=error)))


def test_each_gpu_is_listed() -> None:
    driver, gpu = findings(NodeSettings(), Card("NVIDIA H200", 143_771, 143_000))
    assert driver == HealthCheck("GPU driver", "580.95.05, CUDA up to 13.0", "NVML")
    assert gpu == HealthCheck("GPU 0", "NVIDIA H200, 143771 MiB, 143000 free", "GPU-000-double")


def test_gpus_that_are_not_leased_are_listed_and_none_at_all_is_missing() -> None:
    settings = NodeSettings(lend_busy_gpus=False)
    _, note, none = findings(settings, Card(processes=[(4242, 5)]))
    assert "used by others (pid 4242); tasks may not use it" in note.found
    assert (note.ok, note.state) == (True, "CHECK")
    assert none == HealthCheck("GPUs", "tasks may use none", "node.gpus", ok=False)


def test_a_gpu_that_our_own_tasks_use_is_no_strangers() -> None:
    busy = looking(Card("A10G", 100, 50, processes=[(4242, 5)]))
    _, gpu = check_gpus(NodeSettings(lend_busy_gpus=False), lambda: busy, in_use={0})
    assert gpu.found == "A10G, 100 MiB, 50 free, 1 processes, leased now"


def test_a_broken_driver_is_reported_once_with_its_cure() -> None:
    driver, none = findings(NodeSettings(), error=18)
    assert (driver.ok, none.ok) == (False, False)
    assert "restart the machine" in driver.source


def test_a_declared_gpu_says_that_it_was_declared() -> None:
    settings = NodeSettings(gpus=1)
    driver, gpu = findings(settings, error=12)
    assert not driver.ok
    assert gpu == HealthCheck("GPU 0", "of unknown kind", "declared in node.gpus")


def parabricks(data: Path, **settings: str) -> dict[str, HealthCheck]:
    given = ParabricksSettings.model_validate(settings)
    return {finding.name: finding for finding in check_parabricks(given, data)}


def test_all_that_a_step_of_parabricks_looks_at_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubles = Doubles(tmp_path / "doubles", monkeypatch)
    doubles.install("docker", "pbrun")
    told = parabricks(tmp_path / "data" / "new", runtime="docker", image=IMAGE)
    subjects = ("runtime", "image", "gpu", "version", "driver", "low memory", "host memory")
    assert [*told] == [f"Parabricks {each}" for each in (*subjects, "temporary space")]
    assert all(finding.ok for finding in told.values())
    assert f" GB free in {tmp_path}; " in told["Parabricks temporary space"].found
    doubles.set("DOCKER_DOUBLE_GPUS", "0")
    told = parabricks(tmp_path, runtime="docker", image=IMAGE)
    assert "could not select device driver" in told["Parabricks gpu"].found
    assert "NVIDIA Container Toolkit" in told["Parabricks gpu"].source


def test_a_temporary_folder_that_is_not_there_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Doubles(tmp_path / "doubles", monkeypatch).install("pbrun")
    told = parabricks(tmp_path, temporary=str(tmp_path / "none"))["Parabricks temporary space"]
    assert (told.ok, told.found) == (False, f"{tmp_path / 'none'} is not a writable folder")


def test_no_parabricks_or_one_that_is_not_wanted_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Doubles(tmp_path / "doubles", monkeypatch).install("pbrun")
    [(name, told)] = parabricks(tmp_path, runtime="none").items()
    assert (name, told.ok) == ("Parabricks", True)
    assert told.found == "none: the setting parabricks.runtime is none"


def test_the_self_test_is_not_done_without_a_gpu_and_says_what_to_do() -> None:
    for settings in (NodeSettings(), NodeSettings(gpus=2)):
        [told] = run_selftests(settings, pipelines_folder(), lambda: looking(error=12))
        assert not told.ok
        assert told.found.startswith("not run: no GPU is both found")
        assert "install NVIDIA's driver" in told.source


def test_a_simulated_self_test_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole workflow runs, on numba's simulator: told as such, and not as a GPU that works."""
    need_numba_cuda()
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    looks = run_selftests(NodeSettings(), pipelines_folder(), lambda: looking(Card()), reads=20)
    [told] = looks
    assert told.name == "self-test GPU 0"
    assert told.found.startswith("SIMULATED, no GPU: 3,000 bases, figures equal to the CPU's")
    assert not told.ok


def test_a_self_test_that_fails_tells_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The driver's library tells of a card that CUDA then does not find."""
    need_cuda_libraries()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    missing = 99  # no machine has this one
    looks = run_selftests(
        NodeSettings(gpus=[missing]),
        pipelines_folder(),
        lambda: looking(*[Card()] * (missing + 1)),
        reads=20,
    )
    [told] = looks
    assert not told.ok
    assert "CUDA finds no GPU here (CUDA_VISIBLE_DEVICES='99')" in told.found
