"""`python -m wesemu.genomics.gpu_selftest READS --report FILE`: does this GPU count rightly?

Counts bases and qualities of a FASTQ by a CUDA kernel and by the CPU, compares them exactly, and
writes a report (JSON; docs/gpu.md). Ends with status 0 if they are equal, 1 if they are not, 2 if
there is no GPU to try or the reads are no FASTQ.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import cuda

from wesemu.errors import InputError, WesemuError
from wesemu.genomics.fastq_file import FastqFile, Unreadable

# Histograms of bases and qualities of reads, in all and by cycle; counted here by the CPU.


VALUES = 256
"""Every byte has its bin."""

_PHRED = 33
_ALPHABET: Any = np.frombuffer(b"ACGTN", np.uint8)
_SHARES = (0.29, 0.21, 0.21, 0.289, 0.001)
_CHUNK = 50_000

Array = Any


@dataclass(frozen=True, slots=True)
class Reads:
    """All reads, end to end: `bases` are the letters, `qualities` the Phred scores (uint8, one a
    base); read i is from `starts[i]` to `starts[i + 1]` (int64)."""

    bases: Array
    qualities: Array
    starts: Array

    @property
    def count(self) -> int:
        return len(self.starts) - 1

    @property
    def longest(self) -> int:
        return int(np.diff(self.starts).max(initial=0))


@dataclass(frozen=True, slots=True)
class Histograms:
    """int64 counts: of each letter and of each quality (256 bins), and by cycle (from 0) how many
    bases there are and the sum of their qualities."""

    bases: Array
    qualities: Array
    cycle_bases: Array
    cycle_qualities: Array

    def differences(self, other: "Histograms") -> list[str]:
        """The names of the tables that are not equal, with the first bin that is not."""
        told = []
        for name in ("bases", "qualities", "cycle_bases", "cycle_qualities"):
            mine, theirs = getattr(self, name), getattr(other, name)
            wrong = np.flatnonzero(mine != theirs)
            if len(wrong):
                bin_ = int(wrong[0])
                told.append(f"{name}[{bin_}]: {int(mine[bin_])}, {int(theirs[bin_])}")
        return told


def load(path: Path) -> Reads:
    """All reads of a FASTQ, plain or gzip. Raises InputError."""
    file = FastqFile(str(path))
    bases, qualities, starts = bytearray(), bytearray(), [0]
    try:
        for record in file.records():
            bases += record[1]
            qualities += record[2]
            starts.append(len(bases))
    except Unreadable as error:
        raise error.located(len(starts) - 1) from error
    finally:
        file.close()
    return Reads(
        np.frombuffer(bytes(bases), np.uint8),
        np.frombuffer(bytes(qualities), np.uint8) - np.uint8(_PHRED),
        np.array(starts, np.int64),
    )


def count(reads: Reads) -> Histograms:
    """On the CPU, by numpy."""
    cycles = np.arange(len(reads.bases)) - np.repeat(reads.starts[:-1], np.diff(reads.starts))
    sums: Array = np.zeros(reads.longest, np.int64)
    np.add.at(sums, cycles, reads.qualities)
    return Histograms(
        np.bincount(reads.bases, minlength=VALUES),
        np.bincount(reads.qualities, minlength=VALUES),
        np.bincount(cycles, minlength=reads.longest),
        sums,
    )


def write_random(path: Path, reads: int, length: int = 150, seed: int = 1) -> None:
    """A FASTQ of so many reads with the letters and qualities of a sequencer, always the same."""
    draws = np.random.default_rng(seed)
    with path.open("wb") as file:
        for first in range(0, reads, _CHUNK):
            file.writelines(_records(draws, first, min(_CHUNK, reads - first), length))


def _records(draws: Any, first: int, reads: int, length: int) -> Iterator[bytes]:
    letters = draws.choice(_ALPHABET, (reads, length), p=_SHARES).astype(np.uint8)
    falling: Array = 37 - np.arange(length) * 12 // max(1, length)
    scores = np.clip(falling + draws.integers(-6, 4, (reads, length)), 2, 40) + _PHRED
    scores = scores.astype(np.uint8)
    for number in range(reads):
        sequence, quality = letters[number].tobytes(), scores[number].tobytes()
        yield b"@r%d\n%b\n+\n%b\n" % (first + number, sequence, quality)


# The histograms of `histograms`, counted by a CUDA kernel through numba-cuda (extra `cuda`).


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


_UNABLE = 2
_MISSING = 'numba-cuda cannot be loaded ({error}); pip install "wesemu[cuda]"'
_NO_COMPILER = (
    "CUDA finds a GPU, and numba-cuda no compiler (NVVM) for it; "
    'pip install "wesemu[cuda]", or "numba-cuda[cu13]" for drivers from 580 on'
)
_NO_GPU = (
    "CUDA finds no GPU here (CUDA_VISIBLE_DEVICES={visible!r}); `wesemu doctor --gpu` tells what "
    "the driver sees"
)


class NoGpu(Exception):
    """There is nothing to try: the sentence says why, and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m wesemu.genomics.gpu_selftest")
    parser.add_argument("reads", type=Path)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        report = examine(options.reads)
    except (NoGpu, WesemuError) as error:
        sys.stderr.write(f"gpu_selftest: {error}\n")
        return _UNABLE
    options.report.write_text(json.dumps(report, indent=1) + "\n")
    sys.stderr.write(f"{summary(report)}\n")
    return 0 if report["equal"] else 1


def examine(path: Path) -> dict[str, Any]:
    """The report on the reads of a FASTQ. Raises NoGpu, InputError."""
    try:
        from numba import cuda
    except (ImportError, OSError, RuntimeError) as error:
        # numba-cuda looks for libcudart at import and raises a RuntimeError where there is none
        raise NoGpu(_MISSING.format(error=error)) from error
    if not cuda.is_available():
        raise NoGpu(gpu_problem(cuda))
    facts = device()
    began = time.perf_counter()
    reads = load(path)
    if not reads.count:
        raise InputError(f"{path}: there are no reads in it; give some", file=str(path))
    loaded = time.perf_counter()
    expected = count(reads)
    counted = time.perf_counter()
    timed = count_on_device(reads)
    differences = timed.histograms.differences(expected)
    return {
        "simulated": SIMULATED,
        "device": asdict(facts),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "reads": reads.count,
        "bases": len(reads.bases),
        "equal": not differences,
        "differences": differences,
        "seconds": {
            "load": round(loaded - began, 6),
            "cpu": round(counted - loaded, 6),
            "to_device": round(timed.to_device, 6),
            "compile": round(timed.compile, 6),
            "kernel": round(timed.kernel, 6),
            "to_host": round(timed.to_host, 6),
        },
        **_tables(timed.histograms),
    }


def gpu_problem(cuda: Any) -> str:
    """Why the module `numba.cuda` says that it is not available: there is no GPU, or only nothing
    to compile for it with."""
    if cuda.cudadrv.driver.driver.is_available:
        return _NO_COMPILER
    return _NO_GPU.format(visible=os.environ.get("CUDA_VISIBLE_DEVICES"))


def summary(report: dict[str, Any]) -> str:
    """One line for people."""
    seconds = report["seconds"]
    verdict = "equal to the CPU's" if report["equal"] else "NOT EQUAL to the CPU's"
    where = "SIMULATED, no GPU" if report["simulated"] else report["device"]["name"]
    return (
        f"{where}: {report['bases']:,} bases, figures {verdict}; kernel "
        f"{seconds['kernel'] * 1000:.2f} ms, transfers "
        f"{(seconds['to_device'] + seconds['to_host']) * 1000:.2f} ms, CPU "
        f"{seconds['cpu'] * 1000:.2f} ms"
    )


def _tables(counted: Any) -> dict[str, Any]:
    """Only bins that are not empty; letters as letters."""
    cycles = zip(counted.cycle_qualities.tolist(), counted.cycle_bases.tolist(), strict=True)
    return {
        "base_histogram": {
            chr(value): number for value, number in enumerate(counted.bases.tolist()) if number
        },
        "quality_histogram": {
            str(value): number for value, number in enumerate(counted.qualities.tolist()) if number
        },
        "mean_quality_by_cycle": [round(total / number, 3) for total, number in cycles],
    }


if __name__ == "__main__":
    sys.exit(main())
