"""Skips tests that need numba-cuda, or CUDA's own libraries as well."""

import functools
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest


def need_numba_cuda() -> None:
    """Skip unless numba's simulator works. Some versions need CUDA's libraries for it."""
    _need(simulator=True)


def need_cuda_libraries() -> None:
    """Skip unless CUDA's libraries are installed. A GPU is not required."""
    _need(simulator=False)


def _need(*, simulator: bool) -> None:
    if find_spec("numba_cuda") is None or find_spec("numpy") is None:
        pytest.skip('no numba-cuda: pip install "wesemu[cuda]"')
    if problem := _import_problem(simulator=simulator):
        pytest.skip(f'no libraries of CUDA: pip install "wesemu[cuda]" ({problem})')


@functools.cache
def _import_problem(*, simulator: bool) -> str:
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
    environment |= {"NUMBA_ENABLE_CUDASIM": "1"} if simulator else {}
    argv = [sys.executable, "-c", "import numba.cuda"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2][:200] if done.returncode else ""
