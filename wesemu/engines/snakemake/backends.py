"""Where the commands of a run's tasks run: on this machine, or on a cluster's nodes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from wesemu.engines import slurm_task
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
from wesemu.engines.task_recorder import Attempt, TaskProcess, Usage
from wesemu.errors import EngineFault
from wesemu.runs.model import Resources
from wesemu.runs.run_directory import Workspace

Ended = Callable[[int, Usage], None]
"""Told once: the exit status, and what was used."""


class Backend(Protocol):
    """Thread-safe."""

    def is_remote(self, job: JobFacts) -> bool:
        """Whether the job, once it is ready, does not run in this machine's own processes."""
        ...

    def start(
        self, job: JobFacts, attempt: Attempt, command: str, ended: Ended, options: dict[str, Any]
    ) -> TaskProcess:
        """Start a shell command; `options` are those of Popen."""
        ...

    def enter_group(
        self, jobids: Iterable[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        """Blocks until jobs that run together may start. Raises PlaceRefused."""
        ...

    def leave_group(self, jobids: Iterable[int]) -> None: ...

    def cancel(self) -> None:
        """Whoever waits in `enter_group` gets PlaceRefused."""
        ...


class BackendRefused(RuntimeError):
    """Jobs that run together were given no place."""


class LocalBackend:
    """Implements Place."""

    def is_remote(self, job: JobFacts) -> bool:
        return False

    def start(
        self, job: JobFacts, attempt: Attempt, command: str, ended: Ended, options: dict[str, Any]
    ) -> TaskProcess:
        return TaskProcess(command, ended, **options)

    def enter_group(
        self, jobids: Iterable[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        """They share this machine."""

    def leave_group(self, jobids: Iterable[int]) -> None:
        """Nothing was taken."""

    def cancel(self) -> None:
        """Nobody waits."""


# srun in front of the tasks of a run.


_GRANTED = re.compile(r"job allocation (\d+)")


class SlurmBackend:
    """Implements `places.Place`: a job of Slurm for each task, one for those of a pipe together.
    Local rules run here."""

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
        if job.wanted is None:
            return TaskProcess(command, ended, **options)
        report = attempt.folder / "node.json"

        def reported(code: int, _: Usage) -> None:
            facts = read_report(report)
            note_node(attempt, facts)
            if code != 0 and is_refusal(log_tail(attempt.folder / "srun")):
                attempt.evidence = f"{attempt.folder.relative_to(self._root)}/srun"
            ended(code, Usage(facts.get("cpu_seconds"), facts.get("peak_memory")))

        shell = options.pop("executable", None) or "/bin/sh"
        words = [
            *self._words(job, attempt),
            *(sys.executable, "-I", "-S", slurm_task.__file__, str(report), shell, "-c", command),
        ]
        changed = {"shell": False, "env": job_environment(options.get("env") or {})}
        with os.fdopen(attempt.open("srun"), "wb") as talk:
            return SrunProcess(words, reported, **{**options, **changed, "stderr": talk})

    def _words(self, job: JobFacts, attempt: Attempt) -> list[str]:
        assert job.wanted is not None
        need, stderr = _need(job.wanted, job.requested), attempt.folder / "stderr"
        with self._lock:
            allocation = self._allocations.get(job.jobid)
        if allocation is not None:
            return step_argv(allocation, need, stderr=stderr)
        name = f"{self._run_id}/{job.rule}-{attempt.folder.name}"
        return srun_argv(self._cluster, need, name=name, stderr=stderr)

    def enter_group(
        self, jobids: Iterable[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        if wanted is None:
            return
        members = list(jobids)
        name = f"{self._run_id}/group-{min(members)}"
        allocation = self._allocate(salloc_argv(self._cluster, _need(wanted, requested), name=name))
        with self._lock:
            self._allocations |= dict.fromkeys(members, allocation)

    def _allocate(self, words: list[str]) -> str:
        with self._lock:
            if self._canceled:
                raise BackendRefused("the run was canceled")
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=job_environment({}),
                process_group=0,
            )
            self._waiting.add(process.pid)
        _, told = process.communicate()
        with self._lock:
            self._waiting.discard(process.pid)
        granted = _GRANTED.search(told) if process.returncode == 0 else None
        if granted is None:
            raise BackendRefused(told.strip() or f"salloc ended with {process.returncode}")
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
    """On SIGTERM srun has Slurm kill the task and waits for that; were it killed itself, the task
    would run on."""

    def send_signal(self, number: int) -> None:
        super().send_signal(signal.SIGTERM if number == signal.SIGKILL else number)


def _need(wanted: Resources, requested: Mapping[str, str]) -> SlurmResources:
    return SlurmResources(wanted.cores, wanted.memory_mb, wanted.gpus, requested)


def read_report(path: Path) -> dict[str, Any]:
    """What `slurm.task` has written; nothing where it was killed early."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts


def note_node(attempt: Attempt, facts: Mapping[str, Any]) -> None:
    """Where the attempt ran; it began when its first command did, not while that was queued."""
    if not facts or attempt.node:
        return
    attempt.node = {"node": str(facts["node"]), "slurm_job": str(facts["job"])}
    attempt.begin(datetime.fromtimestamp(facts["started"], UTC))
