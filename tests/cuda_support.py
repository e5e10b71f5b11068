"""Skips tests that need numba-cuda, or CUDA's own libraries as well."""

import functools
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest


def need_numba_cuda() -> None:
    """Enough for numba's simulator."""
    if find_spec("numba_cuda") is None or find_spec("numpy") is None:
        pytest.skip('no numba-cuda: pip install "wesemu[cuda]"')


def need_cuda_libraries() -> None:
    """For what runs without the simulator; no GPU is needed for that."""
    need_numba_cuda()
    if problem := _import_problem():
        pytest.skip(f'no libraries of CUDA: pip install "wesemu[cuda]" ({problem})')


@functools.cache
def _import_problem() -> str:
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
    words = [sys.executable, "-c", "import numba.cuda"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2][:200] if done.returncode else ""
