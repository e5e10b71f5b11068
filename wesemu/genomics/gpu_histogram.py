"""The histograms of `histograms`, counted by a CUDA kernel with numba-cuda (extra `cuda`).

Importing this module raises ImportError, OSError or RuntimeError where numba-cuda cannot load.
"""

import time
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import cuda

from wesemu.genomics.histograms import VALUES, Histograms, Reads

SIMULATED = bool(numba.config.ENABLE_CUDASIM)

_THREADS = 128
_BLOCKS = 2048
_SIMULATED_THREADS = 8
_SIMULATED_BLOCKS = 2
_CYCLES = 512
"""So many cycles are counted in the block's own memory, further ones in the GPU's."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What the GPU counted, and the seconds that each part took; `compile` is the first launch,
    which numba compiles for, `kernel` the second one."""

    histograms: Histograms
    to_device: float
    compile: float
    kernel: float
    to_host: float


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """The device that this process counts on."""

    name: str
    uuid: str | None
    compute_capability: str | None


def device() -> DeviceFacts:
    """Raises numba's CudaSupportError where there is none."""
    if SIMULATED:
        return DeviceFacts("numba's CUDA simulator (no GPU)", None, None)
    current = cuda.get_current_device()
    name = current.name.decode() if isinstance(current.name, bytes) else str(current.name)
    major, minor = current.compute_capability
    return DeviceFacts(name, str(current.uuid), f"{major}.{minor}")


def count_on_device(reads: Reads) -> Timed:
    """On the GPU that this process sees first."""
    began = time.perf_counter()
    given = [cuda.to_device(each) for each in (reads.bases, reads.qualities, reads.starts)]
    cuda.synchronize()
    to_device = time.perf_counter() - began
    compiled, _ = _launch(given, reads)
    kernel, tables = _launch(given, reads)
    began = time.perf_counter()
    counted = Histograms(*(table.copy_to_host() for table in tables))
    return Timed(counted, to_device, compiled, kernel, time.perf_counter() - began)


def _launch(given: list[Any], reads: Reads) -> tuple[float, list[Any]]:
    """Seconds of the kernel alone, and its tables, on the device."""
    lengths = (VALUES, VALUES, reads.longest, reads.longest)
    tables = [cuda.to_device(np.zeros(length, np.int64)) for length in lengths]
    blocks, threads = (_BLOCKS, _THREADS)
    if SIMULATED:
        blocks, threads = (_SIMULATED_BLOCKS, _SIMULATED_THREADS)
    cuda.synchronize()
    began = time.perf_counter()
    _kernel[blocks, threads](*given, *tables)
    cuda.synchronize()
    return time.perf_counter() - began, tables


def _count_reads(
    bases: Any,
    qualities: Any,
    starts: Any,
    base_table: Any,
    quality_table: Any,
    cycle_table: Any,
    sum_table: Any,
) -> None:
    """A block takes every so manieth read, its threads the read's cycles; what a block has
    counted in its own memory is added to the tables at the end."""
    near_bases = cuda.shared.array(VALUES, numba.int32)
    near_qualities = cuda.shared.array(VALUES, numba.int32)
    near_cycles = cuda.shared.array(_CYCLES, numba.int32)
    near_sums = cuda.shared.array(_CYCLES, numba.int32)
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    for value in range(thread, VALUES, threads):
        near_bases[value] = 0
        near_qualities[value] = 0
    for cycle in range(thread, _CYCLES, threads):
        near_cycles[cycle] = 0
        near_sums[cycle] = 0
    cuda.syncthreads()
    for read in range(cuda.blockIdx.x, starts.shape[0] - 1, cuda.gridDim.x):
        start = starts[read]
        for cycle in range(thread, starts[read + 1] - start, threads):
            base, quality = bases[start + cycle], qualities[start + cycle]
            cuda.atomic.add(near_bases, base, 1)
            cuda.atomic.add(near_qualities, quality, 1)
            if cycle < _CYCLES:
                cuda.atomic.add(near_cycles, cycle, 1)
                cuda.atomic.add(near_sums, cycle, np.int32(quality))
            else:
                cuda.atomic.add(cycle_table, cycle, np.int64(1))
                cuda.atomic.add(sum_table, cycle, np.int64(quality))
    cuda.syncthreads()
    for value in range(thread, VALUES, threads):
        cuda.atomic.add(base_table, value, np.int64(near_bases[value]))
        cuda.atomic.add(quality_table, value, np.int64(near_qualities[value]))
    for cycle in range(thread, min(_CYCLES, cycle_table.shape[0]), threads):
        cuda.atomic.add(cycle_table, cycle, np.int64(near_cycles[cycle]))
        cuda.atomic.add(sum_table, cycle, np.int64(near_sums[cycle]))


_kernel = cuda.jit(_count_reads)
