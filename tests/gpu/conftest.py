"""Fixtures of tests that need a real GPU. Without one they skip with the reason."""

import os
from pathlib import Path

import pytest
from e2e.conftest import clean_surroundings, serve, spawn, wesemu
from support.cuda import need_cuda_libraries

from wesemu.node import Gpu, Inventory, choose, has_driver, take_inventory

__all__ = ["clean_surroundings", "serve", "spawn", "wesemu"]

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def inventory() -> Inventory:
    """Return NVML's inventory of this machine, with at least one undivided GPU, or skip."""
    if not has_driver():
        pytest.skip("no NVIDIA driver: there is no /dev/nvidiactl")
    found = take_inventory()
    if not any(not gpu.divided for gpu in found.gpus):
        pytest.skip(f"no GPU that can be leased: {found.problem or 'none, or MIG instances only'}")
    return found


@pytest.fixture
def lent(inventory: Inventory) -> tuple[Gpu, ...]:
    """Return the GPUs that a server would lend. A batch system may hide others."""
    found = choose("auto", inventory, visible=os.environ.get("CUDA_VISIBLE_DEVICES")).gpus
    if not found:
        pytest.skip("CUDA_VISIBLE_DEVICES hides every GPU")
    return found


@pytest.fixture
def index(lent: tuple[Gpu, ...]) -> int:
    """Return the index of the last GPU. Of several GPUs, CUDA would use another one by default."""
    return max(gpu.index for gpu in lent)


@pytest.fixture
def cuda(inventory: Inventory) -> None:
    need_cuda_libraries()
