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
"""Cycles counted in the shared memory of a block; later cycles are counted in global memory."""


@dataclass(frozen=True, slots=True)
class Timed:
    """The GPU's histograms, and the seconds of each part. `compile` is the first launch, which
    includes numba's compilation; `kernel` is the second launch."""

    histograms: Histograms
    to_device: float
    compile: float
    kernel: float
    to_host: float


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """The GPU that this process uses."""

    name: str
    uuid: str | None
    compute_capability: str | None


def device() -> DeviceFacts:
    """Describe the current GPU. Raises numba's CudaSupportError without one."""
    if SIMULATED:
        return DeviceFacts("numba's CUDA simulator (no GPU)", None, None)
    current = cuda.get_current_device()
    name = current.name.decode() if isinstance(current.name, bytes) else str(current.name)
    major, minor = current.compute_capability
    return DeviceFacts(name, str(current.uuid), f"{major}.{minor}")


def count_on_device(reads: Reads) -> Timed:
    """Count on the first GPU that is visible to this process."""
    began = time.perf_counter()
    arrays = [cuda.to_device(each) for each in (reads.bases, reads.qualities, reads.starts)]
    cuda.synchronize()
    to_device = time.perf_counter() - began
    compiled, _ = _launch(arrays, reads)
    kernel, tables = _launch(arrays, reads)
    began = time.perf_counter()
    counted = Histograms(*(table.copy_to_host() for table in tables))
    return Timed(counted, to_device, compiled, kernel, time.perf_counter() - began)


def _launch(arrays: list[Any], reads: Reads) -> tuple[float, list[Any]]:
    """Return the seconds of the kernel alone, and its tables on the device."""
    lengths = (VALUES, VALUES, reads.longest, reads.longest)
    tables = [cuda.to_device(np.zeros(length, np.int64)) for length in lengths]
    blocks, threads = (_BLOCKS, _THREADS)
    if SIMULATED:
        blocks, threads = (_SIMULATED_BLOCKS, _SIMULATED_THREADS)
    cuda.synchronize()
    began = time.perf_counter()
    _kernel[blocks, threads](*arrays, *tables)
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
    """CUDA kernel: blocks share out the reads, and the threads of a block the cycles of a read.

    A block counts in its shared memory, where atomic additions are fast, and adds its counts to the
    global tables at the end.
    """
    shared_bases = cuda.shared.array(VALUES, numba.int32)
    shared_qualities = cuda.shared.array(VALUES, numba.int32)
    shared_cycles = cuda.shared.array(_CYCLES, numba.int32)
    shared_sums = cuda.shared.array(_CYCLES, numba.int32)
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    for value in range(thread, VALUES, threads):
        shared_bases[value] = 0
        shared_qualities[value] = 0
    for cycle in range(thread, _CYCLES, threads):
        shared_cycles[cycle] = 0
        shared_sums[cycle] = 0
    cuda.syncthreads()
    for read in range(cuda.blockIdx.x, starts.shape[0] - 1, cuda.gridDim.x):
        start = starts[read]
        for cycle in range(thread, starts[read + 1] - start, threads):
            base, quality = bases[start + cycle], qualities[start + cycle]
            cuda.atomic.add(shared_bases, base, 1)
            cuda.atomic.add(shared_qualities, quality, 1)
            if cycle < _CYCLES:
                cuda.atomic.add(shared_cycles, cycle, 1)
                cuda.atomic.add(shared_sums, cycle, np.int32(quality))
            else:
                cuda.atomic.add(cycle_table, cycle, np.int64(1))
                cuda.atomic.add(sum_table, cycle, np.int64(quality))
    cuda.syncthreads()
    for value in range(thread, VALUES, threads):
        cuda.atomic.add(base_table, value, np.int64(shared_bases[value]))
        cuda.atomic.add(quality_table, value, np.int64(shared_qualities[value]))
    for cycle in range(thread, min(_CYCLES, cycle_table.shape[0]), threads):
        cuda.atomic.add(cycle_table, cycle, np.int64(shared_cycles[cycle]))
        cuda.atomic.add(sum_table, cycle, np.int64(shared_sums[cycle]))


_kernel = cuda.jit(_count_reads)
