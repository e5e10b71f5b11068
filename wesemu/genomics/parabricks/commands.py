"""The words of every `pbrun` command, as NVIDIA's toolkit reference of 4.7 has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wesemu.genomics.alignment import Lane

Caller = Literal["haplotypecaller", "deepvariant"]

BWA_OPTIONS = "-K 10000000 -Y"
"""Those of the CPU's bwa."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a step may use: `gpus` devices, `threads` of the CPU, the folder `temporary`, and host
    memory up to `memory_limit` GB (None: pbrun's own choice)."""

    gpus: int
    threads: int
    temporary: str
    low_memory: bool = False
    memory_limit: int | None = None


def fq2bam(
    reference: str,
    lanes: Sequence[Lane],
    bam: str,
    means: Means,
    *,
    metrics: str | None,
    optical_distance: int = 0,
) -> list[str]:
    """Map all lanes, sort and mark duplicates; `metrics` is None where they are not marked."""
    words = ["pbrun", "fq2bam", "--ref", reference]
    for lane in lanes:
        group = lane.read_group.replace("\t", "\\t")
        words += ["--in-fq", lane.first, lane.second or "", group]
    words += ["--out-bam", bam, f"--bwa-options={BWA_OPTIONS}"]
    if metrics is None:
        words.append("--no-markdups")
    else:
        words += ["--out-duplicate-metrics", metrics]
        if optical_distance:
            words += ["--optical-duplicate-pixel-distance", str(optical_distance)]
    words += ["--bwa-cpu-thread-pool", str(means.threads)]
    if means.low_memory:
        words.append("--low-memory")
    if means.memory_limit is not None:
        words += ["--memory-limit", str(means.memory_limit)]
    return [*words, *_common(means)]


def call(
    caller: Caller,
    reference: str,
    bam: str,
    variants: str,
    means: Means,
    *,
    gvcf: bool = False,
    ploidy: int = 2,
    targets: str | None = None,
) -> list[str]:
    """Call variants. With `gvcf` haplotypecaller writes a gVCF to `variants` instead of a VCF,
    deepvariant one beside it. `targets` is a BED file; a `ploidy` of 1 is haplotypecaller's."""
    words = ["pbrun", caller, "--ref", reference, "--in-bam", bam, "--out-variants", variants]
    if gvcf:
        words.append("--gvcf")
    if ploidy != 2:
        words += ["--ploidy", str(ploidy)]
    if targets is not None:
        words += ["--interval-file", targets]
    if means.low_memory:
        slim = {
            "haplotypecaller": ["--htvc-low-memory"],
            "deepvariant": ["--num-streams-per-gpu", "1"],
        }
        words += slim[caller]
    return [*words, *_common(means)]


def _common(means: Means) -> list[str]:
    return ["--num-gpus", str(means.gpus), "--tmp-dir", means.temporary]
