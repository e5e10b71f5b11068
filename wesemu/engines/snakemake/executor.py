"""Controls the jobs of a warm run, as the `Watcher` of executor plugin and hooks.

Parts: `TaskLeases` (leases of jobs and groups) and `JobController`, which records jobs as tasks,
starts their processes, and ends them with their group or on cancel.
"""

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from wesemu.engines.attempt import Attempt, TaskProcess
from wesemu.engines.failures import relative_logs, slurm_hint, task_failure
from wesemu.engines.leases import Lease, LeaseClient
from wesemu.engines.processes import send_group, start_when_possible
from wesemu.engines.run_process import CANCELED
from wesemu.engines.snakemake.backends import Backend, BackendRefused
from wesemu.engines.snakemake.hooks import JobFacts
from wesemu.engines.task_recorder import Ended, TaskFacts, TaskRecorder, job_key
from wesemu.runs.model import Resources, RunFailure, TaskState
from wesemu.runs.run_directory import Workspace

# Leases: one for each job, or one for a group of jobs.


@dataclass(slots=True)
class _SharedLease:
    """A lease and the number of its users: the members, and the group itself."""

    lease: Lease
    users: int = 1


class TaskLeases:
    """Leases of jobs and groups. Thread-safe. Without a client, there are no leases."""

    def __init__(self, client: LeaseClient | None) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._groups = dict[int, _SharedLease]()
        self._entered = dict[int, _SharedLease]()

    def enter(self, jobid: int, wanted: Resources | None) -> Lease | None:
        """Block until the job may start; return its lease, or None if it needs none.

        A job of a group that has its lease already shares it and does not block. Raises
        LeasesClosed, OSError.
        """
        with self._lock:
            share = self._groups.get(jobid)
            if share is not None:
                share.users += 1
        if share is None:
            share = self._take(wanted)
        if share is None:
            return None
        with self._lock:
            self._entered[jobid] = share
        return share.lease

    def leave(self, jobid: int) -> None:
        """Release the lease of the job, if it has one."""
        with self._lock:
            share = self._entered.pop(jobid, None)
        self._release(share)

    def enter_group(self, jobids: Iterable[int], wanted: Resources | None) -> None:
        """Block until a group may start. Its jobs share one lease, so they cannot deadlock.

        Raises like `enter`.
        """
        share = self._take(wanted)
        if share is not None:
            with self._lock:
                self._groups |= dict.fromkeys(jobids, share)

    def leave_group(self, jobids: Iterable[int]) -> None:
        """Release the lease of the group once all its members have left as well."""
        with self._lock:
            shares = [self._groups.pop(jobid, None) for jobid in jobids]
        self._release(shares[0] if shares else None)

    def close(self) -> None:
        """Raise LeasesClosed in waiting and later calls of `enter`."""
        if self._client is not None:
            self._client.close()

    def _take(self, wanted: Resources | None) -> _SharedLease | None:
        if self._client is None or wanted is None or wanted == Resources(cores=0):
            return None
        return _SharedLease(self._client.take(wanted))

    def _release(self, share: _SharedLease | None) -> None:
        if share is None:
            return
        with self._lock:
            share.users -= 1
            if share.users:
                return
        share.lease.release()


def _likely_cause(failed: tuple[JobFacts, Attempt]) -> tuple[bool, bool, datetime]:
    """Sort key for failed jobs of a pipe: by time, but broken pipes (SIGPIPE) and successes last.

    When a writer fails, its reader ends as well, and that end may be noticed first.
    """
    attempt = failed[1]
    code = attempt.task.exit_code
    return code == 0, code == _BROKEN_PIPE, attempt.ended_at


def _task(job: JobFacts) -> TaskFacts:
    key = job_key(job.rule, job.wildcards, job.outputs)
    return TaskFacts(
        id=job.jobid,
        name=job.rule,
        key=key,
        wildcards=job.wildcards,
        command=job.command,
        threads=job.threads,
        attempt=job.attempt,
        inputs=job.inputs,
        outputs=job.outputs,
        after=job.after,
    )


_PAUSE_SECONDS = 0.02
_BROKEN_PIPE = 128 + signal.SIGPIPE
_BROKEN_PIPE_SECONDS = 1.0

StartPython = Callable[[list[str], str, Attempt, Callable[[int], None]], int]
"""(arguments, directory, attempt, callback with the process group) -> exit status."""


class GroupEnded(RuntimeError):
    """Another job of the group has failed; this one does not start."""


class JobController:
    """Implements `hooks.Watcher` for one run."""

    def __init__(
        self,
        workspace: Workspace,
        recorder: TaskRecorder,
        start_python: StartPython,
        leases: TaskLeases,
        backend: Backend,
    ) -> None:
        self._workspace = workspace
        self._recorder = recorder
        self._event_log = recorder.event_log
        self._start_python = start_python
        self._leases = leases
        self._backend = backend
        self._lock = recorder.lock
        self._thread = threading.local()
        self._processes = dict[int, TaskProcess]()
        self._ended_groups = set[int]()
        self._error = ""
        self._stop: Callable[[], None] | None = None
        self.task_failed = False

    def scheduled(self, jobs: Iterable[JobFacts], stop: Callable[[], None]) -> None:
        with self._lock:
            self._stop = stop
            self._plan(jobs)
            self._recorder.plan()

    def replanned(self, jobs: Iterable[JobFacts]) -> None:
        with self._lock:
            total = self._recorder.total
            self._plan(jobs)
            if self._recorder.total != total:
                self._recorder.progress()

    def _plan(self, jobs: Iterable[JobFacts]) -> None:
        # All get their numbers first: a record names the tasks that it needs by number.
        added = [job for job in jobs if job.works and self._recorder.add(_task(job))]
        for job in added:
            self._recorder.queue(_task(job))

    def entered(self, job: JobFacts) -> None:
        self._thread.attempt, self._thread.job = None, job
        if not job.works:
            return
        with self._lock:
            self._plan([job])  # it has a number unless a checkpoint has added it
            self._raise_if_ended(job.jobid)
            self._recorder.ready(job.jobid)
        # Blocks, so without the lock: other jobs start and end meanwhile.
        lease = self._leases.enter(job.jobid, job.wanted)
        try:
            self._thread.attempt = self._recorder.begin(_task(job), lease)
        except BaseException:
            self._leases.leave(job.jobid)
            raise

    def left(self, jobid: int) -> None:
        self._leases.leave(jobid)
        with self._lock:
            self._processes.pop(jobid, None)

    def group_entered(
        self, jobids: list[int], wanted: Resources | None, requested: Mapping[str, str]
    ) -> None:
        with self._lock:
            self._ended_groups.difference_update(jobids)  # from an earlier attempt
            self._thread.members = jobids
        self._leases.enter_group(jobids, wanted)
        try:
            self._backend.enter_group(jobids, wanted, requested)
        except BackendRefused as refusal:
            self._leases.leave_group(jobids)
            self._report_refusal(str(refusal))
            raise

    def _report_refusal(self, reason: str) -> None:
        with self._lock:
            self.task_failed = True
            if not self._recorder.canceled:
                message = f"a group of jobs could not start: {reason.splitlines()[-1]}"
                self._event_log.error(RunFailure(message, hint=slurm_hint(reason)))

    def end_group(self, jobids: list[int]) -> None:
        """End a group of jobs.

        If its only failures are broken pipes, wait a second before: the cause is a failure of their
        reader, which ends by itself and then has its own exit status.
        """
        with self._lock:
            self._ended_groups.update(jobids)
            attempts = [self._recorder.running(jobid) for jobid in jobids]
            codes = {attempt.task.exit_code for attempt in attempts if attempt} - {None, 0}
            if codes != {_BROKEN_PIPE}:
                self._kill(jobids)
                return
        timer = threading.Timer(_BROKEN_PIPE_SECONDS, self._kill, [jobids])
        timer.daemon = True
        timer.start()

    def _kill(self, jobids: list[int]) -> None:
        with self._lock:
            for jobid in self._ended_groups.intersection(jobids):
                if (process := self._processes.get(jobid)) is not None:
                    process.kill()

    def _raise_if_ended(self, jobid: int) -> None:
        if jobid in self._ended_groups:
            if (attempt := self._recorder.running(jobid)) is not None:
                attempt.signaled = True  # so it is CANCELED, not failed
            raise GroupEnded("another job of its group has failed")

    def group_left(self, jobids: list[int]) -> None:
        self._thread.members = []
        self._backend.leave_group(jobids)
        self._leases.leave_group(jobids)

    def spawn(self, command: str, options: dict[str, Any]) -> "subprocess.Popen[Any]":
        attempt: Attempt | None = getattr(self._thread, "attempt", None)
        if attempt is None:  # a command outside of jobs, such as `shell()` in the Snakefile
            return subprocess.Popen(command, **options)
        attempt.note_command(plain_command(command))
        if attempt.task.command is None:
            attempt.task = replace(attempt.task, command=plain_command(command))
        # Output goes to the logs of the attempt, except if Snakemake reads it.
        options.pop("stderr", None)
        if options.get("stdout") != subprocess.PIPE:
            options.pop("stdout", None)
        job = self._thread.job

        def start(ended: Ended, **options: Any) -> TaskProcess:
            return self._backend.start(job, attempt, command, ended, options)

        def spawn() -> TaskProcess:
            with self._lock:
                self._raise_if_ended(job.jobid)
                process = self._processes[job.jobid] = self._recorder.spawn(attempt, start, options)
            return process

        return start_when_possible(spawn)

    def run_remotely(self, command: str) -> int | None:
        if not self._backend.is_remote(self._thread.job):
            return None
        return self.spawn(command, {"shell": True}).wait()

    def run_python(self, job: JobFacts, arguments: list[str], directory: str) -> int:
        attempt = self._recorder.running(job.jobid)
        assert attempt is not None
        attempt.note_command(f"python -m snakemake {shlex.join(arguments)}")
        self._recorder.raise_if_canceled()
        groups = list[int]()

        def started(group: int) -> None:
            with self._lock:
                groups.append(group)
                self._recorder.register(attempt, group)
                if self._recorder.canceled:
                    send_group(group, signal.SIGTERM)

        code = self._start_python(arguments, directory, attempt, started)
        for group in groups:
            self._recorder.unregister(group)
        return code

    def pause(self, seconds: float) -> bool:
        """Wait before the next look for the file of a service."""
        time.sleep(min(seconds, _PAUSE_SECONDS))
        members = getattr(self._thread, "members", [])
        return not self._recorder.canceled and self._ended_groups.isdisjoint(members)

    def logged_error(self, message: str) -> None:
        attempt: Attempt | None = getattr(self._thread, "attempt", None)
        with self._lock:
            if attempt is not None:
                attempt.error = message
            else:
                self._error = message

    def finished(self, jobid: int) -> None:
        with self._lock:
            if (attempt := self._recorder.running(jobid)) is not None:
                attempt.task = replace(attempt.task, exit_code=0)
                self._recorder.end(jobid, succeeded=True)

    def failed(self, jobs: list[JobFacts], final: bool) -> None:
        with self._lock:
            error, self._error = self._error, ""
            failed = [
                (job, attempt)
                for job in jobs
                if (attempt := self._recorder.running(job.jobid)) is not None
            ]
            for job, attempt in sorted(failed, key=_likely_cause):
                self.task_failed = True
                self._recorder.end(job.jobid, succeeded=False)
                if final and attempt.task.state is TaskState.EXECUTOR_ERROR:
                    self._report_failure(job, attempt, attempt.error or error)

    def _report_failure(self, job: JobFacts, attempt: Attempt, error: str) -> None:
        wildcards = ", ".join(f"{name}={value}" for name, value in job.wildcards.items())
        logs = [attempt.evidence] if attempt.evidence else []
        logs += [attempt.task.stderr or "", *relative_logs(self._workspace, job.logs)]
        code = attempt.task.exit_code
        self._event_log.error(
            task_failure(job.rule, wildcards, code, error, self._workspace.root, logs)
        )

    def cancel(self) -> None:
        """End the tools. Their jobs then fail, and Snakemake removes the partial outputs."""
        with self._lock:
            self.task_failed = True  # so no failure of the workflow is reported
            if self._stop is None:  # still planning: there are no tools and no outputs
                os._exit(CANCELED)
            self._recorder.cancel()
            stop = self._stop
        self._leases.close()
        self._backend.cancel()
        stop()


def plain_command(command: str) -> str:
    """Return a shell command without the strict mode prefix of Snakemake."""
    return command.removeprefix("set -euo pipefail;").strip()
