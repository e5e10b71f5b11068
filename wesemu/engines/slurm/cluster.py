"""The cluster as the administrator has set it, and as Slurm describes it."""

import subprocess
from dataclasses import dataclass
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


def ask(*command: str) -> str:
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
    found = [int(line) for line in ask("sinfo", "-h", "-N", "-o", "%c", *words).split()]
    if not found:
        raise EngineFault(
            f"Slurm has no nodes in the partition {partition!r}; correct node.slurm_partition"
            if partition
            else "Slurm has no nodes"
        )
    return max(found)


def has_accounting() -> bool:
    """Whether sacct knows the jobs. Blocks. Raises EngineFault."""
    for line in ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "AccountingStorageType":
            return value.strip() not in ("accounting_storage/none", "(null)", "")
    return True
