"""Self-test of a GPU: `python -m wesemu.genomics.gpu_selftest READS --report FILE`.

Counts bases and qualities of a FASTQ with a CUDA kernel and on the CPU, compares the counts
exactly, and writes a report (JSON; docs/gpu.md). numba is imported only for the test.

Exit status: 0 the counts are equal; 1 they differ; 2 no usable GPU, or the reads are not FASTQ.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wesemu.errors import InputError, WesemuError

_UNABLE = 2
_MISSING = 'numba-cuda cannot be loaded ({error}); pip install "wesemu[cuda]"'
_NO_COMPILER = (
    "CUDA finds a GPU, and numba-cuda no compiler (NVVM) for it; "
    'pip install "wesemu[cuda]", or "numba-cuda[cu13]" for drivers from 580 on'
)
_NO_GPU = (
    "CUDA finds no GPU here (CUDA_VISIBLE_DEVICES={visible!r}); `wesemu doctor --gpu` shows what "
    "the driver sees"
)


class NoGpu(Exception):
    """There is no usable GPU; the message says why, and what to do."""


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
    """Return the report on the reads of a FASTQ. Raises NoGpu, InputError."""
    try:
        from numba import cuda

        from wesemu.genomics import gpu_histogram, histograms
    except (ImportError, OSError, RuntimeError) as error:
        # at import numba-cuda raises RuntimeError if it finds no libcudart
        raise NoGpu(_MISSING.format(error=error)) from error
    if not cuda.is_available():
        raise NoGpu(gpu_problem(cuda))
    facts = gpu_histogram.device()
    began = time.perf_counter()
    reads = histograms.load(path)
    if not reads.count:
        raise InputError(f"{path}: there are no reads in it; give some", file=str(path))
    loaded = time.perf_counter()
    expected = histograms.count(reads)
    counted = time.perf_counter()
    timed = gpu_histogram.count_on_device(reads)
    differences = timed.histograms.differences(expected)
    return {
        "simulated": gpu_histogram.SIMULATED,
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
    """Return why the module `numba.cuda` is not available: no GPU, or no compiler."""
    if cuda.cudadrv.driver.driver.is_available:
        return _NO_COMPILER
    return _NO_GPU.format(visible=os.environ.get("CUDA_VISIBLE_DEVICES"))


def summary(report: dict[str, Any]) -> str:
    """Return the report as one line of text."""
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
    """Return the bins that are not empty, with letters as keys for the bases."""
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
