"""Slurm: settings and properties of the cluster, jobs of a run, and srun command lines."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wesemu.errors import EngineFault

ON_SLURM = frozenset({"slurm", "slurm-plugin"})
"""Executors of tasks: srun for each one; the Slurm plugin of Snakemake."""

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Settings of jobs. `options`: arguments of srun, salloc and sbatch, as `--name=value`.

    `task_cores` (the maximum for one task) and `accounting` (sacct is available) come from Slurm.
    `plugin_options`: arguments of Snakemake for an executor plugin, as `--name=value`.
    """

    partition: str = ""
    account: str = ""
    options: tuple[str, ...] = ()
    task_cores: int = 0
    accounting: bool = True
    plugin_options: tuple[str, ...] = ()


def run_slurm(*command: str) -> str:
    """Run a Slurm command; return its standard output. Blocks. Raises EngineFault."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
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
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise EngineFault(
            f"Slurm does not answer: {reason}; check that slurmctld runs and that this machine has "
            "the cluster's slurm.conf and munge key"
        )
    return done.stdout


def largest_node(partition: str) -> int:
    """Return the CPUs of the partition's largest node. Blocks. Raises EngineFault."""
    options = [f"--partition={partition}"] if partition else []
    counts = [int(line) for line in run_slurm("sinfo", "-h", "-N", "-o", "%c", *options).split()]
    if not counts:
        raise EngineFault(
            f"Slurm has no nodes in the partition {partition!r}; correct node.slurm_partition"
            if partition
            else "Slurm has no nodes"
        )
    return max(counts)


def has_accounting() -> bool:
    """Return whether the cluster stores accounting data for sacct. Blocks. Raises EngineFault."""
    for line in run_slurm("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "AccountingStorageType":
            return value.strip() not in ("accounting_storage/none", "(null)", "")
    return True


# Jobs that a killed srun or run process left behind.


def end_jobs(folder: Path) -> list[str]:
    """Cancel all jobs of this user whose working directory is `folder` or below; return their ids.

    Kills the steps first: a canceled job gives its tools half a minute. Blocks. Raises
    EngineFault if Slurm does not answer.
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
    """Return the ids of this user's jobs in or below `folder`, except completing ones."""
    home = folder.resolve()
    lines = run_slurm("squeue", "--noheader", "--me", "--format=%A %t %Z").splitlines()
    jobs = [line.strip().split(" ", 2) for line in lines if line.count(" ") >= 2]
    return [job for job, state, at in jobs if state != "CG" and Path(at).is_relative_to(home)]


# Command lines that run a task on a node.

_OPTIONS = {
    "slurm_partition": "--partition",
    "slurm_account": "--account",
    "qos": "--qos",
    "constraint": "--constraint",
    "runtime": "--time",
}
"""Resources of a rule; the Slurm plugin of Snakemake uses the same names."""

_KEPT = frozenset({"SLURM_CONF"})


@dataclass(frozen=True, slots=True)
class SlurmResources:
    """Resources that a task requests from Slurm; 0 selects the default of the cluster.

    `requested` holds further resources of the rule: `runtime` in minutes, `slurm_partition`,
    `slurm_account`, `qos`, `constraint`, `gpu_model`.
    """

    cores: int = 1
    memory_mb: int = 0
    gpus: int = 0
    requested: Mapping[str, str] = field(default_factory=dict)


def srun_argv(cluster: Cluster, wanted: SlurmResources, *, name: str, stderr: Path) -> list[str]:
    """Return the srun command line for a separate job; the command of the task follows.

    `stderr` is the log of the task; messages of srun itself do not go there.
    """
    return [
        "srun",
        *_job_options(cluster, wanted, name),
        *_shape_options(wanted),
        *_step_options(stderr),
    ]


def step_argv(allocation: str, wanted: SlurmResources, *, stderr: Path) -> list[str]:
    """Return the srun command line for a step in an allocation that tasks share."""
    return [
        "srun",
        f"--jobid={allocation}",
        "--overlap",
        *_shape_options(wanted),
        *_step_options(stderr),
    ]


def salloc_argv(cluster: Cluster, wanted: SlurmResources, *, name: str) -> list[str]:
    """Return the salloc command line: one node for a group of tasks, until canceled."""
    return ["salloc", *_job_options(cluster, wanted, name), *_shape_options(wanted), "--no-shell"]


def _job_options(cluster: Cluster, wanted: SlurmResources, name: str) -> list[str]:
    """Return the options of a job. Those of the rule come last, so they win."""
    asked = {"slurm_partition": cluster.partition, "slurm_account": cluster.account}
    asked |= wanted.requested
    options = list(cluster.options)
    if wanted.memory_mb:  # srun refuses `--mem` together with another such option
        options = [option for option in options if not option.startswith("--mem")]
    options.append(f"--job-name={name}")
    options += [f"{option}={asked[key]}" for key, option in _OPTIONS.items() if asked.get(key)]
    if wanted.memory_mb:
        options.append(f"--mem={wanted.memory_mb}M")
    if wanted.gpus:
        kind = ["gpu", *filter(None, [asked.get("gpu_model")]), str(wanted.gpus)]
        options.append(f"--gres={':'.join(kind)}")
    return options


def _shape_options(wanted: SlurmResources) -> list[str]:
    return ["--nodes=1", "--ntasks=1", f"--cpus-per-task={max(1, wanted.cores)}"]


def _step_options(stderr: Path) -> list[str]:
    """Return the options of a step. srun replaces `%x` in the file's name, so `%` is doubled."""
    file = str(stderr).replace("%", "%%")
    return ["--export=ALL", "--input=none", "--open-mode=append", f"--error={file}"]


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without SLURM_* variables.

    If the server itself runs in a job, srun would otherwise start a step of that job.
    """
    return {
        name: value
        for name, value in (environment or os.environ).items()
        if not name.startswith("SLURM_") or name in _KEPT
    }
