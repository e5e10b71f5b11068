"""The jobs of a run that nobody minds any more, because srun or the run's process was killed.

A job is a run's when it works in the run's folder: that holds for srun, salloc and the plugin,
whatever else an administrator's scripts change about a job.
"""

from pathlib import Path

from wesemu.engines.slurm.cluster import ask


def end_jobs(folder: Path) -> list[str]:
    """Cancel all jobs of this user that work in or below `folder`; their ids.

    Steps are killed first: a canceled job would give its tools half a minute. Blocks. Raises
    EngineFault where Slurm cannot be asked.
    """
    jobs = jobs_below(folder)
    if not jobs:
        return []
    steps = ask("squeue", "--noheader", "--steps", f"--jobs={','.join(jobs)}", "--format=%i")
    real = [step for step in steps.split() if step.rpartition(".")[2].isdigit()]
    if real:
        ask("scancel", "--quiet", "--signal=KILL", *real)
    ask("scancel", "--quiet", *jobs)
    return jobs


def jobs_below(folder: Path) -> list[str]:
    """The ids of this user's jobs that are not about to end, and work in or below `folder`."""
    home = folder.resolve()
    lines = ask("squeue", "--noheader", "--me", "--format=%A %t %Z").splitlines()
    found = [line.strip().split(" ", 2) for line in lines if line.count(" ") >= 2]
    return [job for job, state, place in found if state != "CG" and _is_below(place, home)]


def _is_below(place: str, home: Path) -> bool:
    return Path(place).is_relative_to(home)
