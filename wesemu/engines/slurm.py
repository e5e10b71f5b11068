"""The cluster as the administrator has set it, and as Slurm describes it."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wesemu.errors import EngineFault

Executor = Literal["local", "slurm", "slurm-plugin"]
"""`slurm`: srun in front of each task; `slurm-plugin`: Snakemake's own plugin."""

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where jobs go. `options` are words for srun, salloc and sbatch, of the form `--name=value`.

    `task_cores`, the most that one task may have, and whether there is `accounting` (sacct) is
    for Slurm to tell.
    """

    partition: str = ""
    account: str = ""
    options: tuple[str, ...] = ()
    task_cores: int = 0
    accounting: bool = True


def run_slurm(*command: str) -> str:
    """What a command of Slurm prints. Blocks. Raises EngineFault."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise EngineFault(
            f"{command[0]} is not on PATH; install Slurm's commands on this machine, or set "
            'node.executor to "local"'
        ) from None
    except subprocess.TimeoutExpired:
        raise EngineFault(f"Slurm does not answer: {command[0]} took too long") from None
    if done.returncode != 0:
        told = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise EngineFault(
            f"Slurm does not answer: {told}; see that slurmctld runs and that this machine has "
            "the cluster's slurm.conf and munge key"
        )
    return done.stdout


def largest_node(partition: str) -> int:
    """The CPUs of the partition's (or of any) largest node. Blocks. Raises EngineFault."""
    words = [f"--partition={partition}"] if partition else []
    found = [int(line) for line in run_slurm("sinfo", "-h", "-N", "-o", "%c", *words).split()]
    if not found:
        raise EngineFault(
            f"Slurm has no nodes in the partition {partition!r}; correct node.slurm_partition"
            if partition
            else "Slurm has no nodes"
        )
    return max(found)


def has_accounting() -> bool:
    """Whether sacct knows the jobs. Blocks. Raises EngineFault."""
    for line in run_slurm("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "AccountingStorageType":
            return value.strip() not in ("accounting_storage/none", "(null)", "")
    return True


# The jobs of a run that nobody minds any more, because srun or the run's process was killed.


def end_jobs(folder: Path) -> list[str]:
    """Cancel all jobs of this user that work in or below `folder`; their ids.

    Steps are killed first: a canceled job would give its tools half a minute. Blocks. Raises
    EngineFault where Slurm cannot be asked.
    """
    jobs = jobs_below(folder)
    if not jobs:
        return []
    steps = run_slurm("squeue", "--noheader", "--steps", f"--jobs={','.join(jobs)}", "--format=%i")
    real = [step for step in steps.split() if step.rpartition(".")[2].isdigit()]
    if real:
        run_slurm("scancel", "--quiet", "--signal=KILL", *real)
    run_slurm("scancel", "--quiet", *jobs)
    return jobs


def jobs_below(folder: Path) -> list[str]:
    """The ids of this user's jobs that are not about to end, and work in or below `folder`."""
    home = folder.resolve()
    lines = run_slurm("squeue", "--noheader", "--me", "--format=%A %t %Z").splitlines()
    found = [line.strip().split(" ", 2) for line in lines if line.count(" ") >= 2]
    return [job for job, state, place in found if state != "CG" and _is_below(place, home)]


def _is_below(place: str, home: Path) -> bool:
    return Path(place).is_relative_to(home)


# The command lines that put a task's command on a node.


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
class SlurmResources:
    """What a task asks of Slurm; 0 leaves it to the cluster's defaults.

    `requested` are more of the rule's resources: `runtime` in minutes, `slurm_partition`,
    `slurm_account`, `qos`, `constraint`, `gpu_model`.
    """

    cores: int = 1
    memory_mb: int = 0
    gpus: int = 0
    requested: Mapping[str, str] = field(default_factory=dict)


def srun_argv(cluster: Cluster, need: SlurmResources, *, name: str, stderr: Path) -> list[str]:
    """srun for a job of its own; the command follows. `stderr` is the task's: srun's own words
    are kept apart from it."""
    return ["srun", *_job(cluster, need, name), *_shape(need), *_step(stderr)]


def step_argv(allocation: str, need: SlurmResources, *, stderr: Path) -> list[str]:
    """srun within an allocation that tasks share."""
    return ["srun", f"--jobid={allocation}", "--overlap", *_shape(need), *_step(stderr)]


def salloc_argv(cluster: Cluster, need: SlurmResources, *, name: str) -> list[str]:
    """An allocation on one node for tasks that run together; it stays until it is canceled."""
    return ["salloc", *_job(cluster, need, name), *_shape(need), "--no-shell"]


def _job(cluster: Cluster, need: SlurmResources, name: str) -> list[str]:
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


def _shape(need: SlurmResources) -> list[str]:
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
