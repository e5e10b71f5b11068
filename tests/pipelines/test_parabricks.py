"""Runs on a GPU, with stand-ins for Parabricks, equal those on the CPU."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pysam
import pytest
from support.parabricks import IMAGE, Doubles
from support.waiting import eventually

from wesemu.genomics.reference import ReferenceStore

CUDA = {"accelerator": "cuda", "gpus": 1}


@pytest.fixture
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    return Doubles(tmp_path / "doubles", monkeypatch)


def records(bam: Path) -> list[str]:
    with pysam.AlignmentFile(str(bam)) as file:
        return [read.to_string() for read in file.fetch(until_eof=True)]


def lines(vcf: Path) -> list[str]:
    with pysam.BGZFile(str(vcf)) as file:
        return [line.decode() for line in file if not line.startswith(b"#")]


def same_reports(one: Path, two: Path) -> None:
    for name in ("flagstat.json", "flagstat.txt", "idxstats.txt", "stats.txt", "reads.json"):
        assert (one / name).read_text() == (two / name).read_text(), name


def summary(results: Path) -> dict:
    return json.loads((results / "summary.json").read_text())


@pytest.fixture(scope="module")
def whole(fixture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Two lanes, one with a read group of its own, and a gVCF."""
    folder = tmp_path_factory.mktemp("lane2")
    shutil.copytree(fixture_folder, folder, dirs_exist_ok=True)
    lane, other = (
        {mate: str(place / f"reads_{n}.fq.gz") for n, mate in ((1, "first"), (2, "second"))}
        for place in (fixture_folder, folder)
    )
    named = other | {"read_group": "@RG\tID:other\tPL:ILLUMINA"}
    return {
        "reads": [lane, named],
        "reference": str(fixture_folder / "reference.fa"),
        "gvcf": True,
        "optical_distance": 100,
    }


@pytest.fixture(scope="module")
def cpu(whole, shared_workflow) -> Path:
    """What the CPU makes of it."""
    return shared_workflow("wgs").succeed(whole)


def test_wgs_equals_the_cpus(workflow, whole, cpu, doubles):
    doubles.install("pbrun")
    run = workflow("wgs", "cuda")
    cuda = run.succeed(whole | CUDA)
    assert records(cuda / "aligned.bam") == records(cpu / "aligned.bam")
    same_reports(cuda, cpu)
    for name in ("calls.vcf.gz", "calls.g.vcf.gz"):
        assert lines(cuda / name) == lines(cpu / name) != []
        assert (cuda / f"{name}.tbi").exists()
    ours, theirs = summary(cuda), summary(cpu)
    for part in ("reads", "alignment", "duplicates", "insert_size", "coverage", "warnings"):
        assert ours[part] == theirs[part], part
    assert ours["variants"] == theirs["variants"] | {"caller": "haplotypecaller"}
    assert ours["tools"]["parabricks"] == "4.8.0"
    assert ours["tools"]["haplotypecaller"] == "parabricks 4.8.0"
    steps = [call["words"][0] for call in doubles.calls]
    assert sorted(steps) == ["fq2bam", "haplotypecaller", "haplotypecaller"]
    left = {path.name for path in run.directory.iterdir()}
    assert left == {".snakemake", "config.yaml", "logs", "resources", "results"}
    assert str(run.directory) not in str(pysam.VariantFile(str(cuda / "calls.vcf.gz")).header)


@pytest.mark.parametrize("runtime", ["docker", "apptainer"])
def test_in_a_container_the_results_are_the_same(workflow, whole, cpu, doubles, runtime):
    doubles.install("pbrun", runtime)
    image = IMAGE if runtime == "docker" else str(doubles.image)
    doubles.set("CUDA_VISIBLE_DEVICES", "1,0")
    parabricks = {"runtime": runtime, "image": image, "temporary": str(doubles.folder)}
    gpu = {"accelerator": "cuda", "gpus": 2, "parabricks": parabricks}
    cuda = workflow("wgs", "cuda").succeed(whole | gpu | {"caller": "deepvariant"})
    assert records(cuda / "aligned.bam") == records(cpu / "aligned.bam")
    same_reports(cuda, cpu)
    for name in ("calls.vcf.gz", "calls.g.vcf.gz"):
        assert lines(cuda / name) == lines(cpu / name)
    seen = ["0", "1"] if runtime == "docker" else ["1", "0"]
    assert [(call["words"][0], call["gpus"]) for call in doubles.calls] == [
        ("fq2bam", seen),
        ("deepvariant", seen),
    ]
    assert not list(doubles.containers.iterdir())
    assert not list(doubles.folder.glob("wesemu-*"))


def test_without_markdup_and_with_a_caller_of_the_cpu(workflow, config, doubles):
    doubles.install("pbrun")
    config |= {"markdup": False, "caller": "bcftools"}
    cuda = workflow("wgs", "cuda").succeed(config | CUDA)
    cpu = workflow("wgs", "cpu").succeed(config)
    assert records(cuda / "aligned.bam") == records(cpu / "aligned.bam")
    assert lines(cuda / "calls.vcf.gz") == lines(cpu / "calls.vcf.gz")
    same_reports(cuda, cpu)
    assert not (cuda / "markdup.json").exists()
    assert summary(cuda)["variants"]["caller"] == "bcftools"
    (call,) = doubles.calls
    assert call["words"][0] == "fq2bam"
    assert "--no-markdups" in call["words"]
    assert "--out-duplicate-metrics" not in call["words"]


def test_a_gpu_caller_needs_the_gpu(workflow, config):
    done = workflow("wgs").run(config | {"caller": "haplotypecaller"})
    assert done.returncode != 0
    assert "Error validating config file" in done.stderr


def test_a_bam_that_was_cut_does_not_count(workflow, config, doubles):
    doubles.install("pbrun")
    doubles.set("PBRUN_DOUBLE_FAILURE", "cut_bam")
    run = workflow("mapping")
    assert run.run(config | CUDA).returncode != 0
    assert not (run.directory / "results/summary.json").exists()


@pytest.fixture
def start(config: dict[str, object], tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the mapping step alone in the folder `step`, as its rule does."""

    def run(settings: dict[str, object], *lanes: tuple[str, ...]) -> subprocess.Popen[bytes]:
        store = ReferenceStore(tmp_path / "references", tmp_path / "cache")
        fasta = store.ready(Path(config["reference"]))
        words = [sys.executable, "-P", "-m", "wesemu.genomics.parabricks", "fq2bam"]
        words += ["--settings", json.dumps(settings), "--reference", str(fasta)]
        for number, reads in enumerate(lanes or [config["reads"][0].values()]):
            words += ["--reads", *reads]
            words += ["--read-group", f"@RG\\tID:{number}\\tSM:a\\tLB:a\\tPL:a\\tPU:a"]
        words += ["--bam", "again.bam"]
        words += ["--counts", "c.json", "--error", "e.json", "--fault", "f.json"]
        (tmp_path / "step").mkdir()
        return subprocess.Popen(words, cwd=tmp_path / "step", stderr=subprocess.DEVNULL)

    return run


def test_many_lanes_are_mapped_from_a_list(start, doubles, tmp_path, fixture_folder):
    doubles.install("pbrun")
    lanes = []
    for mate in ("1", "2"):
        with pysam.FastxFile(str(fixture_folder / f"reads_{mate}.fq.gz")) as reads:
            texts = [f"{read}\n" for read in islice(reads, 9 * 20)]
        lanes.append([tmp_path / f"{lane}_{mate}.fq" for lane in range(9)])
        for lane, file in enumerate(lanes[-1]):
            file.write_text("".join(texts[lane * 20 : (lane + 1) * 20]))
    task = start({}, *[(str(first), str(second)) for first, second in zip(*lanes, strict=True)])
    assert task.wait(timeout=60) == 0
    assert json.loads((tmp_path / "step/c.json").read_text())["total_reads"] == 9 * 40
    assert len(records(tmp_path / "step/again.bam")) >= 9 * 40
    (call,) = doubles.calls
    assert call["words"][3:5] == [
        "--in-fq-list",
        str(tmp_path / "step/.parabricks-fq2bam/lanes.txt"),
    ]


@pytest.mark.parametrize("failure", ["none", "crash"])
def test_bad_reads_are_reported_though_pbrun_may_crash(
    start, doubles, tmp_path, fixture_folder, failure
):
    doubles.install("pbrun")
    doubles.set("PBRUN_DOUBLE_FAILURE", failure)
    cut = tmp_path / "cut_2.fq.gz"
    cut.write_bytes((fixture_folder / "reads_2.fq.gz").read_bytes()[:20_000])
    task = start({}, (str(fixture_folder / "reads_1.fq.gz"), str(cut)))
    assert task.wait(timeout=60) == 65
    assert json.loads((tmp_path / "step/e.json").read_text())["file"] == str(cut)
    assert not (tmp_path / "step/f.json").exists()
    assert not (tmp_path / "step/again.bam").exists()


def test_interleaved_reads_are_refused(start, doubles, tmp_path, fixture_folder):
    doubles.install("pbrun")
    task = start({}, (str(fixture_folder / "reads_1.fq.gz"),))
    assert task.wait(timeout=60) == 65
    assert "interleaved" in json.loads((tmp_path / "step/e.json").read_text())["message"]
    assert doubles.calls == []


@pytest.mark.parametrize("runtime", ["native", "docker"])
async def test_what_was_started_ends_with_its_task(start, doubles, tmp_path, runtime):
    doubles.install("pbrun", "docker")
    doubles.set("PBRUN_DOUBLE_FAILURE", "hang")
    task = await asyncio.to_thread(start, {"runtime": runtime, "image": IMAGE})
    directory = tmp_path / "step"
    hanging = directory / "hanging"
    await eventually(lambda: hanging.exists() and hanging.read_text() != "")
    double = int(hanging.read_text())
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=60) == 143
    await eventually(lambda: not alive(double))
    assert not list(doubles.containers.iterdir())
    assert not list(directory.glob(".parabricks-*"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False
