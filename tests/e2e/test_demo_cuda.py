"""`wesemu demo --node cuda` on a declared GPU, with a stand-in for Parabricks or numba's simulator.

tests/gpu has the test on a real GPU."""

import re
from pathlib import Path

import pytest
from support.cuda import need_numba_cuda
from support.parabricks import Doubles

from wesemu.cli.output import ExitStatus

CARD = '[{"index": 3, "name": "NVIDIA H100", "memory_mb": 81559, "driver": "580.65.06"}]'
CHECKS = 18
"""Of the demo on the CPU."""


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WESEMU_NODE__GPUS", CARD)


@pytest.fixture
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    found = Doubles(tmp_path / "doubles", monkeypatch)
    found.install("pbrun")
    return found


def checks(told: str) -> dict[str, tuple[bool, str]]:
    """By name: whether it was right, and what was found."""
    lines = re.findall(r"^  (ok|WRONG) +(\S.*?)  +(.*)$", told, re.MULTILINE)
    return {name: (mark == "ok", found) for mark, name, found in lines}


def test_parabricks_carries_the_same_demo_out(wesemu, declared: None, doubles: Doubles) -> None:
    ended = wesemu("demo", "--node", "cuda", "--no-keep", timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = checks(ended.stdout)
    assert len(found) == CHECKS + 1
    assert all(right for right, _ in found.values())
    assert found["node"][1] == "cuda, by AGS and WES, for 4 of 4 runs; 4 by Parabricks"
    assert "records' sha256" in found["wgs.vcf.gz"][1]
    steps = [call["words"][0] for call in doubles.calls]
    assert (steps.count("fq2bam"), steps.count("haplotypecaller")) == (4, 2)
    assert {tuple(call["gpus"]) for call in doubles.calls} == {("3",)}


def test_without_parabricks_the_self_test_uses_the_gpu(
    wesemu, declared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_numba_cuda()
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    monkeypatch.setenv("WESEMU_PARABRICKS__RUNTIME", "none")
    ended = wesemu("demo", "--node", "cuda", "--no-keep", timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "no Parabricks for the demo: the setting parabricks.runtime is none" in ended.stderr
    found = checks(ended.stdout)
    assert len(found) == CHECKS + 2
    assert all(right for right, _ in found.values())
    assert "for 4 of 4 runs; asked for cuda, but there is no Parabricks" in found["node"][1]
    assert found["GPU self-test"][1].startswith("SIMULATED, no GPU: ")
    assert "figures equal" in found["GPU self-test"][1]


def test_where_there_is_no_gpu_it_says_what_to_do_and_makes_nothing(
    wesemu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WESEMU_NODE__GPUS", "0")
    ended = wesemu("demo", "--node", "cuda")
    assert (ended.returncode, ended.stdout) == (ExitStatus.MACHINE, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("wesemu: the demo finds no GPU: ")
    assert "wesemu doctor --gpu" in line
    assert list((tmp_path / "temporary").iterdir()) == []
