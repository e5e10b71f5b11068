"""The command lines that put a task's command on a node."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wesemu.engines.slurm.cluster import Cluster

_OPTIONS = {
    "slurm_partition": "--partition",
    "slurm_account": "--account",
    "qos": "--qos",
    "constraint": "--constraint",
    "runtime": "--time",
}
"""Resources of a rule, by the names that Snakemake's plugin for Slurm knows as well."""

_KEPT = frozenset({"SLURM_CONF"})


@dataclass(frozen=True, slots=True)
class Need:
    """What a task asks of Slurm; 0 leaves it to the cluster's defaults.

    `requested` are more of the rule's resources: `runtime` in minutes, `slurm_partition`,
    `slurm_account`, `qos`, `constraint`, `gpu_model`.
    """

    cores: int = 1
    memory_mb: int = 0
    gpus: int = 0
    requested: Mapping[str, str] = field(default_factory=dict)


def srun_words(cluster: Cluster, need: Need, *, name: str, stderr: Path) -> list[str]:
    """srun for a job of its own; the command follows. `stderr` is the task's: srun's own words
    are kept apart from it."""
    return ["srun", *_job(cluster, need, name), *_shape(need), *_step(stderr)]


def step_words(allocation: str, need: Need, *, stderr: Path) -> list[str]:
    """srun within an allocation that tasks share."""
    return ["srun", f"--jobid={allocation}", "--overlap", *_shape(need), *_step(stderr)]


def salloc_words(cluster: Cluster, need: Need, *, name: str) -> list[str]:
    """An allocation on one node for tasks that run together; it stays until it is canceled."""
    return ["salloc", *_job(cluster, need, name), *_shape(need), "--no-shell"]


def _job(cluster: Cluster, need: Need, name: str) -> list[str]:
    """The administrator's options first: what a rule asks for wins."""
    asked = {"slurm_partition": cluster.partition, "slurm_account": cluster.account}
    asked |= need.requested
    words = [word for word in cluster.options if not (need.memory_mb and _is_memory(word))]
    words.append(f"--job-name={name}")
    words += [f"{option}={asked[key]}" for key, option in _OPTIONS.items() if asked.get(key)]
    if need.memory_mb:
        words.append(f"--mem={need.memory_mb}M")
    if need.gpus:
        kind = ["gpu", *filter(None, [asked.get("gpu_model")]), str(need.gpus)]
        words.append(f"--gres={':'.join(kind)}")
    return words


def _is_memory(word: str) -> bool:
    """srun refuses `--mem` beside `--mem-per-cpu`."""
    return word.startswith("--mem")


def _shape(need: Need) -> list[str]:
    return ["--nodes=1", "--ntasks=1", f"--cpus-per-task={max(1, need.cores)}"]


def _step(stderr: Path) -> list[str]:
    """srun itself writes the file; in its name % would stand for something else."""
    file = str(stderr).replace("%", "%%")
    return ["--export=ALL", "--input=none", "--open-mode=append", f"--error={file}"]


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what a job that the server itself runs in would add: srun would stay within it."""
    return {
        name: value
        for name, value in (environment or os.environ).items()
        if not name.startswith("SLURM_") or name in _KEPT
    }
