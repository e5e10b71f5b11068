"""What needs a real GPU; skipped, with the reason, where there is none."""

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
    """What NVML tells of this machine; at least one GPU that can be used as a whole."""
    if not has_driver():
        pytest.skip("no NVIDIA driver: there is no /dev/nvidiactl")
    found = take_inventory()
    if not any(not gpu.divided for gpu in found.gpus):
        pytest.skip(f"no GPU that can be leased: {found.problem or 'none, or MIG instances only'}")
    return found


@pytest.fixture
def lent(inventory: Inventory) -> tuple[Gpu, ...]:
    """Those that a server of this environment lends: a batch system may have hidden others."""
    found = choose("auto", inventory, visible=os.environ.get("CUDA_VISIBLE_DEVICES")).gpus
    if not found:
        pytest.skip("CUDA_VISIBLE_DEVICES hides every GPU")
    return found


@pytest.fixture
def index(lent: tuple[Gpu, ...]) -> int:
    """The last of the GPUs: where there are several, not the one that CUDA would take itself."""
    return max(gpu.index for gpu in lent)


@pytest.fixture
def cuda(inventory: Inventory) -> None:
    need_cuda_libraries()
