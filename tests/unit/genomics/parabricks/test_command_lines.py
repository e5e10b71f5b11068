"""The exact command lines of Parabricks.

A change here changes runs of whole genomes on GPUs, which cannot be tried here."""

import os
from pathlib import Path

import pytest

from wesemu.errors import InvalidRequest
from wesemu.genomics.mappers import Lane
from wesemu.genomics.parabricks.container import (
    Container,
    Mount,
    apptainer,
    docker,
    environment,
    mounts,
)
from wesemu.genomics.parabricks.preflight import probe
from wesemu.genomics.parabricks.step import (
    MANY_LANES,
    StepResources,
    call,
    fastq_lines,
    fq2bam,
    variants_file,
)

IMAGE = "nvcr.io/nvidia/clara/clara-parabricks:4.7.1-1"
LANES = [
    Lane("/in/a_1.fq.gz", "/in/a_2.fq.gz", "@RG\tID:L1\tLB:s\tPL:ILLUMINA\tPU:L1\tSM:s"),
    Lane("/in/b_1.fq.gz", "/in/b_2.fq.gz", "@RG\tID:L2\tLB:s\tPL:ILLUMINA\tPU:L2\tSM:s"),
]
MEANS = StepResources(gpus=2, threads=32, temporary="/fast/t")
SLIM = StepResources(gpus=1, threads=8, temporary="/t", low_memory=True, memory_limit=60)


def test_fq2bam_with_two_lanes() -> None:
    words = fq2bam("/r/genome.fa", LANES, "/o/a.bam", MEANS, metrics="/o/m", optical_distance=2500)
    assert words == [
        *("pbrun", "fq2bam", "--ref", "/r/genome.fa"),
        *("--in-fq", "/in/a_1.fq.gz", "/in/a_2.fq.gz"),
        r"@RG\tID:L1\tLB:s\tPL:ILLUMINA\tPU:L1\tSM:s",
        *("--in-fq", "/in/b_1.fq.gz", "/in/b_2.fq.gz"),
        r"@RG\tID:L2\tLB:s\tPL:ILLUMINA\tPU:L2\tSM:s",
        *("--out-bam", "/o/a.bam", "--bwa-options=-K 10000000 -Y"),
        *("--out-duplicate-metrics", "/o/m", "--optical-duplicate-pixel-distance", "2500"),
        *("--bwa-cpu-thread-pool", "32", "--num-gpus", "2", "--tmp-dir", "/fast/t"),
    ]


def test_fq2bam_without_markdup_on_a_small_card() -> None:
    words = fq2bam("/r/genome.fa", LANES[:1], "/o/a.bam", SLIM, metrics=None, optical_distance=100)
    assert words[8:] == [
        *("--out-bam", "/o/a.bam", "--bwa-options=-K 10000000 -Y", "--no-markdups"),
        *("--bwa-cpu-thread-pool", "8", "--low-memory", "--memory-limit", "60"),
        *("--num-gpus", "1", "--tmp-dir", "/t"),
    ]


LINE = r"/in/a_1.fq.gz /in/a_2.fq.gz @RG\tID:L1\tLB:s\tPL:ILLUMINA\tPU:L1\tSM:s"


def test_many_lanes_are_lines_of_a_file() -> None:
    many = LANES[:1] * (MANY_LANES + 1)
    assert fastq_lines(many, (4, 5, 0)) == f"{LINE}\n" * len(many)
    words = fq2bam("/r/genome.fa", many, "/o/a.bam", MEANS, metrics=None, fastq_list="/o/lanes.txt")
    assert words[4:8] == ["--in-fq-list", "/o/lanes.txt", "--out-bam", "/o/a.bam"]


@pytest.mark.parametrize(
    ("lanes", "version"),
    [
        (LANES[:1] * MANY_LANES, (4, 8, 0)),
        (LANES[:1] * (MANY_LANES + 1), (4, 4, 0)),
        (LANES[:1] * (MANY_LANES + 1), None),
        ([*LANES[:1] * MANY_LANES, LANES[1]._replace(second="/in/b 2.fq.gz")], (4, 8, 0)),
        ([*LANES[:1] * MANY_LANES, LANES[1]._replace(read_group="@RG\tDS:a b")], (4, 8, 0)),
    ],
)
def test_few_lanes_blanks_and_old_versions_need_the_command_line(lanes, version) -> None:
    assert fastq_lines(lanes, version) is None


@pytest.mark.parametrize(
    ("caller", "version", "gpus", "gvcf", "targets", "name"),
    [
        ("haplotypecaller", (4, 5, 1), 1, False, None, "calls.vcf.gz"),
        ("haplotypecaller", (4, 8, 0), 1, True, None, "calls.g.vcf.gz"),
        ("haplotypecaller", (4, 8, 0), 2, False, "t.bed", "calls.vcf.gz"),
        ("haplotypecaller", (4, 8, 0), 2, False, None, "calls.vcf"),  # --run-partition
        ("haplotypecaller", (4, 5, 0), 1, True, None, "calls.g.vcf"),
        ("haplotypecaller", None, 1, False, None, "calls.vcf"),
        ("deepvariant", (4, 8, 0), 1, False, None, "calls.vcf.gz"),
        ("deepvariant", (4, 8, 0), 1, True, None, "calls.g.vcf"),
    ],
)
def test_variants_are_compressed_where_pbrun_can(caller, version, gpus, gvcf, targets, name):
    assert variants_file(caller, version, gpus, gvcf=gvcf, targets=targets) == name


DIVIDED = ["--run-partition", "--gpu-num-per-partition", "1"]


@pytest.mark.parametrize(
    ("caller", "means", "gvcf", "flags"),
    [
        ("haplotypecaller", MEANS, False, DIVIDED),
        ("haplotypecaller", SLIM, True, ["--gvcf", "--htvc-low-memory"]),
        ("deepvariant", MEANS, True, ["--gvcf", *DIVIDED]),
        ("deepvariant", SLIM, False, ["--num-streams-per-gpu", "1"]),
    ],
)
def test_callers(caller, means: StepResources, gvcf: bool, flags: list[str]) -> None:
    assert call(caller, "/r/genome.fa", "/o/a.bam", "/o/c.vcf", means, gvcf=gvcf) == [
        *("pbrun", caller, "--ref", "/r/genome.fa", "--in-bam", "/o/a.bam"),
        *("--out-variants", "/o/c.vcf", *flags),
        *("--num-gpus", str(means.gpus), "--tmp-dir", means.temporary),
    ]


CONTAINER = Container(
    image=IMAGE,
    devices=("2", "5"),
    folders=(Mount(Path("/runs/one, two"), writable=True), Mount(Path("/in"))),
    directory=Path("/runs/one, two"),
    home=Path("/fast/t"),
    name="wesemu-0-fq2bam",
    user="1000:1000",
)


def test_docker_sees_the_leased_gpus_only() -> None:
    """There they count from 0, whatever their numbers are outside."""
    assert docker(CONTAINER, ["pbrun", "version"]) == [
        *("docker", "run", "--rm", "--init", "--pull", "never", "--name", "wesemu-0-fq2bam"),
        *("--gpus", '"device=2,5"', "--user", "1000:1000"),
        *("--mount", 'type=bind,"source=/runs/one, two","target=/runs/one, two"'),
        *("--mount", "type=bind,source=/in,target=/in,readonly"),
        *("--workdir", "/runs/one, two", "--env", "CUDA_VISIBLE_DEVICES=0,1"),
        *("--env", "CUDA_DEVICE_ORDER=PCI_BUS_ID", "--env", "HOME=/fast/t"),
        *(IMAGE, "pbrun", "version"),
    ]
    assert environment("docker", ("2", "5")) == {}


def test_apptainer_gets_the_gpus_of_the_lease() -> None:
    folders = (Mount(Path("/runs/one"), writable=True), Mount(Path("/in")))
    container = Container("/i/pb.sif", ("2", "5"), folders, Path("/runs/one"), Path("/t"))
    assert apptainer(container, ["pbrun", "version"]) == [
        *("apptainer", "exec", "--nv", "--cleanenv", "--no-home"),
        *("--bind", "/runs/one:/runs/one:rw", "--bind", "/in:/in:ro", "--pwd", "/runs/one"),
        *("/i/pb.sif", "pbrun", "version"),
    ]
    assert environment("apptainer", ("2", "5")) == {
        "APPTAINERENV_CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "APPTAINERENV_CUDA_VISIBLE_DEVICES": "2,5",
    }
    with pytest.raises(InvalidRequest, match="comma"):
        apptainer(CONTAINER, ["pbrun"])


def test_native_numbers_are_the_drivers() -> None:
    assert environment("native", ("3",)) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "3",
    }


def test_probes_fetch_nothing() -> None:
    user = f"{os.getuid()}:{os.getgid()}"
    start = ["docker", "run", "--rm", "--pull", "never", "--gpus"]
    assert probe("docker", IMAGE, ["pbrun", "version"]) == [
        *(*start, "all", "--user", user, IMAGE, "pbrun", "version"),
    ]
    assert probe("docker", IMAGE, ["nvidia-smi"], ("1", "3")) == [
        *(*start, '"device=1,3"', "--user", user, IMAGE, "nvidia-smi"),
    ]
    assert probe("apptainer", "/i/pb.sif", ["nvidia-smi"]) == [
        *("apptainer", "exec", "--nv", "--cleanenv", "--no-home", "/i/pb.sif", "nvidia-smi"),
    ]


def test_links_are_followed_and_folders_named_once(tmp_path: Path) -> None:
    real, run = tmp_path / "real", tmp_path / "run"
    for folder in (real / "deep", run / "tmp"):
        folder.mkdir(parents=True)
    for name in ("real/a.fq", "real/deep/b.fq", "run/c.bam"):
        (tmp_path / name).touch()
    (tmp_path / "link.fq").symlink_to(real / "a.fq")
    files = [tmp_path / "link.fq", real / "deep" / "b.fq", run / "c.bam"]
    assert mounts(readable=files, writable=[run, run / "tmp"]) == (
        Mount(run.resolve(), writable=True),
        Mount(real.resolve()),
    )


def test_ploidy_and_targets_are_passed_to_the_caller() -> None:
    means = StepResources(gpus=2, threads=16, temporary="/t")
    words = call(
        "haplotypecaller", "/r/g.fa", "/o/a.bam", "/o/c.vcf", means, ploidy=1, targets="/o/t.bed"
    )
    assert words[8:] == [
        *("--ploidy", "1", "--interval-file", "/o/t.bed"),
        *("--num-gpus", "2", "--tmp-dir", "/t"),  # pbrun refuses --run-partition with intervals
    ]
