"""Backends that run the commands of tasks: local processes, or srun on a cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wesemu.engines import slurm_task
from wesemu.engines.attempt import Attempt, TaskProcess, Usage
from wesemu.engines.failures import is_refusal, log_tail
from wesemu.engines.processes import send_group
from wesemu.engines.slurm import (
    Cluster,
    SlurmResources,
    job_environment,
    run_slurm,
    salloc_argv,
    srun_argv,
    step_argv,
)
from wesemu.engines.snakemake.hooks import JobFacts
from wesemu.engines.task_recorder import Ended
from wesemu.errors import EngineFault
from wesemu.runs.model import Resources
from wesemu.runs.run_directory import Workspace


class Backend:
    """Runs the commands of tasks as processes of this machine. Thread-safe."""

    def is_remote(self, job: JobFacts) -> bool:
        """Return whether a ready job runs on another machine."""
        return False

    def start(
        self, job: JobFacts, attempt: Attempt, command: str, ended: Ended, options: dict[str, Any]
    ) -> TaskProcess:
        """Start a shell command with Popen `options`."""
        return TaskProcess(command, ended, **options)

    def enter_group(
        self, jobids: Iterable[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        """Block until a group of jobs may start. Raises BackendRefused."""

    def leave_group(self, jobids: Iterable[int]) -> None:
        """Release what `enter_group` has taken."""

    def cancel(self) -> None:
        """Raise BackendRefused in calls that wait in `enter_group`."""


class BackendRefused(RuntimeError):
    """The backend cannot start a group of jobs."""


# Slurm.

_GRANTED = re.compile(r"job allocation (\d+)")


class SlurmBackend(Backend):
    """Runs each task as a Slurm job, and the jobs of a pipe as steps of one job.

    Local rules run on this machine.
    """

    def __init__(self, workspace: Workspace, cluster: Cluster) -> None:
        self._run_id = workspace.root.name
        self._root = workspace.root
        self._cluster = cluster
        self._lock = threading.Lock()
        self._allocations = dict[int, str]()
        self._waiting = set[int]()
        self._canceled = False

    def is_remote(self, job: JobFacts) -> bool:
        return job.wanted is not None

    def start(
        self, job: JobFacts, attempt: Attempt, command: str, ended: Ended, options: dict[str, Any]
    ) -> TaskProcess:
        if job.wanted is None:  # a local rule
            return super().start(job, attempt, command, ended, options)
        report = attempt.folder / "node.json"

        def reported(code: int, _: Usage) -> None:
            facts = read_report(report)
            note_node(attempt, facts)
            if code != 0 and is_refusal(log_tail(attempt.folder / "srun")):
                attempt.evidence = f"{attempt.folder.relative_to(self._root)}/srun"
            ended(code, Usage(facts.get("cpu_seconds"), facts.get("peak_memory")))

        shell = options.pop("executable", None) or "/bin/sh"
        argv = [
            *self._argv(job, attempt),
            *(sys.executable, "-I", "-S", slurm_task.__file__, str(report), shell, "-c", command),
        ]
        changed = {"shell": False, "env": job_environment(options.get("env") or {})}
        with os.fdopen(attempt.open("srun"), "wb") as stderr:
            return SrunProcess(argv, reported, **{**options, **changed, "stderr": stderr})

    def _argv(self, job: JobFacts, attempt: Attempt) -> list[str]:
        assert job.wanted is not None
        needed, stderr = _slurm_resources(job.wanted, job.requested), attempt.folder / "stderr"
        with self._lock:
            allocation = self._allocations.get(job.jobid)
        if allocation is not None:
            return step_argv(allocation, needed, stderr=stderr)
        name = f"{self._run_id}/{job.rule}-{attempt.folder.name}"
        return srun_argv(self._cluster, needed, name=name, stderr=stderr)

    def enter_group(
        self, jobids: Iterable[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        if wanted is None:
            return
        members = list(jobids)
        name = f"{self._run_id}/group-{min(members)}"
        allocation = self._allocate(
            salloc_argv(self._cluster, _slurm_resources(wanted, requested), name=name)
        )
        with self._lock:
            self._allocations |= dict.fromkeys(members, allocation)

    def _allocate(self, argv: list[str]) -> str:
        with self._lock:
            if self._canceled:
                raise BackendRefused("the run was canceled")
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=job_environment({}),
                process_group=0,
            )
            self._waiting.add(process.pid)
        _, stderr = process.communicate()
        with self._lock:
            self._waiting.discard(process.pid)
        granted = _GRANTED.search(stderr) if process.returncode == 0 else None
        if granted is None:
            raise BackendRefused(stderr.strip() or f"salloc ended with {process.returncode}")
        return granted[1]

    def leave_group(self, jobids: Iterable[int]) -> None:
        with self._lock:
            allocations = {self._allocations.pop(jobid, None) for jobid in jobids}
        for allocation in allocations - {None}:
            try:
                run_slurm("scancel", "--quiet", str(allocation))
            except EngineFault as fault:
                sys.stderr.write(f"wesemu: {fault}\n")

    def cancel(self) -> None:
        with self._lock:
            self._canceled = True
            for group in self._waiting:
                send_group(group, signal.SIGTERM)


class SrunProcess(TaskProcess):
    """srun for one task.

    On SIGTERM, srun lets Slurm kill the task and waits for its end. A killed srun would leave the
    task running, so SIGKILL becomes SIGTERM.
    """

    def send_signal(self, number: int) -> None:
        super().send_signal(signal.SIGTERM if number == signal.SIGKILL else number)


def _slurm_resources(wanted: Resources, requested: Mapping[str, str]) -> SlurmResources:
    return SlurmResources(wanted.cores, wanted.memory_mb, wanted.gpus, requested)


def read_report(path: Path) -> dict[str, Any]:
    """Return the report of `slurm_task`; empty if `slurm_task` was killed before it wrote one."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts


def note_node(attempt: Attempt, facts: Mapping[str, Any]) -> None:
    """Set the attempt's node, and its start time: the task has waited in Slurm's queue before."""
    if not facts or attempt.node:
        return
    attempt.node = {"node": str(facts["node"]), "slurm_job": str(facts["job"])}
    attempt.begin(datetime.fromtimestamp(facts["started"], UTC))
