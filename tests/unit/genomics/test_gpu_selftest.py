"""Histograms of bases and qualities: the CPU's compared with plain counting, the CUDA kernel's with
the CPU's in numba's simulator, which is not a GPU."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.cuda import need_cuda_libraries, need_numba_cuda

from wesemu.errors import InputError
from wesemu.genomics.gpu_selftest import gpu_problem, summary

pytestmark = pytest.mark.usefixtures("numba_cuda")

LONG = 700
READS = [("ACGTN", "!I#5~"), ("AC", "II"), ("G" * LONG, "?" * LONG), ("T", "!")]
"""One longer than the cycles that a block counts in its own memory."""


@pytest.fixture(scope="module")
def numba_cuda() -> None:
    need_numba_cuda()


@pytest.fixture
def fastq(tmp_path: Path) -> Path:
    path = tmp_path / "reads of mine.fq"
    lines = [f"@{number}\n{read[0]}\n+\n{read[1]}\n" for number, read in enumerate(READS)]
    path.write_text("".join(lines))
    return path


def run(
    *words: object, simulate: bool = True, python_path: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
    environment |= {"PYTHONPATH": str(python_path)} if python_path else {}
    environment |= {"NUMBA_ENABLE_CUDASIM": "1"} if simulate else {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", "wesemu.genomics.gpu_selftest", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def plain_counts() -> dict[str, Any]:
    cycles: dict[int, list[int]] = {}
    for _, qualities in READS:
        for cycle, letter in enumerate(qualities):
            cycles.setdefault(cycle, []).append(ord(letter) - 33)
    letters = Counter("".join(read for read, _ in READS))
    scores = Counter(ord(letter) - 33 for _, qualities in READS for letter in qualities)
    return {
        "base_histogram": dict(letters),
        "quality_histogram": {str(score): number for score, number in scores.items()},
        "mean_quality_by_cycle": [
            round(sum(cycles[cycle]) / len(cycles[cycle]), 3) for cycle in range(LONG)
        ],
    }


def test_the_kernel_counts_what_plain_python_counts(fastq: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(fastq, "--report", report)
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert {name: told[name] for name in plain_counts()} == plain_counts()
    assert (told["reads"], told["bases"], told["equal"]) == (4, 8 + LONG, True)
    assert told["differences"] == []


def test_the_simulator_is_never_called_a_gpu(fastq: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(fastq, "--report", report)
    told = json.loads(report.read_text())
    assert told["simulated"] is True
    assert told["device"]["name"] == "numba's CUDA simulator (no GPU)"
    assert done.stderr.startswith("SIMULATED, no GPU: ")


def test_without_a_gpu_it_says_so_and_reports_nothing(fastq: Path, tmp_path: Path) -> None:
    need_cuda_libraries()
    done = run(fastq, "--report", tmp_path / "report.json", simulate=False)
    assert done.returncode == 2
    assert "CUDA finds no GPU here (CUDA_VISIBLE_DEVICES='')" in done.stderr
    assert "wesemu doctor --gpu" in done.stderr
    assert not (tmp_path / "report.json").exists()


def test_libraries_that_numba_cuda_misses_are_reported(fastq: Path, tmp_path: Path) -> None:
    """numba-cuda raises an error of its own while it is imported."""
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba/__init__.py").write_text("raise RuntimeError('no libcudart.so.13')\n")
    report = tmp_path / "report.json"
    done = run(fastq, "--report", report, simulate=False, python_path=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "gpu_selftest: numba-cuda cannot be loaded (no libcudart.so.13); "
        'pip install "wesemu[cuda]"\n'
    )
    assert not report.exists()


@pytest.mark.parametrize(
    ("driver", "told"), [(False, "CUDA finds no GPU here"), (True, 'pip install "wesemu[cuda]"')]
)
def test_a_missing_compiler_is_not_called_a_missing_gpu(driver: bool, told: str) -> None:
    module = SimpleNamespace(driver=SimpleNamespace(driver=SimpleNamespace(is_available=driver)))
    assert told in gpu_problem(SimpleNamespace(cudadrv=module))


COMPILE = """
import numba
from cuda.bindings import nvjitlink
from numba import cuda, types
from wesemu.genomics.gpu_histogram import SIMULATED, _count_reads

assert not SIMULATED
numbers, letters = types.int64[::1], types.uint8[::1]
kernel = types.void(letters, letters, numbers, numbers, numbers, numbers, numbers)
for major, minor in ((7, 5), (8, 0), (9, 0), (10, 0), (12, 0)):
    ptx, _ = cuda.compile(
        _count_reads, kernel, cc=(major, minor), output="ptx", device=False, abi="numba"
    )
    link = nvjitlink.create(1, [f"-arch=sm_{major}{minor}"])
    nvjitlink.add_data(link, nvjitlink.InputType.PTX, ptx.encode(), len(ptx), "kernel")
    nvjitlink.complete(link)
    print(f"sm_{major}{minor}", nvjitlink.get_linked_cubin_size(link) > 0)
"""


def test_the_kernel_compiles_for_real_cards_where_there_is_a_compiler() -> None:
    """To machine code, as at its first launch, which needs no GPU."""
    for wheel in ("nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"):
        try:
            metadata.version(wheel)
        except metadata.PackageNotFoundError:
            pytest.skip(f'no {wheel}: pip install "wesemu[cuda]"')
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
    words = [sys.executable, "-c", COMPILE]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        word for name in (75, 80, 90, 100, 120) for word in (f"sm_{name}", "True")
    ]


def test_a_file_that_is_no_fastq_is_reported(tmp_path: Path) -> None:
    wrong, empty = tmp_path / "a.fa", tmp_path / "empty.fq"
    wrong.write_text(">chr1\nACGT\n")
    empty.touch()
    done = run(wrong, "--report", tmp_path / "report.json")
    assert (done.returncode, "not FASTQ" in done.stderr) == (2, True)
    done = run(empty, "--report", tmp_path / "report.json")
    assert (done.returncode, "there are no reads" in done.stderr) == (2, True)


def test_a_cut_file_is_reported_with_its_record(fastq: Path) -> None:
    from wesemu.genomics.histograms import load

    fastq.write_text(fastq.read_text() + "@cut\nACGT\n")
    with pytest.raises(InputError) as caught:
        load(fastq)
    assert caught.value.record == len(READS) + 1


def test_one_wrong_count_is_a_difference(fastq: Path) -> None:
    from wesemu.genomics.histograms import count, load

    right, wrong = count(load(fastq)), count(load(fastq))
    assert right.differences(wrong) == []
    wrong.qualities[30] += 1
    wrong.cycle_bases[LONG - 1] = 7
    assert right.differences(wrong) == ["qualities[30]: 700, 701", "cycle_bases[699]: 1, 7"]


def test_random_reads_are_always_the_same(tmp_path: Path) -> None:
    from wesemu.genomics.histograms import count, load, write_random

    for name in ("a.fq", "b.fq"):
        write_random(tmp_path / name, 100, length=40)
    assert (tmp_path / "a.fq").read_bytes() == (tmp_path / "b.fq").read_bytes()
    reads = load(tmp_path / "a.fq")
    assert (reads.count, reads.longest, len(reads.bases)) == (100, 40, 4000)
    assert int(count(reads).bases.sum()) == 4000


def test_a_summary_says_which_figures_are_wrong() -> None:
    seconds = {"kernel": 0.001, "to_device": 0.002, "to_host": 0.0005, "cpu": 0.1}
    report = {"simulated": False, "device": {"name": "NVIDIA H200"}, "bases": 1_500_000}
    assert summary(report | {"equal": True, "seconds": seconds}) == (
        "NVIDIA H200: 1,500,000 bases, figures equal to the CPU's; kernel 1.00 ms, "
        "transfers 2.50 ms, CPU 100.00 ms"
    )
    assert "NOT EQUAL" in summary(report | {"equal": False, "seconds": seconds})
