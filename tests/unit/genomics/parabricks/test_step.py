"""Refused and failed steps of Parabricks: reasons in the fault file."""

import json
from pathlib import Path

import pytest
from support.parabricks import IMAGE, Doubles

from wesemu.genomics.align import BAD_INPUT
from wesemu.genomics.parabricks.__main__ import NOT_STARTED, main
from wesemu.genomics.parabricks.failures import CURES
from wesemu.genomics.parabricks.step import container_name


@pytest.fixture
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    found = Doubles(tmp_path / "doubles", monkeypatch)
    found.set("PATH", f"{found.folder}:/usr/bin:/bin")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    for suffix in ("", ".fai"):
        Path(f"genome.fa{suffix}").write_text(">a\n")
    return found


def call(caller: str = "haplotypecaller", **settings: object) -> int:
    words = ["call", "--caller", caller, "--vcf", "v.vcf", "--bam", "a.bam"]
    words += ["--reference", "genome.fa", "--fault", "fault.json"]
    return main([*words, "--settings", json.dumps(settings)])


def fault() -> dict[str, str]:
    return json.loads(Path("fault.json").read_text())


def test_no_pbrun_and_no_image(doubles: Doubles) -> None:
    assert call() == NOT_STARTED
    assert fault()["kind"] == "image"
    assert "parabricks.image" in fault()["hint"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("0, 143771, 525.60.13, H100", "driver"),
        ("0, 8192, 580.65.06, RTX 3070", "gpu_memory"),
        ("", "no_gpu"),
    ],
)
def test_what_nvidia_smi_says_is_held_against_the_needs(doubles, answer: str, kind: str) -> None:
    doubles.install("pbrun")
    doubles.set("DOCKER_DOUBLE_SMI", answer)
    assert call() == NOT_STARTED
    assert fault()["kind"] == kind
    assert doubles.calls == []
    assert not list(Path().glob(".parabricks-*"))


def test_without_a_lease_on_a_gpu_nothing_starts(doubles: Doubles) -> None:
    doubles.install("pbrun")
    doubles.set("CUDA_VISIBLE_DEVICES", "")
    assert call() == NOT_STARTED
    assert fault()["message"] == "no GPU was leased to this task"


def test_a_step_that_succeeds_without_its_output_is_reported(doubles: Doubles) -> None:
    (doubles.folder / "pbrun").write_text("#!/bin/sh\necho 'pbrun: 4.7.1-1'\n")
    (doubles.folder / "pbrun").chmod(0o755)
    assert call() == NOT_STARTED
    assert fault()["message"] == "pbrun succeeded but wrote no calls.vcf.gz (it wrote: nothing)"


def test_the_fault_of_another_step_stays(doubles: Doubles) -> None:
    (doubles.folder / "pbrun").write_text(
        "#!/bin/sh\n[ $1 = version ] || for last; do [ $got ] && break; "
        '[ "$last" = --out-variants ] && got=1; done\n[ $1 = version ] || echo x > "$last"\n'
    )
    (doubles.folder / "pbrun").chmod(0o755)
    for step, left in (("deepvariant", True), ("haplotypecaller", False)):
        Path("fault.json").write_text(json.dumps({"step": step}))
        assert call() == 0
        assert Path("v.vcf").read_text() == "x\n"
        assert Path("fault.json").exists() == left


def test_a_reference_without_its_index_is_reported(doubles: Doubles) -> None:
    doubles.install("pbrun")
    Path("genome.fa.fai").unlink()
    assert call() == BAD_INPUT
    assert "no .fai beside it" in fault()["message"]
    assert fault()["hint"] == CURES["index"]


def test_an_image_that_is_not_there_is_reported(doubles: Doubles) -> None:
    doubles.install("docker")
    assert call(image="x:4.7.1-1") == NOT_STARTED
    assert fault()["message"] == "docker has no image x:4.7.1-1 here"
    doubles.set("DOCKER_DOUBLE_GPUS", "0")
    assert call(image=IMAGE) == NOT_STARTED
    assert fault()["kind"] == "no_gpu"


def test_every_attempt_at_a_step_has_the_same_container() -> None:
    one = container_name(Path("/runs/1/work"), "fq2bam")
    assert one == container_name(Path("/runs/1/work"), "fq2bam")
    assert one != container_name(Path("/runs/2/work"), "fq2bam")
    assert one.startswith("wesemu-")
    assert one.endswith("-fq2bam")
